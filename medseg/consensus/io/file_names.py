"""Which files are a rater's, and what the rater is called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medseg.dicom.availability import holds_dicom, is_dicom_file
from medseg.errors import ConfigError, DataError
from medseg.manifest.fields import stem as stem_of_others
from medseg.portable.io.channel_names import FIRST, group_channels
from medseg.portable.io.find_cases import is_raw
from medseg.portable.io.read import SUFFIXES

DICOM = ".dcm"
ACCEPTED = (*SUFFIXES, DICOM)


def stem(name: str) -> str:
    """File name without the ending of an image or an annotation."""
    return name[: -len(DICOM)] if name.lower().endswith(DICOM) else stem_of_others(name)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its name or, where that says nothing, by its first bytes."""
    name = path.name.lower()
    return name.endswith(DICOM) or (not name.endswith(SUFFIXES) and is_dicom_file(path))


def is_series(image: Path, annotations: Sequence[Path] = ()) -> bool:
    """Whether an image is DICOM: a file, or the folder of a series.

    Below a folder it is looked for only where no rater gives a folder: then it might be a folder of many studies.
    """
    if not image.is_dir():
        return is_dicom(image)
    return holds_dicom(image, deep=not any(path.is_dir() for path in annotations))


def is_readable(path: Path) -> bool:
    """Whether a file's name says that it is a volume or a picture."""
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(ACCEPTED)


def files_in(folder: Path) -> list[Path]:
    """Volumes and pictures of a folder by name."""
    return sorted(p for p in folder.iterdir() if is_readable(p))


def case_of(images: Sequence[Path], annotations: Sequence[Path] = ()) -> str:
    """What the results of a study are called: as its image, without the number of a channel.

    Args:
        images: one file, or one per channel, or the folder of a DICOM series.
        annotations: files and folders of the raters, of which one may be called as the case.
    """
    if images[0].is_dir():
        return Path(os.path.abspath(images[0])).name
    names = [stem(path.name) for path in images]
    labels = [stem(path.name) for path in annotations if not path.is_dir()]
    labels += [name for path in annotations if path.is_dir() for name in names_of(images[0]) if found_in(path, [name])]
    groups = group_channels(set(names), (len(names),), raw=is_raw(images[0].parent), labels=labels)
    return next(case for case, members in groups.items() if names[0] in members)


def names_of(image: Path) -> list[str]:
    """What a rater's file of an image may be called, the most telling name first."""
    name = image.name if image.is_dir() else stem(image.name)
    short = name.removesuffix(FIRST)
    return [name, short] if short and short != name else [name]


def found_in(folder: Path, names: Sequence[str]) -> list[Path]:
    """A rater's files of one case in a folder of many: `CASE.*`, or all files in `CASE/`.

    Args:
        folder: of the rater.
        names: of the case; the first of which there is anything counts.
    """
    for name in names:
        inside = folder / name
        found = files_in(inside) if inside.is_dir() else [p for p in files_in(folder) if stem(p.name) == name]
        if found:
            return found
    return []


def by_name(files: Sequence[Path]) -> dict[str, Path]:
    """Name without ending -> file.

    Raises:
        DataError: two files differ in their endings only.
    """
    named: dict[str, Path] = {}
    for file in files:
        name = stem(file.name)
        other = named.setdefault(name, file)
        if other is not file:
            what = f"has {other.name} and {file.name}, both of the name '{name}'"
            raise DataError(what, path=file.parent, hint="rename or remove one of them")
    return named


def files_of(source: Path, image: Path | None) -> list[Path]:
    """The files of one rater's drawing: one label map, or one mask per class.

    Args:
        source: a file; or a folder with a file called like the image, with one file only, or with a mask per class.
        image: of the study.

    Raises:
        DataError: nothing is there, or several files fit.
    """
    if not source.exists():
        raise DataError("no such file or folder", path=source, hint="check the path")
    if not source.is_dir():
        return [source]
    names = names_of(Path(os.path.abspath(image))) if image is not None else []
    if mine := found_in(source, names):
        if mine[0].parent == source and len(mine) > 1:
            raise DataError(f"has several files for {names[0]}: {', '.join(p.name for p in mine)}", path=source)
        return mine
    files = files_in(source)
    if not files:
        raise DataError(f"has no file of this study; accepted endings are {', '.join(ACCEPTED)}", path=source)
    return files


def rater_names(sources: Sequence[Path], given: Sequence[str] | None) -> list[str]:
    """What the raters are called.

    Args:
        sources: of each rater, a file or a folder.
        given: by the user; None: the files' names, or their folders' where all files are called the same.

    Raises:
        ConfigError: not as many names as raters, or one name twice.
    """
    if given:
        if len(given) != len(sources):
            raise ConfigError(f"{len(given)} names are given for {len(sources)} annotations; accepted is one for each")
        twice = [name for name, n in Counter(given).items() if n > 1]
        if twice:
            raise ConfigError(f"two raters are called {', '.join(twice)}; give each another --name")
        return list(given)
    stems = [stem(p.name) for p in sources]
    if len(set(stems)) < len(stems):
        stems = [p.absolute().parent.name for p in sources]
    if len(set(stems)) < len(stems):
        return [f"rater {n}" for n in range(1, len(sources) + 1)]
    return stems
