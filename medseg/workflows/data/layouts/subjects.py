"""A folder for each subject, with its image or images and a label, or a folder with one mask for each structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.manifest.manifest import Case, Manifest
from medseg.workflows.data.layouts.found import PLACES, STRUCTURES, Found, first_folder, folders_in, images_in, named
from medseg.workflows.data.layouts.roles import channels_of, is_label, modality_of, role_of

STRUCTURE_FOLDERS = ("segmentations", "segmentation", "masks", "labels", "structures")
"""Folders of a subject in which there is one mask for each structure, as TotalSegmentator writes them."""


@dataclass
class Subject:
    """The files of one folder.

    Attributes:
        folder: of the subject.
        section: list of the manifest that the folder above it stands for.
        images: role -> file.
        label: of all structures.
        structures: name -> mask of this structure.
    """

    folder: Path
    section: str
    images: dict[str, Path]
    label: Path | None
    structures: dict[str, Path]


def find_subjects(source: Path) -> Found | None:
    """Cases of `p1/image.nii.gz` and `p1/label.nii.gz`, of several images each, or of `p1/segmentations/*.nii.gz`.

    The folders may lie in train/, val/ and test/.

    Returns:
        None where no folder has an image and a label that are known as such.

    Raises:
        DataError: a folder has two labels, two files have one name, or subjects have different images.
    """
    subjects = [subject for subject in _subjects(source) if subject.images]
    labelled = [subject for subject in subjects if subject.label or subject.structures]
    if not labelled:
        return None
    roles = {subject.folder.name: list(subject.images) for subject in subjects}
    channels = channels_of(roles, str(source))
    single = {role for found in roles.values() for role in found}
    found = Found(modality=modality_of(channels, single), known_as=_told(labelled[0]))
    for subject in subjects:
        images = [subject.images[channel] for channel in channels] or list(subject.images.values())
        case: dict[str, Any] = {"image": [Manifest.relative(image, source) for image in images]}
        if subject.label is not None:
            case["label"] = Manifest.relative(subject.label, source)
        if Case.model_validate(case).name != subject.folder.name:
            case["case"] = subject.folder.name
        if subject.structures:
            case[STRUCTURES] = subject.structures
        found.add(case, subject.section)
    return found


def _subjects(source: Path) -> Iterator[Subject]:
    """The folders of subjects, those in train/, val/ and test/ too."""
    sections = {name: section for section, names in PLACES.items() for name in names}
    for folder in folders_in(source):
        section = sections.get(folder.name.casefold())
        if section is None:
            yield _read(folder, "training")
            continue
        for inner in folders_in(folder):
            yield _read(inner, section)


def _read(folder: Path, section: str) -> Subject:
    images, labels = {}, []
    for name, path in named(images_in(folder), slicer=True).items():
        role = role_of(name, folder.name)
        if is_label(role):
            labels.append(path)
        else:
            images[role] = path
    inner = first_folder(folder, STRUCTURE_FOLDERS)
    structures = named(images_in(inner)) if inner is not None else {}
    if images and len(labels) + bool(structures) > 1:
        names = [path.name for path in labels] + ([f"{inner.name}/"] if inner is not None and structures else [])
        what = f"has {len(names)} labels, {', '.join(names)}"
        raise DataError(what, path=folder, hint="accepted is one; remove the others, or give --label-pattern")
    return Subject(folder, section, images, labels[0] if labels else None, structures)


def _told(subject: Subject) -> str:
    image = next(iter(subject.images.values()))
    label = subject.label.name if subject.label else f"{next(iter(subject.structures.values())).parent.name}/*"
    return f"a folder for each subject, such as {subject.folder.name}/{image.name} and {subject.folder.name}/{label}"
