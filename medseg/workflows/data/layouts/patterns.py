"""Images and labels by patterns of their paths: those that a user gives, and those of public data sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError, DataError
from medseg.manifest.fields import SUFFIX
from medseg.workflows.data.layouts.found import Found, name_of

CASE = re.compile(r"\{case(?::(?P<form>[^{}]*))?\}")
TEST_FOLDER = re.compile(r"(^|/)test(ing|s)?([^/]*)/", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """Where a data set has its files.

    Attributes:
        name: of the data set.
        images: a pattern for each channel; `{case}` is the name of the case, `*` any text without a slash.
        label: pattern of the labels.
        modality: of each channel; empty: unknown.
    """

    name: str
    images: tuple[str, ...]
    label: str
    modality: tuple[str, ...] = ()


def _brats(*endings: str) -> tuple[str, ...]:
    return tuple(f"{{case}}/{{case}}{ending}.nii.gz" for ending in endings)


MR4 = ("T1", "T1c", "T2", "FLAIR")
RGB = ("red", "green", "blue")
KNOWN = (
    Layout("BTCV", ("img/img{case}.nii.gz",), "label/label{case}.nii.gz", ("CT",)),
    Layout("MM-WHS (CT)", ("ct_train*/{case}_image.nii.gz",), "ct_train*/{case}_label.nii.gz", ("CT",)),
    Layout("MM-WHS (MR)", ("mr_train*/{case}_image.nii.gz",), "mr_train*/{case}_label.nii.gz", ("MR",)),
    Layout("LiTS", ("volume-{case}.nii",), "segmentation-{case}.nii", ("CT",)),
    Layout("LiTS", ("volume-{case}.nii.gz",), "segmentation-{case}.nii.gz", ("CT",)),
    Layout("KiTS", ("{case}/imaging.nii.gz",), "{case}/segmentation.nii.gz", ("CT",)),
    Layout("ACDC", ("{case:patient[0-9]+_frame[0-9]+}.nii.gz",), "{case}_gt.nii.gz", ("MR",)),
    Layout("BraTS", _brats("_t1", "_t1ce", "_t2", "_flair"), "{case}/{case}_seg.nii.gz", MR4),
    Layout("BraTS", _brats("-t1n", "-t1c", "-t2w", "-t2f"), "{case}/{case}-seg.nii.gz", MR4),
    Layout("ISIC", ("*Input/{case:ISIC_[0-9]+}.jpg",), "*GroundTruth/{case}_segmentation.png", RGB),
    Layout("ISIC", ("*_Data/{case:ISIC_[0-9]+}.jpg",), "*GroundTruth/{case}_segmentation.png", RGB),
    Layout("ISIC", ("*_Data/{case:ISIC_[0-9]+}.jpg",), "*GroundTruth/{case}_Segmentation.png", RGB),
)
"""Public data sets as they are downloaded."""


def by_patterns(source: Path, layout: Layout) -> Found:
    """The cases of a folder whose paths fit, those without a label as `unlabeled`, those of a folder "test" as `test`.

    Args:
        source: searched with all folders in it; a pattern fits the end of a path.
        layout: the patterns.

    Raises:
        ConfigError: a pattern without `{case}`.
        DataError: two files for one place, or a case without all of its channels.
    """
    files = [path.relative_to(source).as_posix() for path in image_files(source)]
    labels = _matching(files, layout.label, source)
    taken = set(labels.values())
    channels = [_matching([file for file in files if file not in taken], each, source) for each in layout.images]
    result = Found(modality=layout.modality, known_as=f"the data set {layout.name}" if layout.name else "")
    named: list[tuple[str, dict[str, Any]]] = []
    for name in sorted(set().union(*channels)):
        missing = [pattern for pattern, found in zip(layout.images, channels, strict=True) if name not in found]
        if missing:
            raise DataError(f"has no file {missing[0]} of the case {name}", path=source, hint="complete or remove it")
        images = [found[name] for found in channels]
        case: dict[str, Any] = {"image": images}
        if name in labels:
            case["label"] = labels[name]
        result.add(case, "test" if TEST_FOLDER.search(images[0]) else "training")
        named.append((name, case))
    _name(named)
    return result


def _name(named: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Call cases as the pattern says where the names of their files would not tell them apart."""
    usual = [name_of(case) for _, case in named]
    same_for_all = len(set(usual)) < len(usual)
    for (name, case), file_name in zip(named, usual, strict=True):
        if same_for_all or len(case["image"]) > 1 or file_name == "imaging":
            case["case"] = name


def known_layout(source: Path) -> Layout | None:
    """The public data set that a folder holds as it was downloaded; None if it is none of them.

    Raises:
        DataError: it holds two.
    """
    files = [path.relative_to(source).as_posix() for path in image_files(source)]
    found = []
    for layout in KNOWN:
        names = [set(_matching(files, pattern, source)) for pattern in (*layout.images, layout.label)]
        if set.intersection(*names):
            found.append(layout)
    if len({layout.name for layout in found}) > 1:
        names_found = " and ".join(layout.name for layout in found)
        raise DataError(f"holds {names_found}", path=source, hint="give the folder of one of them")
    return found[0] if found else None


def image_files(source: Path) -> Iterable[Path]:
    """Image files below a folder, by name; hidden ones are left out."""
    for path in sorted(source.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
        if SUFFIX.search(path.name) and not hidden and path.is_file():
            yield path


def _matching(files: Sequence[str], pattern: str, source: Path) -> dict[str, str]:
    """Case -> the file that fits a pattern.

    Raises:
        ConfigError: the pattern has no `{case}`.
        DataError: two files of one case fit.
    """
    expression = _expression(pattern)
    found: dict[str, str] = {}
    for file in files:
        match = expression.fullmatch(file)
        if match is None:
            continue
        name = match["case"]
        if name in found:
            both = f"{found[name]} and {file} both fit '{pattern}' of the case {name}"
            raise DataError(both, path=source, hint="give a longer pattern, or remove one")
        found[name] = file
    return found


def _expression(pattern: str) -> re.Pattern[str]:
    if not CASE.search(pattern):
        example = "images/{case}.nii.gz"
        raise ConfigError(f"the pattern '{pattern}' does not say where the case's name is; accepted is {example}")
    text, place, seen = "", 0, False
    for match in CASE.finditer(pattern):
        text += _literal(pattern[place : match.start()])
        text += "(?P=case)" if seen else f"(?P<case>{match['form'] or '[^/]+?'})"
        seen, place = True, match.end()
    text += _literal(pattern[place:])
    return re.compile(f"(?:.*/)?{text}")


def _literal(text: str) -> str:
    return "[^/]*".join(re.escape(part) for part in text.split("*"))
