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
    """Whether a file's name says that it is a volume or a 2D image."""
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(ACCEPTED)


def files_in(folder: Path) -> list[Path]:
    """Volumes and 2D images of a folder by name."""
    return sorted(path for path in folder.iterdir() if is_readable(path))


def case_of(images: Sequence[Path], annotations: Sequence[Path] = ()) -> str:
    """What the results of a study are called: as its image, without the number of a channel.

    Args:
        images: one file, or one per channel, or the folder of a DICOM series.
        annotations: files and folders of the raters, of which one may be called as the case.
    """
    if images[0].is_dir():
        return Path(os.path.abspath(images[0])).name
    image_names = [stem(path.name) for path in images]
    label_names: list[str] = []
    for path in annotations:
        if path.is_dir():
            label_names += [name for name in possible_names(images[0]) if find_case_files(path, [name])]
        else:
            label_names.append(stem(path.name))
    raw = is_raw(images[0].parent)
    groups = group_channels(set(image_names), (len(image_names),), raw=raw, labels=label_names)
    return next(case for case, members in groups.items() if image_names[0] in members)


def possible_names(image: Path) -> list[str]:
    """What a rater's file of an image may be called, the most telling name first."""
    name = image.name if image.is_dir() else stem(image.name)
    without_channel = name.removesuffix(FIRST)
    if without_channel and without_channel != name:
        return [name, without_channel]
    return [name]


def find_case_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """A rater's files of one case in a folder of many: `CASE.*`, or all files in `CASE/`.

    Args:
        folder: of the rater.
        names: of the case; the first of which there is anything counts.
    """
    for name in names:
        found = _files_of_case(folder, name)
        if found:
            return found
    return []


def _files_of_case(folder: Path, name: str) -> list[Path]:
    inside = folder / name
    if inside.is_dir():
        return files_in(inside)
    return [path for path in files_in(folder) if stem(path.name) == name]


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
            problem = f"has {other.name} and {file.name}, both of the name '{name}'"
            raise DataError(problem, path=file.parent, hint="rename or remove one of them")
    return named


def files_of(source: Path, image: Path | None) -> list[Path]:
    """The files of one rater's annotation: one label map, or one mask per class.

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
    if image is not None:
        names = possible_names(Path(os.path.abspath(image)))
        found = find_case_files(source, names)
        if len(found) > 1 and found[0].parent == source:
            problem = f"has several files for {names[0]}: {', '.join(path.name for path in found)}"
            raise DataError(problem, path=source)
        if found:
            return found
    files = files_in(source)
    if not files:
        raise DataError(f"has no file of this study; accepted endings are {', '.join(ACCEPTED)}", path=source)
    return files


def resolve_rater_names(sources: Sequence[Path], given: Sequence[str] | None) -> list[str]:
    """What the raters are called.

    Args:
        sources: of each rater, a file or a folder.
        given: by the user; None: the files' names, or their folders' where all files are called the same.

    Raises:
        ConfigError: not as many names as raters, an empty one, or one name twice.
    """
    if given:
        for name in given:
            if not name.strip():
                raise ConfigError(f"a rater is called '{name}'; accepted is a --name of at least one letter or digit")
        if len(given) != len(sources):
            raise ConfigError(f"{len(given)} names are given for {len(sources)} annotations; accepted is one for each")
        twice = [name for name, count in Counter(given).items() if count > 1]
        if twice:
            raise ConfigError(f"two raters are called {', '.join(twice)}; give each another --name")
        return list(given)
    file_names = [stem(path.name) for path in sources]
    if len(set(file_names)) == len(file_names):
        return file_names
    folder_names = [path.absolute().parent.name for path in sources]
    if len(set(folder_names)) == len(folder_names):
        return folder_names
    return [f"rater {n}" for n in range(1, len(sources) + 1)]
