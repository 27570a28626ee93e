"""Manifests of plain folders: images here, labels there, one name for both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.manifest_fields import SUFFIX, stem
from medseg.portable.reading import VolumeError, read_header, read_volume
from medseg.workflows.data_check_voxels import values

FOLDERS = {
    "training": (("images", "imagesTr", "image", "imgs"), ("labels", "labelsTr", "label", "masks")),
    "validation": (("imagesVal",), ("labelsVal",)),
    "test": (("imagesTs", "images_test"), ("labelsTs", "labels_test")),
    "unlabeled": (("unlabeled", "imagesUn"), ()),
}
"""List of the manifest -> names of its folder of images and of its folder of labels."""

CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
LABEL_MARK = re.compile(r"[-_.](seg|label|mask|gt)s?$", re.IGNORECASE)

Sections = dict[str, list[dict[str, Any]]]


def from_folders(source: Path, modality: str | None) -> dict[str, Any]:
    """What a manifest of such a folder says; images without a label become `unlabeled`.

    Args:
        source: a folder with images/ and labels/, or imagesTr/ and labelsTr/ and so on.
        modality: CT, MR, ...; several channels divided by commas.

    Raises:
        DataError: when nothing is found, or when the labels are no labels.
    """
    sections: Sections = {name: [] for name in FOLDERS}
    for section, (images, labels) in FOLDERS.items():
        _pair(files_in(source, images), files_in(source, labels), section, sections)
    cases = [case for section in sections.values() for case in section]
    if not cases:
        accepted = ", ".join("/".join(images) for images, _ in FOLDERS.values())
        hint = f"accepted are folders called {accepted}, with labels/labelsTr/masks beside them"
        raise DataError("has no folder with images", path=source, hint=hint)
    drawn = [source / case["label"] for case in cases if "label" in case]
    if not drawn:
        hint = "put label files of the same names into a folder 'labels'"
        raise DataError("has images but no label for any of them", path=source, hint=hint)
    content: dict[str, Any] = {"name": source.name}
    content["modality"] = _modality([source / p for p in cases[0]["image"]], modality)
    content["labels"] = found_labels(drawn)
    return content | {name: section for name, section in sections.items() if section}


def files_in(source: Path, names: Iterable[str]) -> list[Path]:
    """The image files of the first of these folders that exists, in the order of their names."""
    folder = next((source / name for name in names if (source / name).is_dir()), None)
    if folder is None:
        return []
    return sorted(p for p in folder.iterdir() if SUFFIX.search(p.name) and not p.name.startswith("."))


def channels(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Case name -> its files; `case_0000`, `case_0001` are the channels of one case."""
    matches = [CHANNEL.match(stem(p.name)) for p in files]
    if not all(matches):
        return {stem(p.name): [p] for p in files}
    cases: dict[str, list[Path]] = {}
    for match, file in zip(matches, files, strict=True):
        assert match is not None
        cases.setdefault(match["case"], []).append(file)
    return cases


def _pair(images: Sequence[Path], labels: Sequence[Path], section: str, sections: Sections) -> None:
    by_name = {LABEL_MARK.sub("", stem(p.name)): p for p in labels} | {stem(p.name): p for p in labels}
    used = set()
    for name, files in channels(images).items():
        case: dict[str, Any] = {"image": [_inside(p) for p in files]}
        label = by_name.get(name) or by_name.get(stem(files[0].name))
        if label is not None:
            case["label"] = _inside(label)
            used.add(label)
        sections[section if label is not None or section == "test" else "unlabeled"].append(case)
    lonely = sorted(set(labels) - used)
    if lonely:
        what = f"{len(lonely)} labels have no image of the same name, such as {lonely[0].name}"
        raise DataError(what, path=lonely[0].parent, hint="rename or remove them")


def _inside(file: Path) -> str:
    """A file of a folder of the source, as seen from the source."""
    return f"{file.parent.name}/{file.name}"


def _modality(images: Sequence[Path], modality: str | None) -> dict[str, str]:
    """One entry per channel of the first case, whether they are files or colours."""
    try:
        count = sum(read_header(p).channels for p in images)
    except VolumeError as e:
        raise DataError(str(e), path=e.path) from e
    names = [part.strip() for part in (modality or "unknown").split(",")]
    if len(names) not in (1, count):
        raise DataError(f"has {count} channels, {len(names)} modalities were given", path=images[0])
    return {str(n): names[n % len(names)] for n in range(count)}


def found_labels(files: Iterable[Path]) -> dict[str, str]:
    """Names for every value that occurs in label files; 255 is to be ignored and gets none.

    Raises:
        DataError: for a file that cannot be read or holds no whole numbers from 0 to 255.
    """
    present: set[int] = set()
    for file in files:
        try:
            found = values(read_volume(file)[0])
        except VolumeError as e:
            raise DataError(str(e), path=e.path) from e
        strange = [v for v in found.counts if not 0 <= v <= 255]
        if found.fractional or strange:
            example = found.example if found.fractional else strange[0]
            raise DataError(f"is no label: it holds {example}", path=file, hint="accepted are 0 to 254 and 255")
        present |= set(found.counts)
    classes = sorted(present - {0, 255})
    if not classes:
        hint = "save masks as 0 and 1: 255 means 'ignore'" if 255 in present else "draw something"
        raise DataError(f"the labels hold only {sorted(present)}", path=file.parent, hint=hint)
    names = {v: f"class {v}" for v in classes} if len(classes) > 1 else {classes[0]: "foreground"}
    return {"0": "background", **{str(v): name for v, name in names.items()}}
