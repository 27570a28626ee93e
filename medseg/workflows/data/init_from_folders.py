"""Manifests of plain folders: images here, labels there, one name for both."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.manifest.fields import SUFFIX, stem
from medseg.manifest.manifest import Case, Manifest
from medseg.portable.io.channel_names import alike, group_channels, listed, shown_by_labels, without_mark
from medseg.portable.io.find_cases import is_raw, passed_over
from medseg.portable.io.read import read_header
from medseg.progress import say
from medseg.workflows.data.converted_labels import FoundValues, codes_of, write_copies
from medseg.workflows.data.patterns import Layout, by_patterns, known_layout

FOLDERS = {
    "training": (("images", "imagesTr", "image", "imgs"), ("labels", "labelsTr", "label", "masks")),
    "validation": (("imagesVal",), ("labelsVal",)),
    "test": (("imagesTs", "images_test"), ("labelsTs", "labels_test")),
    "unlabeled": (("unlabeled", "imagesUn"), ()),
}
"""List of the manifest -> names of its folder of images and of its folder of labels."""

LARGEST = 65535
"""Of a value in labels of which copies can be made."""

Sections = dict[str, list[dict[str, Any]]]


def from_folders(
    source: Path, modality: str | None, *, layout: Layout | None = None, copies: Path | None = None
) -> dict[str, Any]:
    """What a manifest of such a folder says; images without a label become `unlabeled`.

    Args:
        source: a folder with images/ and labels/, or imagesTr/ and labelsTr/ and so on, or a public data set.
        modality: CT, MR, ...; several channels divided by commas.
        layout: patterns of the paths, in place of such folders.
        copies: folder for copies of labels that cannot be used as they are; None: such labels are refused.

    Raises:
        DataError: when nothing is found, or when the labels are no labels.
    """
    if layout is None:
        sections = _of_folders(source, modality)
        layout = known_layout(source) if not any(sections.values()) else None
    if layout is not None:
        sections = by_patterns(source, layout)
        if layout.name:
            say(f"found as the data set {layout.name}")
    cases = [case for section in sections.values() for case in section]
    if not cases:
        accepted = ", ".join("/".join(image_folders) for image_folders, _ in FOLDERS.values())
        hint = f"accepted are folders called {accepted}, with labels/labelsTr/masks beside them, or --image-pattern"
        raise DataError("has no folder with images" if layout is None else "has no such image", path=source, hint=hint)
    label_files = [source / case["label"] for case in cases if "label" in case]
    if not label_files:
        hint = "put label files of the same names into a folder 'labels', or give --label-pattern"
        raise DataError("has images but no label for any of them", path=source, hint=hint)
    content: dict[str, Any] = {"name": source.name}
    named = ",".join(layout.modality) if layout is not None and modality is None else modality
    content["modality"] = _modality([source / p for p in cases[0]["image"]], named or None)
    found = FoundValues()
    content["labels"] = found_labels(label_files, None if copies is None else found)
    codes = None if copies is None else codes_of(found)
    if copies is not None and codes is not None:
        content["labels"] = _use_copies(cases, codes, source, copies)
    return content | {name: section for name, section in sections.items() if section}


def _of_folders(source: Path, modality: str | None) -> Sections:
    """Cases of folders that are called as in `FOLDERS`."""
    sections: Sections = {name: [] for name in FOLDERS}
    images, labels = {}, {}
    for section, (image_folders, label_folders) in FOLDERS.items():
        images[section] = _named(files_in(source, image_folders))
        labels[section] = files_in(source, label_folders)
    if not any(images.values()):
        return sections
    counts = {len((modality or "").split(","))}
    if counts == {1}:  # one name may be that of every channel
        for section in FOLDERS:
            counts |= shown_by_labels(images[section], _labels_by_name(labels[section]))
    for section in FOLDERS:
        _pair(images[section], labels[section], section, sections, counts)
    return sections


def _use_copies(cases: Sequence[dict[str, Any]], codes: dict[int, int], source: Path, folder: Path) -> dict[str, str]:
    """Let cases have copies of their labels; names of the values that these hold."""
    labelled = [case for case in cases if "label" in case]
    written = write_copies([source / case["label"] for case in labelled], codes, source, folder)
    for case in labelled:
        case.setdefault("case", Case.model_validate(case).name)
        case["label"] = Manifest.relative(written[source / case["label"]], source)
    say(f"labels were written anew, with values from 0 to {max(codes.values())}, into {folder}")
    if set(codes.values()) == {0, 1}:
        return {"0": "background", "1": "foreground"}
    return {"0": "background", **{str(code): f"class {value}" for value, code in codes.items() if code}}


def files_in(source: Path, names: Iterable[str]) -> list[Path]:
    """The image files of the first of these folders that exists, in capitals or not, in the order of their names."""
    there = {path.name.casefold(): path for path in sorted(source.iterdir(), reverse=True) if path.is_dir()}
    folder = next((there[name.casefold()] for name in names if name.casefold() in there), None)
    if folder is None:
        return []
    others = passed_over(folder)
    if others:
        say(f"warning: {folder}: {others}")
    return sorted(p for p in folder.iterdir() if SUFFIX.search(p.name) and not p.name.startswith("."))


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Name without ending -> file.

    Raises:
        DataError: two files differ in their endings only.
    """
    named: dict[str, Path] = {}
    for file in files:
        other = named.setdefault(stem(file.name), file)
        if other is not file:
            what = f"has {other.name} and {file.name}, both of the name '{stem(file.name)}'"
            raise DataError(what, path=file.parent, hint="rename or remove one of them")
    return named


def _labels_by_name(labels: Sequence[Path]) -> dict[str, Path]:
    """Labels by the names that their images may have."""
    return {without_mark(stem(p.name)): p for p in labels} | _named(labels)


def _pair(
    images: dict[str, Path], labels: Sequence[Path], section: str, sections: Sections, counts: Collection[int]
) -> None:
    by_name = _labels_by_name(labels)
    raw = bool(images) and is_raw(next(iter(images.values())).parent)
    used = set()
    for name, members in group_channels(images, counts, raw=raw, labels=by_name).items():
        case: dict[str, Any] = {"image": [_inside(images[member]) for member in members]}
        label = by_name.get(name)
        if label is not None:
            case["label"] = _inside(label)
            used.add(label)
        if Case.model_validate(case).name != name:
            case["case"] = name
        sections[section if label is not None or section == "test" else "unlabeled"].append(case)
    lonely = sorted(set(labels) - used)
    if lonely:
        what = f"{len(lonely)} labels have no image of the same name, such as {lonely[0].name}"
        raise DataError(what + _numbered(lonely[0], images), path=lonely[0].parent, hint="rename or remove them")


def _numbered(label: Path, images: Collection[str]) -> str:
    """Which images are called as a label but for a number; empty where there are none."""
    found = alike(without_mark(stem(label.name)), images)
    return f" (there are {listed(found)}; channels are numbered from 0000 without a gap)" if found else ""


def _inside(file: Path) -> str:
    """A file of a folder of the source, as seen from the source."""
    return f"{file.parent.name}/{file.name}"


def _modality(images: Sequence[Path], modality: str | None) -> dict[str, str]:
    """One entry per channel of the first case, whether they are files or colours."""
    count = sum(read_header(p).channels for p in images)
    names = [part.strip() for part in (modality or "unknown").split(",")]
    if len(names) not in (1, count):
        raise DataError(f"has {count} channels, {len(names)} modalities were given", path=images[0])
    return {str(n): names[n % len(names)] for n in range(count)}


def found_labels(files: Iterable[Path], found: FoundValues | None = None) -> dict[str, str]:
    """Names for every value that occurs in label files; 255 is to be ignored and gets none.

    Args:
        files: of labels.
        found: gets what they hold, where copies may be made of them; None: they must be labels as they are.

    Raises:
        DataError: for a file that cannot be read or holds no whole numbers from 0 to 255.
    """
    may_copy = found is not None
    found = found if found is not None else FoundValues()
    for file in files:
        found.add(file)
        strange = sorted(value for value in found.counts if not 0 <= value <= (LARGEST if may_copy else 255))
        if strange or (found.is_grey and not may_copy):
            what = f"{strange[0]}" if strange else "grey levels of a mask"
            raise DataError(f"is no label: it holds {what}", path=file, hint="accepted are 0 to 254 and 255")
    present = set(found.counts)
    classes = sorted(present - {0, 255})
    if not classes and not (may_copy and 255 in present):
        hint = "save masks as 0 and 1: 255 means 'ignore'" if 255 in present else "draw something"
        raise DataError(f"the labels hold only {sorted(present)}", path=file.parent, hint=hint)
    names = {v: f"class {v}" for v in classes} if len(classes) > 1 else dict.fromkeys(classes, "foreground")
    return {"0": "background", **{str(v): name for v, name in names.items()}}
