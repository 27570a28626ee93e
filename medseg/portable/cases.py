"""Which images of a folder belong together, and what their results are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .reading import SUFFIXES

_CHANNEL = re.compile(r"_(\d{4})$")  # nnU-Net's number of a channel at the end of a name


def stem(path: str | Path) -> str:
    """File name without the ending of an image."""
    name = Path(path).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def find_cases(folder: str | Path, channels: int = 1) -> list[dict[str, str | list[str]]]:
    """The images of a folder, or one image, as items for the preprocessing.

    Files named `<case>_0000`, `<case>_0001`, ... are the channels of one case; if all files of a folder are
    named so, the numbers are no part of the case's name. Files starting with a dot are passed over.

    Args:
        folder: a folder, not searched deeper, or one image file.
        channels: of the model; with more than one, numbered files are put together.

    Returns:
        `{"image": file or files, "case": name}`, sorted by name.

    Raises:
        ValueError: no image is there, two files would have one name, or a channel is missing.
    """
    place = Path(folder)
    files = [place] if place.is_file() else sorted(p for p in place.iterdir() if _is_image(p))
    if not files:
        raise ValueError(f"has no image; accepted endings are {', '.join(SUFFIXES)}")
    numbered = all(_CHANNEL.search(stem(f)) for f in files)
    groups: dict[str, list[Path]] = {}
    for file in files:
        name = _CHANNEL.sub("", stem(file)) if numbered else stem(file)
        groups.setdefault(name or stem(file), []).append(file)
    for name, group in groups.items():
        _check(name, group, channels if numbered else 1)
    return [
        {"image": str(group[0]) if len(group) == 1 else [str(f) for f in group], "case": name}
        for name, group in sorted(groups.items())
    ]


def _is_image(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(SUFFIXES)


def _check(name: str, group: Sequence[Path], channels: int) -> None:
    names = ", ".join(f.name for f in group)
    if len(group) not in (1, channels) or len({stem(f) for f in group}) != len(group):
        raise ValueError(f"has {len(group)} files for the case '{name}' ({names}), the model takes {channels} per case")
