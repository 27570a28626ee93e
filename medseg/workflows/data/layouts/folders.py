"""Folders of images and of labels with one name for both, and which of the layouts a folder has."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.manifest.fields import stem
from medseg.manifest.manifest import Manifest
from medseg.portable.io.channel_names import alike, group_channels, listed, shown_by_labels, without_mark
from medseg.portable.io.find_cases import is_raw, passed_over
from medseg.progress import say
from medseg.workflows.data.layouts.found import (
    PLACES,
    STRUCTURES,
    Found,
    describe,
    first_folder,
    folders_in,
    images_in,
    is_labelled,
    name_apart,
    name_of,
    named,
    refuse_unlabelled,
)
from medseg.workflows.data.layouts.pairs import find_pairs, find_pairs_in_folders
from medseg.workflows.data.layouts.patterns import Layout, by_patterns, image_files, known_layout
from medseg.workflows.data.layouts.series import find_series_folders
from medseg.workflows.data.layouts.subjects import find_subjects

FOLDERS = {
    "training": (("images", "imagesTr", "image", "imgs"), ("labels", "labelsTr", "label", "masks")),
    "validation": (("imagesVal",), ("labelsVal",)),
    "test": (("imagesTs", "images_test"), ("labelsTs", "labels_test")),
    "unlabeled": (("unlabeled", "imagesUn"), ()),
}
"""List of the manifest -> names of its folder of images and of its folder of labels."""

ACCEPTED = (
    "accepted are folders called {} with labels/labelsTr/masks beside them, pairs such as p1.nii.gz and "
    "p1_seg.nii.gz in one folder, a folder for each subject (p1/image.nii.gz and p1/label.nii.gz, or ct.nii.gz and "
    "segmentations/*.nii.gz, or a DICOM series), a CSV with the columns image and label, or --image-pattern"
)


def from_folders(source: Path, modality: str | None, layout: Layout | None = None) -> Found:
    """The cases of a folder; images without a label are `unlabeled`.

    Args:
        source: a folder in any of the layouts that `ACCEPTED` lists, or a public data set.
        modality: CT, MR, ...; several channels divided by commas.
        layout: patterns of the paths, in place of such folders.

    Raises:
        DataError: when nothing is found, files contradict each other, or no image has a label.
    """
    if layout is not None:
        found = by_patterns(source, layout)
        _refuse_empty(found, source, "has no such image")
        return found
    found = _of_folders(source, modality)
    if not any(is_labelled(case) for case in found.cases):
        found = _of_another_layout(source) or found
    _refuse_empty(found, source, f"has no images in a layout that is known; it holds {describe(source)}")
    if found.known_as:
        say(f"found as {found.known_as}")
    return found


def data_set_in(source: Path) -> Path:
    """The folder itself, or the data set that is all it holds, as archives make a folder around their content."""
    inner = source
    while not (_is_data_set(inner) or images_in(inner)):
        folders = [folder for folder in folders_in(inner) if folder.name != "__MACOSX"]
        if len(folders) != 1:
            return source
        inner = folders[0]
    return inner if _is_data_set(inner) else source


def _is_data_set(folder: Path) -> bool:
    images, labels = FOLDERS["training"]
    has_both = first_folder(folder, images) is not None and first_folder(folder, labels) is not None
    return has_both or (folder / "dataset.json").is_file()


def _of_another_layout(source: Path) -> Found | None:
    """The cases of a folder that has no folders of images and labels; None where there are none with a label."""
    known = known_layout(source)
    if known is not None:
        of_known = by_patterns(source, known)
        _tell_left_out(of_known, source)
        return of_known
    for find in (find_pairs_in_folders, find_subjects, find_pairs, find_series_folders):
        found = find(source)
        if found is not None and any(is_labelled(case) for case in found.cases):
            _tell_left_out(found, source)
            return found
    return None


def _tell_left_out(found: Found, source: Path) -> None:
    """Warn of image files that are in no case, where a layout was found that says nothing of them."""
    used: set[Path] = set()
    for case in found.cases:
        used |= {source / image for image in case["image"]}
        used |= {source / case["label"]} if "label" in case else set()
        used |= set(case.get(STRUCTURES, {}).values())
    rest = [path.relative_to(source).as_posix() for path in image_files(source) if path not in used]
    if used and rest:
        files = "image files belong" if len(rest) > 1 else "image file belongs"
        say(f"warning: {source}: {len(rest)} {files} to no case: {listed(rest)}")


def _refuse_empty(found: Found, source: Path, nothing: str) -> None:
    if not any(found.cases):
        raise DataError(nothing, path=source, hint=ACCEPTED.format("/".join(FOLDERS["training"][0])))
    hint = "put label files of the same names into a folder 'labels', or give --label-pattern"
    refuse_unlabelled(found, source, hint)


def _of_folders(source: Path, modality: str | None) -> Found:
    """Cases of folders that are called as in `FOLDERS`, at once or in train/, val/ and test/."""
    found = Found()
    places = [(section, named(files_in(images)), files_in(labels)) for section, images, labels in _places(source)]
    if not any(images for _, images, _ in places):
        return found
    counts = {len((modality or "").split(","))}
    if counts == {1}:  # one name may be that of every channel
        for _, images, labels in places:
            counts |= shown_by_labels(images, _labels_by_name(labels))
    for section, images, labels in places:
        _pair(images, labels, section, found, counts, source)
    name_apart(list(found.cases))
    return found


def _places(source: Path) -> Iterator[tuple[str, Path | None, Path | None]]:
    """List of the manifest, folder of its images and folder of its labels: all that there may be."""
    for section, (images, labels) in FOLDERS.items():
        yield section, first_folder(source, images), first_folder(source, labels)
    all_images, all_labels = (first_folder(source, names) for names in FOLDERS["training"])
    for section, names in PLACES.items():
        part = first_folder(source, names)
        if part is not None:
            images, labels = FOLDERS["training"]
            yield section, first_folder(part, images), first_folder(part, labels)
        if all_images is not None:
            yield section, first_folder(all_images, names), all_labels and first_folder(all_labels, names)


def files_in(folder: Path | None) -> list[Path]:
    """The image files of a folder in the order of their names; those of unknown endings are told."""
    if folder is None:
        return []
    others = passed_over(folder)
    if others:
        say(f"warning: {folder}: {others}")
    return images_in(folder)


def _labels_by_name(labels: Sequence[Path]) -> dict[str, Path]:
    """Labels by the names that their images may have."""
    return {without_mark(stem(p.name)): p for p in labels} | named(labels)


def _by_image(labels: dict[str, Path], images: Collection[str]) -> dict[str, Path]:
    """Labels whose image has the same name in other capitals, by the name of that image.

    `IMG01.PNG` and `img01.png` are a pair where there is no closer one.
    """
    free = {name.casefold(): name for name in images if name not in labels}
    renamed = {}
    for name, path in labels.items():
        is_exact = name in images
        renamed[name if is_exact else free.get(name.casefold(), name)] = path
    return renamed


def _pair(
    images: dict[str, Path],
    labels: Sequence[Path],
    section: str,
    found: Found,
    counts: Collection[int],
    source: Path,
) -> None:
    by_name = _by_image(_labels_by_name(labels), images)
    raw = bool(images) and is_raw(next(iter(images.values())).parent)
    used = set()
    for name, members in group_channels(images, counts, raw=raw, labels=by_name).items():
        case: dict[str, Any] = {"image": [Manifest.relative(images[member], source) for member in members]}
        label = by_name.get(name)
        if label is not None:
            case["label"] = Manifest.relative(label, source)
            used.add(label)
        if name_of(case) != name:
            case["case"] = name
        found.add(case, section)
    lonely = sorted(set(labels) - used)
    if lonely:
        what = f"{len(lonely)} labels have no image of the same name, such as {lonely[0].name}"
        raise DataError(what + _numbered(lonely[0], images), path=lonely[0].parent, hint="rename or remove them")


def _numbered(label: Path, images: Collection[str]) -> str:
    """Which images are called as a label but for a number; empty where there are none."""
    found = alike(without_mark(stem(label.name)), images)
    return f" (there are {listed(found)}; channels are numbered from 0000 without a gap)" if found else ""
