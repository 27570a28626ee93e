"""Stands in for pydicom-seg, which does not import with pydicom 3: reading DICOM SEG by highdicom.

MONAI Label writes them with dcmqi and asks this package for the reader only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

template = None
MultiClassWriter = None


@dataclass
class Result:
    """A label map as a SimpleITK image."""

    image: Any


class MultiClassReader:
    """Reads segments that do not overlap."""

    def read(self, dataset: Any) -> Result:
        """The label map of a segmentation, on the grid of the images that it refers to where they are whole."""
        import highdicom
        import numpy as np
        import SimpleITK as sitk  # noqa: N813

        volume = highdicom.seg.Segmentation.from_dataset(dataset).get_volume(combine_segments=True)
        # highdicom's axes are planes, rows, columns: the last runs fastest, which is SimpleITK's first
        image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.astype(np.uint8)))
        affine = volume.get_affine("LPS")
        columns = affine[:3, :3][:, ::-1]
        spacing = np.linalg.norm(columns, axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((columns / spacing).flatten().tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        return Result(image)
