"""Label maps and probabilities as NIfTI files that appear whole or not at all; no torch."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

LEVEL = 1  # of compression: label maps shrink a hundredfold at any level, and slower ones gain little
_PREFIX = ".medseg-"
_CHUNK = 2**24


class SaveError(ValueError):
    """A result that cannot be written; says why, without the path."""


def _here() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


@contextmanager
def temporary(path: Path, use: str = "new") -> Iterator[Path]:
    """The name of a file beside `path` that is gone afterwards.

    It is short, so that a name that is allowed for `path` is allowed for it too, and says which process of which
    machine owns it, so that `remove_leftovers` knows what a killed one left.
    """
    digest = hashlib.sha256(f"{path.name} {use}".encode()).hexdigest()[:12]
    name = path.with_name(f"{_PREFIX}{_here()}-{os.getpid()}-{digest}.tmp")
    try:
        yield name
    finally:
        with suppress(OSError):
            name.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when all went well, and else leaves nothing.

    Raises:
        SaveError: the place is full, read-only, gone, or refuses the name.
    """
    try:
        with temporary(path) as new:
            yield new
            with new.open("rb") as written:
                os.fsync(written.fileno())
            new.replace(path)
    except OSError as error:
        raise SaveError(f"cannot be written ({error.strerror or error})") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes of this machine left of `replacing`; others may still be writing."""
    for left in folder.glob(f"{_PREFIX}{_here()}-*.tmp"):
        with suppress(ValueError, OSError):
            if not _alive(int(left.name.split("-")[2])):
                left.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _compressed(stream: Any) -> Any:
    """A gzip writer that gives the same bytes for the same voxels; with `isal` three times as fast."""
    how: dict[str, Any] = {"fileobj": stream, "mode": "wb", "compresslevel": LEVEL, "mtime": 0, "filename": ""}
    try:
        from isal.igzip import IGzipFile
    except ImportError:
        return gzip.GzipFile(**how)
    return IGzipFile(**how)


def write_nifti(
    path: Path, array: np.ndarray, affine: np.ndarray, *, slope: float = 1.0, description: str = ""
) -> None:
    """Write an array as `.nii.gz`, with sform and qform, atomically.

    Args:
        path: where; replaced if it exists.
        array: `(X, Y)`, `(X, Y, Z)` or `(X, Y, Z, K)`, may be a memory map; best with its first axis
            contiguous.
        affine: (4, 4), RAS mm.
        slope: what one step of the stored numbers means.
        description: up to 79 bytes, for the header.

    Raises:
        SaveError: the file cannot be written; what was there before is untouched.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_xyzt_units("mm")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner", strip_shears=True)
    header.set_slope_inter(slope, 0.0)
    header["descrip"] = description.encode("utf-8")[:79]
    header["vox_offset"] = 352
    fast_last = array.T  # NIfTI stores the first axis fastest
    with replacing(path) as new, new.open("wb") as raw:
        with _compressed(raw) as stream:
            stream.write(header.binaryblock + bytes(4))
            for start in range(0, len(fast_last), step := max(1, _CHUNK // max(1, fast_last[0].nbytes))):
                stream.write(np.ascontiguousarray(fast_last[start : start + step]).data)
        raw.flush()


def write_labels(
    path: Path, labels: np.ndarray, affine: np.ndarray, *, flat: bool = False, description: str = ""
) -> None:
    """Write a label map `(X, Y, Z)` as uint8 `.nii.gz` on its image's grid; see `write_nifti`.

    Args:
        path: where.
        labels: integers from 0 to 255.
        affine: of the image.
        flat: the image is a picture: write `(X, Y)`.
        description: up to 79 bytes, for the header.
    """
    if labels.min(initial=0) < 0 or labels.max(initial=0) > 255:
        raise SaveError("has labels outside 0 ... 255")
    stored = labels.astype(np.uint8, copy=False)
    stored = stored[..., 0] if flat else stored
    write_nifti(path, stored, np.asarray(affine, dtype=float), description=description)


def is_flat(image: str | Path, shape: tuple[int, ...]) -> bool:
    """Whether an image file holds a picture and not a volume of one slice."""
    if shape[-1] != 1:
        return False
    if not str(image).lower().endswith((".nii", ".nii.gz")):
        return not str(image).lower().endswith((".nrrd", ".mha", ".mhd"))
    return isinstance(header := nib.load(image).header, nib.Nifti1Header) and header["dim"][0] == 2
