"""The files of a bundle's `configs/`: JSON templates with the values of one model filled in.

What every bundle shares stands in `templates/`, as the JSON files that MONAI's tools read; null marks a value that is
filled in here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from medseg.config.pipeline import DataSpec
from medseg.data.preprocessing_config import preprocessing

SCRIPTS = "scripts"
Config = dict[str, Any]


def read_template(name: str) -> str:
    """The text of a file in `templates/`."""
    return resources.files("medseg.bundle").joinpath("templates", name).read_text("utf-8")


def load_template(name: str) -> Config:
    """The content of a JSON file in `templates/`, a new object each time."""
    return json.loads(read_template(name))


def fill(section: Config, **values: Any) -> None:
    """Set values of a part of a template, which has a place for each of them.

    Raises:
        KeyError: the template has no such place.
    """
    for key, value in values.items():
        if key not in section:
            raise KeyError(f"the template has no {key!r}, only {', '.join(section)}")
        section[key] = value


def inferer_config(data: DataSpec, views: Sequence[str] = (), fusion: str = "vote") -> Config:
    """What predicts: a sliding window over one network, or over one for each of several views."""
    inferer = load_template("multi_view_inferer.json" if views else "sliding_window_inferer.json")
    fill(inferer, roi_size=list(data.patch), overlap=data.overlap, label_values=list(data.label_values))
    if views:
        fill(inferer, views=list(views), fusion=fusion)
    elif any(data.context):
        inferer["context"] = list(data.context)
    if data.padding != "minimum":
        inferer["padding"] = data.padding
    if data.blend == "uniform":
        module, _, name = inferer["_target_"].rpartition(".")
        inferer["_target_"] = f"{module}.Uniform{name}"
    return inferer


def inferer_of_regions(inferer: Config, data: DataSpec) -> Config:
    """The inferer of a network of regions, where classes overlap; else as it is."""
    if not data.regions:
        return inferer
    target = f"{SCRIPTS}.inference.region_sink.with_regions"
    return {"_target_": target, "inferer": inferer, "paint_order": list(data.paint_order)}


def inference_config(network_def: Config, data: DataSpec, inferer: Config) -> Config:
    """`inference.json`: every image of `dataset_dir` to a label map in `output_dir`."""
    config = load_template("inference.json")
    fill(config, network_def=network_def, inferer=inferer_of_regions(inferer, data))
    fill(config["preprocessing"], transforms=preprocessing(data, package=SCRIPTS))
    fill(config["dataset"]["data"], channels=len(data.modality))
    return config


def train_config(network_def: Config, data: DataSpec) -> Config:
    """`train.json`: continue from these weights on labelled data, with MONAI's stock trainer."""
    config = load_template("train.json")
    fill(config, network_def=network_def)
    config["loss"] = _loss(data)
    for section in (config["train"], config["validate"]):
        transforms = section["preprocessing"]["transforms"]
        _fill_transforms(transforms, data)
        transforms[:0] = preprocessing(data, ("image", "label"), package=SCRIPTS)
        if data.regions:
            keys = ["pred", "label"]
            masks = {"_target_": f"{SCRIPTS}.regions.KnownRegionsd", "keys": keys, **_members(data)}
            section["postprocessing"]["transforms"] = [masks]
        else:
            (one_hot,) = section["postprocessing"]["transforms"]
            fill(one_hot, classes=data.classes)
        if data.regions or not data.has_background:
            fill(section["key_metric"]["mean_dice"], include_background=True)
    inferer = inferer_config(data)
    del inferer["label_values"]  # Dice compares class indices, on the network's grid
    inferer["restore"] = False
    fill(config["validate"], inferer=inferer_of_regions(inferer, data))
    return config


def _loss(data: DataSpec) -> Config:
    if data.regions:
        return {"_target_": f"{SCRIPTS}.regions.RegionDiceAndCrossEntropy", **_members(data)}
    loss: Config = {"_target_": f"{SCRIPTS}.masked_losses.DiceAndCrossEntropy"}
    return loss if data.has_background else {**loss, "has_background": False}


def _members(data: DataSpec) -> Config:
    return {"members": [list(indices) for indices in data.region_members]}


def evaluate_config() -> Config:
    """`evaluate.json`: read after `train.json`, it validates these weights; federated clients ask for it."""
    return load_template("evaluate.json")


def _fill_transforms(transforms: list[Config], data: DataSpec) -> None:
    """Fill in what follows the preprocessing in training or validation, and leave out what this model does not need."""
    seen = [length + 2 * context for length, context in zip(data.patch, data.context, strict=True)]
    values, indices = list(data.label_values), list(range(data.classes))
    ratios = [1] * data.classes
    if data.has_background:
        ratios[0] = data.classes - 1  # as many patches as of all others together
    arguments: dict[str, Config] = {
        "MapLabelValued": {"orig_labels": values, "target_labels": indices},
        "SpatialPadd": {"spatial_size": seen},
        # never around a voxel that nobody labelled
        "RandCropByLabelClassesd": {
            "spatial_size": seen,
            "num_classes": data.classes,
            "ratios": ratios,
        },
        # the labelled slice, without what is seen beside it
        "CenterSpatialCropd": {"roi_size": list(data.patch)},
    }
    unneeded = set()
    if values == indices:
        unneeded.add("MapLabelValued")
    if not any(data.context):
        unneeded.add("CenterSpatialCropd")
    for transform in list(transforms):
        name = transform["_target_"].rpartition(".")[2]
        if name in unneeded:
            transforms.remove(transform)
        else:
            fill(transform, **arguments.get(name, {}))
        if name == "SpatialPadd" and data.padding == "edge":
            transform["mode"] = "edge"
