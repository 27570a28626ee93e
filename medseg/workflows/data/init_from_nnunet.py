"""Manifests of nnU-Net's raw folders (version 2): dataset.json, imagesTr, labelsTr, imagesTs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from medseg.errors import ManifestError
from medseg.manifest.json_file import read_json
from medseg.manifest.manifest import Manifest
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
        ManifestError: for region-based labels, and for files that do not fit dataset.json.
    """
    file = source / "dataset.json"
    told = read_json(file)
    missing = [key for key in ("channel_names", "labels", "file_ending") if key not in told]
    if missing:
        raise ManifestError(f"lacks {', '.join(missing)}", path=file, hint=HINT)
    names = told["channel_names"]
    if not isinstance(names, dict) or not isinstance(told["labels"], dict):
        raise ManifestError("its channel_names or labels is no JSON object", path=file, hint=HINT)
    labels, ignored = _labels(told["labels"], file)
    content: dict[str, Any] = {"name": str(told.get("name", source.name)), "labels": labels}
    content["modality"] = dict.fromkeys(names, modality) if modality else names
    if ignored is not None:
        content["ignore_index"] = ignored
    for key in ("description", "reference", "licence", "license", "release"):
        if isinstance(told.get(key), str):
            content[key] = told[key]
    return content | _cases(source, told, file)


def _labels(told: dict[str, Any], file: Path) -> tuple[dict[str, str], int | None]:
    """Value -> name, and the value that is to be ignored."""
    regions = [name for name, value in told.items() if not isinstance(value, int)]
    if regions:
        what = f"its labels {', '.join(regions)} are regions; accepted is one value per class"
        raise ManifestError(what, path=file, hint="save the regions as classes that do not overlap")
    ignored = told.get("ignore")
    return {str(value): name for name, value in told.items() if name != "ignore"}, ignored


def _cases(source: Path, told: dict[str, Any], file: Path) -> dict[str, list[dict[str, Any]]]:
    ending, count = str(told["file_ending"]), len(told["channel_names"])
    sections: dict[str, list[dict[str, Any]]] = {"training": [], "test": [], "unlabeled": []}
    if isinstance(told.get("dataset"), dict):  # every path spelled out
        trained, labels = _spelled_out(source, told["dataset"], file)
    else:
        labels = _files(source / "labelsTr", ending)
        trained = _grouped(source / "imagesTr", ending, count, labels)
    test_labels = _files(source / "labelsTs", ending)
    tested = _grouped(source / "imagesTs", ending, count, test_labels)
    for name in sorted(set(labels) - set(trained)):
        raise ManifestError(f"the label {labels[name].name} has no image in imagesTr", path=file, hint=HINT)
    for images, known, section in ((trained, labels, "training"), (tested, test_labels, "test")):
        for name, files in images.items():
            if len(files) not in (1, count):  # one file may hold all channels, as coloured pictures do
                what = f"case {name} has {len(files)} files, channel_names has {count}"
                raise ManifestError(what, path=file, hint=HINT)
            case: dict[str, Any] = {"image": [Manifest.relative(p, source) for p in files]}
            if name in known:
                case["label"] = Manifest.relative(known[name], source)
            sections["unlabeled" if section == "training" and name not in known else section].append(case)
    return {name: cases for name, cases in sections.items() if cases}


def _files(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    files = sorted(p for p in folder.iterdir() if p.name.endswith(ending) and not p.name.startswith("."))
    return {p.name.removesuffix(ending): p for p in files}


def _spelled_out(source: Path, told: dict[str, Any], file: Path) -> tuple[dict[str, list[Path]], dict[str, Path]]:
    """The images and the label of each case, where dataset.json lists them itself."""
    try:
        images = {name: [source / p for p in entry["images"]] for name, entry in told.items()}
        return images, {name: source / entry["label"] for name, entry in told.items()}
    except (KeyError, TypeError) as e:
        raise ManifestError(f"its 'dataset' has an entry without images or label ({e})", path=file, hint=HINT) from e


def _grouped(folder: Path, ending: str, count: int, labels: Collection[str]) -> dict[str, list[Path]]:
    """Case -> its files: one for each of `count` channels, or one for all of them.

    Raises:
        ManifestError: a file is not named so.
    """
    files = _files(folder, ending)
    cases = group_channels(files, (count,), raw=True, labels=labels)
    for case, names in cases.items():
        if names == [case]:
            raise ManifestError(_misnamed(case, files, count, ending), path=files[case], hint=_remedy(case, ending))
    return {case: [files[name] for name in names] for case, names in cases.items()}


def _misnamed(name: str, names: Collection[str], count: int, ending: str) -> str:
    """What is wrong with a file that is no channel of nnU-Net's."""
    parts = split_number(name)
    if parts is None:
        return f"is not named like nnU-Net's images (case{FIRST}{ending})"
    wanted = listed([f"{parts[0]}_{number:04d}" for number in range(count)])
    return f"is no channel of a case '{parts[0]}', which would be {wanted}; there are {listed(alike(parts[0], names))}"


def _remedy(name: str, ending: str) -> str:
    return f"rename it, {name}{FIRST}{ending} if it is a case by itself, or use --kind folders"
