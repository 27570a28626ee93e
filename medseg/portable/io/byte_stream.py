"""The bytes of a file, plain or gzip, never more than asked for and never silently fewer.

A gzip file may have several members, and each ends in a CRC and a length. Python's `gzip` and `isal.igzip`
read all members and verify both, if only they are read to their very end; a library that stops at the last
voxel does not.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from .header import COPY_AGAIN, VolumeError

CHUNK = 1 << 17  # stays in the processor's cache on its way from the inflater to the array
MAX_RATIO = 1032  # deflate cannot expand a byte to more than this


CONVERT = "convert it, as by 'dcm2niix -z y -o OUTPUT FOLDER', and name the .nii.gz"
MOST_LOOKED_AT = 100


def regular_size(path: Path) -> int:
    """Bytes of a file that is certain to be an ordinary one; opening a pipe would wait for ever.

    Raises:
        VolumeError: when it is missing, a folder, a pipe or a device, or empty.
    """
    try:
        state = os.stat(path)
    except FileNotFoundError:
        raise VolumeError("no such file", path=path, hint="check the path") from None
    except (OSError, ValueError) as e:
        raise VolumeError(f"cannot be opened: {getattr(e, 'strerror', None) or e}", path=path) from e
    if stat.S_ISDIR(state.st_mode):
        if any(_is_dicom(file) for file in sorted(path.rglob("*"))[:MOST_LOOKED_AT]):
            raise VolumeError("is a DICOM series, an image file is needed", path=path, hint=CONVERT)
        raise VolumeError("is a folder, an image file is needed", path=path)
    if not stat.S_ISREG(state.st_mode):
        raise VolumeError("is not an ordinary file (a pipe or a device)", path=path)
    if state.st_size == 0:
        raise VolumeError("is empty (0 bytes)", path=path, hint=COPY_AGAIN)
    return state.st_size


def _is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM behind its preamble."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _inflater(file: IO[bytes]) -> tuple[IO[bytes], Any]:
    """The inflating reader and the error it raises for a damaged stream."""
    try:
        from isal import igzip, isal_zlib
    except ImportError:  # the standard library does the same, three times slower
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file)), zlib.error
    return cast("IO[bytes]", igzip.IGzipFile(fileobj=file)), isal_zlib.error


class _Zlib:
    """Reader of one zlib stream, which MetaImage uses."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(wbits=47)  # zlib or gzip, as MetaImage's own reader takes it

    def read(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(CHUNK)
            if not packed:
                raise EOFError
            piece = self._inflate.decompress(packed, count)
            if piece:
                return piece
        return b""

    def close(self) -> None:
        """Nothing to do: the file is closed by its owner."""


class Stream:
    """The bytes of a file from `offset` on, inflated if they are packed.

    Args:
        path: an ordinary file.
        offset: where to begin.
        packing: "raw", "gzip" or "zlib"; None looks at the content (not the name) for gzip.

    Raises:
        VolumeError: from every member, for whatever is wrong with the file.
    """

    def __init__(self, path: Path, offset: int = 0, packing: str | None = None) -> None:
        self.path, self.size = path, regular_size(path) - offset
        try:
            self._file: IO[bytes] = path.open("rb")
            if packing is None:
                packing = "gzip" if self._file.read(2) == b"\x1f\x8b" else "raw"
            self._file.seek(offset)
        except OSError as e:
            raise VolumeError(f"cannot be read: {e.strerror or e}", path=path) from e
        self._bytes: IO[bytes] = self._file
        self._damage: Any = zlib.error
        self.compressed = packing != "raw"
        if packing == "gzip":
            self._bytes, self._damage = _inflater(self._file)
        elif packing == "zlib":
            self._bytes = cast("IO[bytes]", _Zlib(self._file))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._bytes.close()
        self._file.close()

    @property
    def most(self) -> int:
        """The most bytes that this file can possibly hold."""
        return self.size * MAX_RATIO + 1024 if self.compressed else self.size

    def upto(self, count: int) -> bytes:
        """The next `count` bytes, or fewer where the file ends."""
        try:
            return self._bytes.read(count)
        except EOFError as e:
            raise VolumeError(
                "is cut off (or followed by stray bytes): its compressed stream does not end", hint=COPY_AGAIN
            ) from e
        except (OSError, self._damage) as e:
            what = f"is damaged: {e}" if self.compressed else f"cannot be read: {e}"
            raise VolumeError(what, hint=COPY_AGAIN) from e

    def into(self, target: memoryview) -> int:
        """Fill `target`; fewer bytes only where the file ends.

        Returns:
            the number of bytes written.
        """
        done = 0
        while done < len(target):
            piece = self.upto(min(CHUNK, len(target) - done))
            if not piece:
                break
            target[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def skip(self, count: int) -> int:
        """Pass over `count` bytes; returns how many there were."""
        left = count
        while left:
            piece = self.upto(min(CHUNK, left))
            if not piece:
                break
            left -= len(piece)
        return count - left


TRAILER = 8  # bytes at the end of a member: CRC-32 and length of what was packed


def gunzip(path: Path, size: int) -> bytearray | None:
    """The content of a gzip file that is one member of exactly `size` bytes.

    Args:
        path: an ordinary file.
        size: bytes that it should inflate to, no more than may be allocated.

    Returns:
        the bytes, or None for every other file, good or bad (`Stream` says what is wrong with it), and where
        the package `deflate` is missing.
    """
    try:
        import deflate
    except ImportError:
        return None
    try:
        packed = path.read_bytes()
        if packed[-4:] != (size % 2**32).to_bytes(4, "little"):
            return None
        found = deflate.gzip_decompress(packed, size)
    except (OSError, ValueError, deflate.DeflateError):
        return None
    if not isinstance(found, bytearray) or len(found) != size:  # before 0.8, which a bundle may meet: immutable bytes
        return None
    # the file must end with the trailer of this member, or something follows it
    return found if deflate.crc32(found) == int.from_bytes(packed[-TRAILER:-4], "little") else None
