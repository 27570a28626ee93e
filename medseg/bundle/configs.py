"""The files of a bundle's `configs/`: what MONAI's tools read, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medseg.config import DataSpec
from medseg.data.preprocessing_config import preprocessing

SCRIPTS = "scripts"
Config = dict[str, Any]


def _common(network_def: Config) -> Config:
    return {
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "network_def": network_def,
        "network": "$@network_def.to(@device)",
    }


def _compose(transforms: list[Config]) -> Config:
    return {"_target_": "monai.transforms.Compose", "transforms": transforms}


def _weights(file: str) -> Config:
    return {
        "_target_": "monai.handlers.CheckpointLoader",
        "load_path": f"$@bundle_root + '/models/{file}'",
        "load_dict": {"model": "@network"},
        "map_location": "@device",
        "strict": True,
    }


def inferer_config(data: DataSpec, views: Sequence[str] = (), fusion: str = "vote") -> Config:
    """What predicts: windows over one network, or over one for each of several views."""
    common = {
        "roi_size": list(data.patch),
        "overlap": data.overlap,
        "sw_batch_size": 2,
        "label_values": list(data.label_values),
    }
    if views:
        return {
            "_target_": f"{SCRIPTS}.inference.multi_view.ViewsInferer",
            **common,
            "views": list(views),
            "fusion": fusion,
        }
    context = {"context": list(data.context)} if any(data.context) else {}
    return {"_target_": f"{SCRIPTS}.inference.sliding_window.SlabInferer", **common, **context}


def inference_config(network_def: Config, data: DataSpec, inferer: Config) -> Config:
    """`inference.json`: every image of `dataset_dir` to a label map in `output_dir`."""
    cases = {
        "_target_": f"{SCRIPTS}.io.find_cases.find_cases",
        "folder": "@dataset_dir",
        "channels": len(data.modality),
    }
    return {
        **_common(network_def),
        "preprocessing": _compose(preprocessing(data, package=SCRIPTS)),
        "dataset": {"_target_": "monai.data.Dataset", "data": cases, "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "monai.data.DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": inferer,
        "postprocessing": _compose(
            [{"_target_": f"{SCRIPTS}.io.monai_writer.SaveLabeld", "keys": ["pred"], "output_dir": "@output_dir"}]
        ),
        "handlers": [
            _weights("model.pt"),
            {"_target_": "monai.handlers.StatsHandler", "iteration_log": False},
        ],
        "evaluator": {
            "_target_": "monai.engines.SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _to_indices(data: DataSpec) -> list[Config]:
    values = list(data.label_values)
    indices = list(range(len(values)))
    if values == indices:
        return []
    mapping = {"orig_labels": values, "target_labels": indices}
    return [{"_target_": "monai.transforms.MapLabelValued", "keys": ["label"], **mapping}]


def _datalist(key: str) -> Config:
    return {
        "_target_": "monai.data.load_decathlon_datalist",
        "data_list_file_path": "@data_list_file",
        "is_segmentation": True,
        "data_list_key": key,
        "base_dir": "@dataset_dir",
    }


def train_config(network_def: Config, data: DataSpec) -> Config:
    """`train.json`: continue from these weights on labelled data, with MONAI's stock trainer."""
    prepared = preprocessing(data, ("image", "label"), package=SCRIPTS) + _to_indices(data)
    both, seen = {"keys": ["image", "label"]}, [n + 2 * c for n, c in zip(data.patch, data.context, strict=True)]
    crops: list[Config] = [
        {"_target_": "monai.transforms.SpatialPadd", **both, "spatial_size": seen},
        {
            "_target_": "monai.transforms.RandCropByLabelClassesd",  # never around a voxel that nobody labelled
            **both,
            "label_key": "label",
            "spatial_size": seen,
            "num_classes": data.classes,
            "ratios": [data.classes - 1] + [1] * (data.classes - 1),
            "num_samples": 2,
            "warn": False,
        },
        {"_target_": "monai.transforms.RandScaleIntensityd", "keys": ["image"], "factors": 0.1, "prob": 0.5},
    ]
    if any(data.context):  # what is seen beside the labelled slice
        crops.append(
            {"_target_": "monai.transforms.CenterSpatialCropd", "keys": ["label"], "roi_size": list(data.patch)}
        )
    return {
        **_common(network_def),
        "data_list_file": "$@dataset_dir + '/dataset.json'",
        "epochs": 50,
        "val_interval": 5,
        "learning_rate": 0.0001,
        "loss": {"_target_": f"{SCRIPTS}.masked_losses.DiceAndCrossEntropy"},
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "params": "$@network.parameters()",
            "lr": "@learning_rate",
        },
        "train": _training(prepared + crops, data.classes),
        "validate": _validation(prepared, data),
        "run": ["$@train#trainer.run()"],
    }


def evaluate_config() -> Config:
    """`evaluate.json`: read after `train.json`, it validates these weights; federated clients ask for it."""
    handlers = [{"_target_": "monai.handlers.StatsHandler", "iteration_log": False}]
    return {"validate#handlers": [_weights("model.pt"), *handlers], "run": ["$@validate#evaluator.run()"]}


def _loader(dataset: str, shuffle: bool) -> Config:
    options = {"batch_size": 1, "shuffle": shuffle, "num_workers": 0}
    return {"_target_": "monai.data.DataLoader", "dataset": dataset, **options}


def _one_hot(classes: int) -> Config:
    return _compose(
        [{"_target_": f"{SCRIPTS}.masked_losses.KnownOneHotd", "keys": ["pred", "label"], "classes": classes}]
    )


def _dice() -> Config:
    take = "$monai.handlers.from_engine(['pred', 'label'])"
    metric = {"_target_": "monai.handlers.MeanDice", "include_background": False, "output_transform": take}
    return {"mean_dice": metric}


def _training(transforms: list[Config], classes: int) -> Config:
    return {
        "preprocessing": _compose(transforms),
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": _datalist("training"),
            "transform": "@train#preprocessing",
        },
        "dataloader": _loader("@train#dataset", True),
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "postprocessing": _one_hot(classes),
        "key_metric": _dice(),
        "handlers": [
            _weights("model.pt"),
            {
                "_target_": "monai.handlers.ValidationHandler",
                "validator": "@validate#evaluator",
                "interval": "@val_interval",
                "epoch_level": True,
            },
            {
                "_target_": "monai.handlers.StatsHandler",
                "tag_name": "train_loss",
                "output_transform": "$monai.handlers.from_engine(['loss'], first=True)",
            },
        ],
        "trainer": {
            "_target_": "monai.engines.SupervisedTrainer",
            "max_epochs": "@epochs",
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "optimizer": "@optimizer",
            "loss_function": "@loss",
            "inferer": "@train#inferer",
            "postprocessing": "@train#postprocessing",
            "key_train_metric": "@train#key_metric",
            "train_handlers": "@train#handlers",
        },
    }


def _validation(transforms: list[Config], data: DataSpec) -> Config:
    own_grid = {k: v for k, v in inferer_config(data).items() if k != "label_values"} | {"restore": False}
    return {
        "preprocessing": _compose(transforms),
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": _datalist("validation"),
            "transform": "@validate#preprocessing",
        },
        "dataloader": _loader("@validate#dataset", False),
        "inferer": own_grid,
        "postprocessing": _one_hot(data.classes),
        "key_metric": _dice(),
        "handlers": [
            {"_target_": "monai.handlers.StatsHandler", "iteration_log": False},
            {
                "_target_": "monai.handlers.CheckpointSaver",
                "save_dir": "$@bundle_root + '/models'",
                "save_dict": {"model": "@network"},
                "save_key_metric": True,
                "key_metric_filename": "model_finetuned.pt",
            },
        ],
        "evaluator": {
            "_target_": "monai.engines.SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network",
            "inferer": "@validate#inferer",
            "postprocessing": "@validate#postprocessing",
            "key_val_metric": "@validate#key_metric",
            "val_handlers": "@validate#handlers",
        },
    }
