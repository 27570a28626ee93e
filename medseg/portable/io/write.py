"""Label maps and probabilities as NIfTI files that appear whole or not at all; no torch."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError
from .nifti.header import count_dimensions, new_header
from .read import read_header

LEVEL = 1  # of compression: label maps shrink a hundredfold at any level, and slower ones gain little
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
_PREFIX = ".medseg-"
_CHUNK = 2**24


class SaveError(OutputError):
    """An image or label map that cannot be written."""


def cannot_be_written(path: Path, error: BaseException) -> SaveError:
    """What stopped the writing of a file, as an error that names the file and not a temporary one."""
    if isinstance(error, OutputError):
        return SaveError(error.problem, path=path)
    if isinstance(error, MemoryError):
        return SaveError("cannot be written (there is too little memory)", path=path)
    return SaveError(f"cannot be written ({getattr(error, 'strerror', None) or error})", path=path)


def _here() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def temporary_name(path: Path, use: str = "new") -> Path:
    """The name of a file or folder beside `path` for the time until it is whole.

    It is short, so that a name that is allowed for `path` is allowed for it too, and says which process of which
    machine owns it, so that `remove_leftovers` knows what a killed one left.
    """
    digest = hashlib.sha256(f"{path.name} {use}".encode()).hexdigest()[:12]
    return path.with_name(f"{_PREFIX}{_here()}-{os.getpid()}-{digest}.tmp")


@contextmanager
def temporary(path: Path, use: str = "new") -> Iterator[Path]:
    """A `temporary_name` whose file is gone afterwards."""
    name = temporary_name(path, use)
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
        raise cannot_be_written(path, error) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes of this machine left of `replacing`; others may still be writing."""
    for left in folder.glob(f"{_PREFIX}{_here()}-*.tmp"):
        with suppress(ValueError, OSError):
            if not _alive(int(left.name.split("-")[2])):
                if left.is_dir():
                    shutil.rmtree(left)
                else:
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


def nifti_pieces(header: Any, array: np.ndarray) -> Iterator[bytes | memoryview]:
    """The bytes of a single NIfTI file, uncompressed: `header`, no extensions, the voxels."""
    yield header.binaryblock + bytes(4)
    fast_last = array.T  # NIfTI stores the first axis fastest
    step = max(1, _CHUNK // max(1, fast_last[0].nbytes))
    for start in range(0, len(fast_last), step):
        yield np.ascontiguousarray(fast_last[start : start + step]).data


def write_nifti(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    source: bytes = b"",
    slope: float = 1.0,
    intent: str = "none",
    description: str = "",
) -> None:
    """Write an array as `.nii.gz`, with sform and qform, atomically.

    Args:
        path: where; replaced if it exists.
        array: `(X, Y)`, `(X, Y, Z)` or `(X, Y, Z, K)`, may be a memory map; best with its first axis
            contiguous.
        affine: (4, 4), RAS mm.
        source: NIfTI header of the image on whose grid the array lies, of which both forms and their codes are taken;
            see `nifti.header.new_header`. Empty: both forms are the affine, in scanner axes.
        slope: what one step of the stored numbers means.
        intent: what the numbers are, by nibabel's name of the NIfTI intent; "label" of label maps.
        description: up to 79 bytes, for the header.

    Raises:
        SaveError: the file cannot be written; what was there before is untouched.
    """
    header = new_header(array.shape, array.dtype, affine, source)
    header.set_intent(intent)
    header.set_slope_inter(slope, 0.0)
    header["descrip"] = description.encode("utf-8")[:79]
    with replacing(path) as new, new.open("wb") as raw:
        with _compressed(raw) as stream:
            for piece in nifti_pieces(header, array):
                stream.write(piece)
        raw.flush()


def write_labels(
    path: Path,
    labels: np.ndarray,
    affine: np.ndarray,
    *,
    source: bytes = b"",
    flat: bool = False,
    description: str = "",
) -> None:
    """Write a label map `(X, Y, Z)` as uint8 `.nii.gz` on its image's grid; see `write_nifti`.

    Args:
        path: where.
        labels: integers from 0 to 255.
        affine: of the image.
        source: its NIfTI header, if it has one.
        flat: the image is 2D: write `(X, Y)`.
        description: up to 79 bytes, for the header.
    """
    if labels.min(initial=0) < 0 or labels.max(initial=0) > 255:
        raise SaveError("has labels outside 0 ... 255", path=path)
    stored = labels.astype(np.uint8, copy=False)
    stored = stored[..., 0] if flat else stored
    placed = np.asarray(affine, dtype=float)
    write_nifti(path, stored, placed, source=source, intent="label", description=description)


def source_of(image: str | Path) -> bytes:
    """The NIfTI header of an image's file, by which results on its grid are placed; empty for other formats.

    Raises:
        VolumeError: the file is not what its ending says.
    """
    return read_header(image).nifti if str(image).lower().endswith(NIFTI_SUFFIXES) else b""


def is_flat(image: str | Path, shape: tuple[int, ...]) -> bool:
    """Whether an image file holds a 2D image and not a volume of one slice.

    Args:
        image: the file.
        shape: its voxels `(X, Y, Z)`.

    Raises:
        VolumeError: the file is not what its ending says.
    """
    if shape[-1] != 1:
        return False
    if str(image).lower().endswith(NIFTI_SUFFIXES):
        return count_dimensions(source_of(image)) == 2
    return not str(image).lower().endswith(ITK_SUFFIXES)
