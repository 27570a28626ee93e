"""Label maps in the formats that clients of the server ask for."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import SimpleITK as sitk  # noqa: N813 - the name everyone knows
from nibabel.nifti2 import Nifti2Header

from medseg.consensus.io.write_results import itk_image
from medseg.portable.io.nifti.header import decode_header
from medseg.portable.io.read import read_volume

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""What is offered; results are made as the first."""


def convert(result: Path, other: Path, *, compress: bool) -> None:
    """Write a label map once more.

    Args:
        result: `.nii.gz`.
        other: the new file; `.nii`, `.nrrd` or `.mha` by its ending.
        compress: NRRD and MetaImage.

    Raises:
        RuntimeError, OSError: it cannot be written.
    """
    if other.suffix == ".nii":
        _inflate(result, other)
    else:
        sitk.WriteImage(_as_itk_places_it(result), str(other), useCompression=compress)


def _inflate(packed: Path, plain: Path) -> None:
    """The same bytes uncompressed: ITK would write one placement in place of the image's two."""
    with gzip.open(packed) as source, plain.open("wb") as target:
        shutil.copyfileobj(source, target)


def _as_itk_places_it(result: Path) -> Any:
    """The label map where ITK sees its image: NRRD and MetaImage hold one placement, and ITK's programs read them.

    ITK reads no NIfTI-2; such a label map is placed by its sform.
    """
    labels, header = read_volume(result)
    if isinstance(decode_header(header.nifti), Nifti2Header):
        return itk_image(labels[0], header.affine)
    return sitk.ReadImage(str(result))
