"""Headers of NRRD and MetaImage: where a file's voxels lie, and what ITK must not get to see."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

from .byte_stream import Stream, regular_size
from .header import COPY_AGAIN, DAMAGED, VolumeError

HEADER_LIMIT = 1 << 20  # bytes; a text header is never longer

MOST_DIMENSIONS = 16  # of any NRRD
LONGEST_FIELD = 800  # letters: at some 1,500 the message in which ITK would complain of a field ends its process

META_PLACES = (
    "Offset", "Position", "Origin", "TransformMatrix", "Rotation", "Orientation", "ElementSpacing", "ElementSize",
)  # fmt: skip
"""Keys of a MetaImage that say where it lies: ITK takes 0 for a word that is no number, and says nothing."""

NRRD_REFUSED = frozenset({"data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"})
"""Keys of headers whose voxels lie in another file, or not right behind the header."""

NRRD_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
"""How a NRRD header calls the ways of packing that are read."""


class Payload(NamedTuple):
    """Where the voxels lie, how they are packed ("raw", "gzip" or "zlib"), and the order of bytes if it is known."""

    path: Path
    offset: int
    packing: str
    order: Literal["little", "big"] | None = None


def meta_payload(path: Path) -> Payload:
    """From a MetaImage header: lines of `Key = Value`, of which the last names the data."""
    keys: dict[str, str] = {}
    offset = 0
    for line in _lines(_head(path)):
        offset += len(line)
        name, _, value = line.partition("=")
        key = name.strip().lower()
        keys[key] = value.strip()
        if len(keys[key]) > LONGEST_FIELD and key != "comment":
            raise VolumeError(f"has {len(keys[key])} letters as '{name.strip()[:40]}'", hint=DAMAGED)
        if key == "elementdatafile":
            break
    _check_dimensions(keys.get("ndims"))
    _check_lengths(keys)
    data = keys.get("elementdatafile")
    if not data:
        raise VolumeError("is no MetaImage: its header names no ElementDataFile", hint=COPY_AGAIN)
    if not _is_true(keys, "binarydata", "true"):
        raise VolumeError("holds its voxels as text", hint="save it as binary")
    if keys.get("headersize", "0") not in ("0", "-1"):
        raise VolumeError(f"has a HeaderSize of {keys['headersize'][:40]}; accepted is 0", hint="save it anew")
    packing = "zlib" if _is_true(keys, "compresseddata") else "raw"
    is_big = _is_true(keys, "binarydatabyteordermsb") or _is_true(keys, "elementbyteordermsb")
    order: Literal["little", "big"] = "big" if is_big else "little"
    if data.lower() == "local":
        return Payload(path, offset, packing, order)
    if data != Path(data).name or data.lower().startswith("list") or "%" in data:
        raise VolumeError(f"keeps its voxels in '{data}'; accepted is one file beside it", hint="save it as .mha")
    other = path.with_name(data)
    try:
        regular_size(other)
    except VolumeError as e:
        raise VolumeError(f"its voxel file {data}: {e.reason}") from e
    return Payload(other, 0, packing, order)


def _check_lengths(keys: dict[str, str]) -> None:
    """See that a MetaImage says of what type and how long it is; ITK tells the terminal, not us, where it does not."""
    missing = [name for name in ("NDims", "DimSize", "ElementType") if not keys.get(name.lower())]
    if missing and "elementdatafile" in keys:
        raise VolumeError(f"its header names no {missing[0]}", hint=DAMAGED)
    lengths = keys.get("dimsize", "").split()
    if not missing and len(lengths) != int(keys["ndims"]):
        raise VolumeError(f"has {len(lengths)} lengths and {keys['ndims']} dimensions", hint=DAMAGED)
    for name in META_PLACES:
        if not all(map(_is_finite, keys.get(name.lower(), "").split())):
            raise VolumeError(f"has '{keys[name.lower()][:40]}' as {name}; accepted are numbers", hint=DAMAGED)


def _is_finite(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _is_true(keys: dict[str, str], name: str, otherwise: str = "false") -> bool:
    """The value of a key that is true or false; readers differ in what they make of other words."""
    word = keys.get(name, otherwise).lower()
    if word not in ("true", "false"):
        raise VolumeError(f"has '{word[:40]}' as {name}; accepted are true and false", hint=DAMAGED)
    return word == "true"


def _check_dimensions(text: str | None) -> None:
    """Refuse what no image has before ITK makes room for it: so many millions of axes end its process."""
    if text is None:
        return
    try:
        count = int(text)
    except ValueError:
        raise VolumeError(f"has '{text[:40]}' dimensions; accepted is 2 or 3", hint=DAMAGED) from None
    if not 1 <= count <= MOST_DIMENSIONS:
        raise VolumeError(f"has {count} dimensions; accepted is 2 or 3", hint=DAMAGED)


def nrrd_payload(path: Path) -> Payload:
    """From a NRRD header: lines of `key: value`, ended by an empty line."""
    head = _head(path)
    if not head.startswith("NRRD"):
        raise VolumeError(f"is no NRRD file: it begins with {head[:4]!r}", hint="give it the right suffix")
    keys: dict[str, str] = {}
    offset = 0
    for line in _lines(head):
        offset += len(line)
        if not line.strip():
            break
        key, _, value = line.partition(":")
        if len(value) > LONGEST_FIELD and not value.startswith("=") and key.strip().lower() != "content":
            raise VolumeError(f"has {len(value)} letters as '{key[:40]}'", hint=DAMAGED)
        keys[key.strip().lower()] = value.strip().lower()
    else:
        raise VolumeError("is cut off: its header does not end", hint=COPY_AGAIN)
    _check_dimensions(keys.get("dimension"))
    refused = NRRD_REFUSED & set(keys)
    if refused:
        raise VolumeError(f"uses '{min(refused)}'; accepted is one file with header and voxels", hint="save it anew")
    packing = NRRD_ENCODINGS.get(keys.get("encoding", ""))
    if packing is None:
        raise VolumeError(f"has the encoding '{keys.get('encoding')}'; accepted are raw and gzip")
    return Payload(path, offset, packing)


def _head(path: Path) -> str:
    """The beginning of a file, one character per byte."""
    with Stream(path, packing="raw") as stream:
        return stream.upto(HEADER_LIMIT).decode("latin-1")


def _lines(text: str) -> list[str]:
    """Ended by a line feed only: `splitlines` would also split at bytes that are voxels."""
    return [line + "\n" for line in text.split("\n")]
