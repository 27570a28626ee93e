"""Images and labels side by side in one folder, told apart by the ends of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.manifest.manifest import Case
from medseg.portable.io.channel_names import group_channels, shown_by_labels, without_mark
from medseg.portable.io.find_cases import passed_over
from medseg.progress import say
from medseg.workflows.data.layouts.found import Found, images_in, named
from medseg.workflows.data.layouts.roles import SEPARATORS, channels_of, modality_of, role_of


def find_pairs(folder: Path) -> Found | None:
    """Cases of a folder with `p1.nii.gz` and `p1_seg.nii.gz`, or `p1_t1.nii.gz`, `p1_t2.nii.gz` and `p1_seg.nii.gz`.

    Labels end in seg, segmentation, label, mask or gt, after one of `-_. `, in capitals or not.

    Returns:
        None where no label has an image.

    Raises:
        DataError: two files have one name, or labels have no image, or an image has two labels.
    """
    files = named(images_in(folder), slicer=True)
    labels = _labels(files, folder)
    images = [name for name in files if without_mark(name) == name]
    if not labels or not images:
        return None
    counts = {1, *shown_by_labels(images, labels)}
    groups = group_channels(images, counts, labels=labels)
    by_fold = {base.casefold(): base for base in labels}
    paired = [name for name in groups if name.casefold() in by_fold]
    found = Found(known_as=f"pairs of files in one folder, such as {files[next(iter(labels.values()))].name}")
    if not paired:
        groups, found.modality = _by_role(images, labels, folder)
        if not any(name in labels for name in groups):
            return None
    lonely = {fold: base for fold, base in by_fold.items() if fold not in {name.casefold() for name in groups}}
    if lonely:
        first = files[labels[next(iter(lonely.values()))]].name
        what = f"{len(lonely)} labels have no image of the same name, such as {first}"
        raise DataError(what, path=folder, hint="rename or remove them")
    others = passed_over(folder)
    if others:
        say(f"warning: {folder}: {others}")
    for name, members in groups.items():
        case: dict[str, Any] = {"image": [files[member].name for member in members]}
        base = by_fold.get(name.casefold())
        if base is not None:
            case["label"] = files[labels[base]].name
        if Case.model_validate(case).name != name:
            case["case"] = name
        found.add(case)
    return found


def _labels(files: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Name of the image -> name of its label.

    Raises:
        DataError: an image has two.
    """
    labels: dict[str, str] = {}
    for name in files:
        base = without_mark(name)
        if base == name:
            continue
        if base in labels:
            what = f"has {files[labels[base]].name} and {files[name].name}, both labels of '{base}'"
            raise DataError(what, path=folder, hint="accepted is one; several raters are fused by medseg consensus")
        labels[base] = name
    return labels


def _by_role(
    images: Sequence[str], labels: Mapping[str, str], folder: Path
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Images whose names go on where those of their labels end: `p1_t1` of `p1_seg`.

    Returns:
        Case -> names of its images in the order of the channels, and the modalities that the names say.
    """
    roles: dict[str, dict[str, str]] = {}
    rest = []
    for name in images:
        owner = _longest(name, labels)
        if owner:
            roles.setdefault(owner, {})[role_of(name, owner)] = name
        else:
            rest.append(name)
    if not roles:
        return {}, ()
    known = set().union(*roles.values())
    for name in rest:  # unlabelled images
        role = next((each for each in known if name.casefold().endswith(each) and len(name) > len(each)), "")
        owner = name[: len(name) - len(role)].rstrip(SEPARATORS)
        roles.setdefault(owner, {})[role] = name
    channels = channels_of({owner: list(found) for owner, found in roles.items()}, str(folder))
    groups = {}
    for owner, found in sorted(roles.items()):
        groups[owner] = [found[channel] for channel in channels] if channels else list(found.values())
    return groups, modality_of(channels, known)


def _longest(name: str, labels: Mapping[str, str]) -> str:
    """The longest name of a label, without its mark, that an image's name begins with."""
    fitting = [
        base for base in labels if name.casefold().startswith(base.casefold()) and name[len(base) :][:1] in SEPARATORS
    ]
    return max(fitting, key=len, default="")
