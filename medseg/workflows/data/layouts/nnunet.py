"""Manifests of nnU-Net's raw folders (version 2): dataset.json, imagesTr, labelsTr, imagesTs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePath
from typing import Any

from medseg.errors import ManifestError
from medseg.manifest.fields import stem
from medseg.manifest.json_file import read_json
from medseg.manifest.manifest import Manifest
from medseg.manifest.regions import ORDER
from medseg.portable.io.channel_names import FIRST, alike, group_channels, listed, split_number

HINT = "see nnU-Net's description of dataset.json"


def is_nnunet(content: dict[str, Any]) -> bool:
    """Whether a dataset.json is nnU-Net's and not the Decathlon's."""
    return "channel_names" in content or "file_ending" in content


def from_nnunet(source: Path, modality: str | None) -> dict[str, Any]:
    """What a manifest of such a folder says; images in imagesTr without a label become `unlabeled`.

    Args:
        source: a folder such as Dataset002_Heart.
        modality: instead of the names in dataset.json.

    Raises:
        ManifestError: for files that do not fit dataset.json.
    """
    file = source / "dataset.json"
    described = read_json(file)
    missing = [key for key in ("channel_names", "labels", "file_ending") if key not in described]
    if missing:
        raise ManifestError(f"lacks {', '.join(missing)}", path=file, hint=HINT)
    names = described["channel_names"]
    if not isinstance(names, dict) or not isinstance(described["labels"], dict):
        raise ManifestError("its channel_names or labels is no JSON object", path=file, hint=HINT)
    content: dict[str, Any] = {"name": str(described.get("name", source.name)), **_labels(described)}
    content["modality"] = dict.fromkeys(names, modality) if modality else names
    for key in ("description", "reference", "licence", "license", "release"):
        if isinstance(described.get(key), str):
            content[key] = described[key]
    return content | _cases(source, described, file)


def _labels(described: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of the labels: names with their values, regions, and the value that is to be ignored."""
    values = dict(described["labels"])
    said: dict[str, Any] = {}
    if "ignore" in values:
        said["ignore_index"] = values.pop("ignore")
    if any(isinstance(value, list) for value in values.values()):
        return {**said, "labels": values, ORDER: described.get(ORDER)}
    return {**said, "labels": {str(value): name for name, value in values.items()}}


def with_numbered_channels(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A dataset.json of nnU-Net's version 1, which lists `case.nii.gz` where the files are `case_0000.nii.gz`.

    Args:
        content: of the file, as Decathlon's.
        folder: that paths are relative to.
    """
    modality = content.get("modality")
    count = len(modality) if isinstance(modality, dict | list) and modality else 1
    for name in ("training", "test", "testing"):
        cases = content.get(name)
        if not isinstance(cases, list):
            continue
        for place, case in enumerate(cases):
            image = case.get("image") if isinstance(case, dict) else case
            if not isinstance(image, str) or (folder / image).exists():
                continue
            path = PurePath(image)
            bare = stem(path.name)
            numbered = [str(path.with_name(f"{bare}_{n:04d}{path.name[len(bare) :]}")) for n in range(count)]
            if all((folder / file).exists() for file in numbered):
                whole = case if isinstance(case, dict) else {}
                cases[place] = {**whole, "image": numbered, "case": bare}
    return content


def _cases(source: Path, described: dict[str, Any], file: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists of the manifest, those without a case left out."""
    ending, channels = str(described["file_ending"]), len(described["channel_names"])
    if isinstance(described.get("dataset"), dict):  # every path spelled out
        images, labels = _spelled_out(source, described["dataset"], file)
    else:
        labels = _files(source / "labelsTr", ending)
        images = _grouped(source / "imagesTr", ending, channels, labels)
    without_image = sorted(set(labels) - set(images))
    if without_image:
        label = labels[without_image[0]]
        raise ManifestError(f"the label {label.name} has no image in imagesTr", path=file, hint=HINT)
    test_labels = _files(source / "labelsTs", ending)
    test_images = _grouped(source / "imagesTs", ending, channels, test_labels)
    _check_channels({**images, **test_images}, channels, file)
    sections: dict[str, list[dict[str, Any]]] = {"training": [], "test": [], "unlabeled": []}
    for name, files in images.items():
        section = "training" if name in labels else "unlabeled"
        sections[section].append(_case(source, files, labels.get(name)))
    for name, files in test_images.items():
        sections["test"].append(_case(source, files, test_labels.get(name)))
    return {name: cases for name, cases in sections.items() if cases}


def _check_channels(images: dict[str, list[Path]], channels: int, file: Path) -> None:
    for name, files in images.items():
        if len(files) not in (1, channels):  # one file may hold all channels, as coloured images do
            what = f"case {name} has {len(files)} files, channel_names has {channels}"
            raise ManifestError(what, path=file, hint=HINT)


def _case(source: Path, images: list[Path], label: Path | None) -> dict[str, Any]:
    case: dict[str, Any] = {"image": [Manifest.relative(image, source) for image in images]}
    if label is not None:
        case["label"] = Manifest.relative(label, source)
    return case


def _files(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    wanted = ending.casefold()
    files = sorted(p for p in folder.iterdir() if p.name.casefold().endswith(wanted) and not p.name.startswith("."))
    return {p.name[: len(p.name) - len(ending)]: p for p in files}


def _spelled_out(source: Path, entries: dict[str, Any], file: Path) -> tuple[dict[str, list[Path]], dict[str, Path]]:
    """The images and the label of each case, where dataset.json lists them itself."""
    images, labels = {}, {}
    try:
        for name, entry in entries.items():
            images[name] = [source / image for image in entry["images"]]
            labels[name] = source / entry["label"]
    except (KeyError, TypeError) as e:
        raise ManifestError(f"its 'dataset' has an entry without images or label ({e})", path=file, hint=HINT) from e
    return images, labels


def _grouped(folder: Path, ending: str, count: int, labels: Collection[str]) -> dict[str, list[Path]]:
    """Case -> its files: one for each of `count` channels, or one for all of them.

    Raises:
        ManifestError: a file is not named so.
    """
    files = _files(folder, ending)
    grouped = {}
    for case, names in group_channels(files, (count,), raw=True, labels=labels).items():
        if names == [case]:
            raise ManifestError(_misnamed(case, files, count, ending), path=files[case], hint=_remedy(case, ending))
        grouped[case] = [files[name] for name in names]
    return grouped


def _misnamed(name: str, names: Collection[str], count: int, ending: str) -> str:
    """What is wrong with a file that is no channel of nnU-Net's."""
    parts = split_number(name)
    if parts is None:
        return f"is not named like nnU-Net's images (case{FIRST}{ending})"
    wanted = listed([f"{parts[0]}_{number:04d}" for number in range(count)])
    return f"is no channel of a case '{parts[0]}', which would be {wanted}; there are {listed(alike(parts[0], names))}"


def _remedy(name: str, ending: str) -> str:
    return f"rename it, {name}{FIRST}{ending} if it is a case by itself, or use --kind folders"
