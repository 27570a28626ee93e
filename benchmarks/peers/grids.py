"""What the user of a peer that resamples nothing writes: scans brought to a spacing, and predictions brought back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import SimpleITK as sitk  # noqa: N813  its own documents call it so


def to_spacing(scan: sitk.Image, spacing_mm: Sequence[float], *, is_label: bool = False) -> sitk.Image:
    """Give a scan, or a label map, voxels of other sides over the same field of view.

    Its axes are turned to x, y and z first, so that `spacing_mm` means the same for all scans. Intensities are
    interpolated linearly; a voxel gets the label with most weight around it, by a Gaussian: with linear weights half
    a border that lies between two voxels is a tie, and structures shrink. What is sampled outside of the scan, where
    its size does not come out even, repeats its border.

    Args:
        scan: a volume with any affine of right angles; labels as integers.
        spacing_mm: sides of a voxel along x, y and z.
        is_label: whether `scan` is a label map.

    Returns:
        Volume of 32-bit floats, or of the label map's type.

    Example:
        >>> to_spacing(sitk.Image(20, 20, 10, sitk.sitkUInt8), (2.0, 2.0, 1.0)).GetSize()
        (10, 10, 10)
    """
    turned = sitk.DICOMOrient(scan, "LPS")
    ratios = [new / old for new, old in zip(spacing_mm, turned.GetSpacing(), strict=True)]
    size = [max(1, round(n / ratio)) for n, ratio in zip(turned.GetSize(), ratios, strict=True)]
    sides = zip(turned.GetSize(), size, ratios, strict=True)
    first = [(n - 1 - (m - 1) * ratio) / 2 for n, m, ratio in sides]  # both grids have one centre
    origin = turned.TransformContinuousIndexToPhysicalPoint(first)
    kind = (sitk.sitkLabelGaussian, scan.GetPixelID()) if is_label else (sitk.sitkLinear, sitk.sitkFloat32)
    grid = (origin, list(spacing_mm), turned.GetDirection())
    return sitk.Resample(turned, size, sitk.Transform(), kind[0], *grid, 0, kind[1], True)


def labels_on(scan: sitk.Image, probabilities: Iterable[sitk.Image]) -> sitk.Image:
    """Make of probabilities on another grid a label map on the grid of a scan: its size, spacing, origin and axes.

    Args:
        scan: gives the grid.
        probabilities: a volume for each class, beginning with the background; interpolated linearly.

    Returns:
        Label map of 8 bits: the most probable class of each voxel.
    """
    highest, labels = -1.0, np.zeros(scan.GetSize()[::-1], np.uint8)
    for value, coarse in enumerate(probabilities):
        fine = sitk.Resample(coarse, scan, sitk.Transform(), sitk.sitkLinear, 0, sitk.sitkFloat32, True)
        probability = sitk.GetArrayViewFromImage(fine)
        labels[probability > highest] = value
        highest = np.maximum(highest, probability)
    result = sitk.GetImageFromArray(labels)
    result.CopyInformation(scan)
    return result
