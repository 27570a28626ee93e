"""A gzip file of one member, inflated in one go by libdeflate, which is faster than any reader by pieces.

libdeflate verifies CRC and length of the first member and says nothing of what follows it: further members,
padding, stray bytes. Those files are left to `stream.Stream`, which reads on and verifies everything. Only a
second member of the very same content goes unnoticed; the voxels are right then too.
"""

from __future__ import annotations

from pathlib import Path

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
