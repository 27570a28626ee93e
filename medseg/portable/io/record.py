"""Of which image a result was made, as its header says, so that no image's result takes the place of another's.

It is a record of finished work in one line, and no `medseg.records.Record` beside the result: results are moved and
sent alone, the 79 bytes of a NIfTI description are all there is, and a bundle writes it without medseg.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib

from .header import VolumeError
from .itk_formats import files_of_image

DIGITS = 24  # of a SHA-256, which has to share the 79 bytes of a NIfTI description
_IMAGE = re.compile(rf"\bimage=([0-9a-f]{{{DIGITS}}})\b")


def fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 of an image's files, with the file of voxels that a `.mhd` header names.

    Raises:
        VolumeError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for image in files:
        for path in files_of_image(image):
            try:
                with path.open("rb") as stream:
                    while block := stream.read(2**20):
                        digest.update(block)
            except OSError as error:
                raise VolumeError(f"cannot be read ({error.strerror})", path=path) from error
    return digest.hexdigest()


def image_record(digest: str) -> str:
    """The part of a record that says which image it was, by its `fingerprint`."""
    return f"image={digest[:DIGITS]}"


def image_of(record: str | None) -> str | None:
    """The first `DIGITS` of the image's fingerprint in a record; None where it says nothing of an image."""
    found = _IMAGE.search(record or "")
    return found[1] if found else None


def description(path: Path) -> str | None:
    """What a NIfTI file's header says in `descrip`; None where there is no NIfTI file that can be read."""
    try:
        header: Any = nib.load(path).header
        return bytes(header["descrip"]).rstrip(b"\0").decode("utf-8", "replace")
    except (OSError, EOFError, KeyError, nib.filebasedimages.ImageFileError):
        return None
