"""Whether a PNG file is whole: Pillow looks neither at the last checksums nor at how many rows there are."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from .header import COPY_AGAIN, VolumeError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""PNG's type of colour -> numbers per pixel."""

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of interlaced files: first column, first row, and steps along them."""


def check_png(path: Path) -> None:
    """Verify the checksum of every chunk and of the pixels, and that all rows are there and nothing more.

    Raises:
        VolumeError: the file is damaged.
    """
    content = path.read_bytes()
    if not content.startswith(SIGNATURE):
        raise VolumeError("is called .png and is none", hint="give it the ending of its format")
    header = b""
    packed = []
    for kind, data in _chunks(content):
        if kind == b"IHDR":
            header = data
        elif kind == b"IDAT":
            packed.append(data)
    if len(header) != 13 or not packed:
        raise VolumeError("is a damaged PNG: it has no pixels", hint=COPY_AGAIN)
    wanted = _size_of_rows(header)
    inflater = zlib.decompressobj()
    try:
        found = len(inflater.decompress(b"".join(packed), wanted + 1))
    except zlib.error as error:
        raise VolumeError(f"is a damaged PNG ({error})", hint=COPY_AGAIN) from error
    if found < wanted:
        raise VolumeError(f"is cut off: {found} of {wanted} bytes of its rows", hint=COPY_AGAIN)
    if found > wanted or not inflater.eof:
        raise VolumeError("is a damaged PNG: more rows than its header says, or no checksum of them", hint=COPY_AGAIN)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and data of each chunk, to the last."""
    place = len(SIGNATURE)
    while True:
        length = int.from_bytes(content[place : place + 4], "big")
        end = place + 12 + length
        if end > len(content):
            raise VolumeError("is a damaged PNG: it ends before its last chunk", hint=COPY_AGAIN)
        kind, data = content[place + 4 : place + 8], content[place + 8 : end - 4]
        if zlib.crc32(content[place + 4 : end - 4]) != int.from_bytes(content[end - 4 : end], "big"):
            raise VolumeError(f"is a damaged PNG: the checksum of {kind!r} is wrong", hint=COPY_AGAIN)
        yield kind, data
        if kind == b"IEND":
            return
        place = end


def _size_of_rows(header: bytes) -> int:
    """Bytes of all rows, each with the byte of its filter."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits, colour, interlaced = header[8], header[9], header[12]
    bits_per_pixel = bits * SAMPLES.get(colour, 1)
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    total = 0
    for column, row, across, down in passes:
        columns = -(-(width - column) // across)
        rows = -(-(height - row) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits_per_pixel // 8))
    return total
