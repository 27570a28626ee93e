"""Which images of a folder belong together, and what their results are called."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .channel_names import RAW_FOLDERS, group_channels
from .read import SUFFIXES


def stem(path: str | Path) -> str:
    """File name without the ending of an image."""
    name = Path(path).name
    longest_first = sorted(SUFFIXES, key=len, reverse=True)
    for suffix in longest_first:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def find_cases(folder: str | Path, channels: int = 1) -> list[dict[str, str | list[str]]]:
    """The images of a folder, or one image, as items for the preprocessing.

    Files named `<case>_0000`, `<case>_0001`, ... are the channels of one case where there are exactly as many of
    them as the model takes; other numbers are part of the name. See `channel_names.group_channels`.

    Args:
        folder: a folder, not searched deeper, or one image file.
        channels: of the model.

    Returns:
        `{"image": file or files, "case": name, "files": the files as JSON}`, sorted by name; a text, since lists do
        not come out of a loader as they went in.

    Raises:
        ValueError: no image is there, or two files have one name.
    """
    place = Path(folder)
    if place.is_file():
        return [_item(_name_among_others(place, channels), [str(place)])]
    files = images_in(place)
    if not files:
        others = passed_over(place)
        found = f"has no image ({others})" if others else "has no image"
        raise ValueError(f"{found}; accepted endings are {', '.join(SUFFIXES)}")
    named = by_name(files)
    items = []
    for case, names in group_channels(named, (channels,), raw=is_raw(place)).items():
        members = [str(named[name]) for name in names]
        items.append(_item(case, members))
    return items


def is_raw(folder: Path) -> bool:
    """Whether a folder is one of nnU-Net's, by its name."""
    return Path(os.path.abspath(folder)).name in RAW_FOLDERS


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if _is_image(path))


DOCUMENTS = (
    "", ".txt", ".md", ".rst", ".json", ".yaml", ".yml", ".csv", ".tsv", ".xml", ".html", ".pdf", ".log",
    ".bval", ".bvec", ".py", ".sh", ".sha256", ".md5", ".tmp", ".dcm", ".ima", ".npz",
)  # fmt: skip
"""Endings of what lies beside images and is none, and of DICOM, which is looked for by its content."""


def passed_over(folder: Path) -> str:
    """What is said of a folder's files whose ending is unknown, and of links to nothing; empty where there is none.

    Examples:
        >>> from pathlib import Path
        >>> folder = Path("mixed")
        >>> folder.mkdir()
        >>> for name in ("a.png", "b.bmp", "c.bmp", "d.mgz", "read.me.txt"):
        ...     _ = (folder / name).write_bytes(b"")
        >>> passed_over(folder)
        '3 files of unknown endings are passed over: 2 .bmp (b.bmp, ...), 1 .mgz (d.mgz); convert them to NIfTI or PNG'
    """
    by_ending: dict[str, list[str]] = {}
    nowhere: list[str] = []
    for path in sorted(folder.iterdir()):
        ending = path.suffix.lower()
        is_unknown = not _is_image(path) and ending not in DOCUMENTS
        if path.is_symlink() and not path.exists():
            nowhere.append(path.name)
        elif is_unknown and path.is_file() and not path.name.startswith("."):
            by_ending.setdefault(ending, []).append(path.name)
    return "; ".join(filter(None, (_of_unknown_endings(by_ending), _links(nowhere))))


def _of_unknown_endings(by_ending: Mapping[str, list[str]]) -> str:
    if not by_ending:
        return ""
    listed = [f"{len(names)} {ending} ({_first(names)})" for ending, names in by_ending.items()]
    count = sum(len(names) for names in by_ending.values())
    files = "files of unknown endings are" if count > 1 else "file of an unknown ending is"
    return f"{count} {files} passed over: {', '.join(listed)}; convert them to NIfTI or PNG"


def _links(nowhere: Sequence[str]) -> str:
    if not nowhere:
        return ""
    links = "links that lead nowhere are" if len(nowhere) > 1 else "link that leads nowhere is"
    return f"{len(nowhere)} {links} passed over ({_first(nowhere)})"


def _first(names: Sequence[str]) -> str:
    return f"{names[0]}, ..." if len(names) > 1 else names[0]


def by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Name without ending -> file.

    Raises:
        ValueError: two files differ in their endings only.
    """
    named: dict[str, Path] = {}
    for file in files:
        other = named.setdefault(stem(file), file)
        if other is not file:
            raise ValueError(f"has {other.name} and {file.name}, both of the name '{stem(file)}'; rename one of them")
    return named


def _name_among_others(file: Path, channels: int) -> str:
    """What one file's result is called: as it would be if its whole folder were given."""
    folder, name = file.parent, stem(file)
    others = images_in(folder) if os.access(folder, os.R_OK) else []
    names_in_folder = {name, *map(stem, others)}
    for case, members in group_channels(names_in_folder, (channels,), raw=is_raw(folder)).items():
        if members == [name]:
            return case
    return name  # one of several channels


def _item(case: str, files: list[str]) -> dict[str, str | list[str]]:
    image = files[0] if len(files) == 1 else files
    return {"image": image, "case": case, "files": json.dumps(files)}


def _is_image(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(SUFFIXES)
