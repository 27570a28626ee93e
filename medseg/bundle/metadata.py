"""What a bundle says of itself: metadata, their schema, logging and the page for people."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import monai
import numpy as np
import torch

from medseg import __version__
from medseg.bundle.configs import Config
from medseg.config import DataSpec

LOGGING = """[loggers]
keys=root

[handlers]
keys=consoleHandler

[formatters]
keys=fullFormatter

[logger_root]
level=INFO
handlers=consoleHandler

[handler_consoleHandler]
class=StreamHandler
level=INFO
formatter=fullFormatter
args=(sys.stdout,)

[formatter_fullFormatter]
format=%(asctime)s - %(name)s - %(levelname)s - %(message)s
"""


def _sizes(data: DataSpec, views: Sequence[str]) -> tuple[list[int], list[int]]:
    """Voxels of an example of what the network takes, and of what it makes of it."""
    if views:  # any size will do that every plane can halve; the patch would be a volume of whole slices
        example = [min(n, 4 * gcd(n, 16)) for n in data.patch]
        return example, example
    return [n + 2 * c for n, c in zip(data.patch, data.context, strict=True)], list(data.patch)


def metadata(data: DataSpec, name: str, views: Sequence[str] = ()) -> Config:
    """`metadata.json`: what the model is, takes and gives."""
    organs = ", ".join(data.labels[v] for v in data.label_values[1:])
    modality = data.modality[0] if len(set(data.modality)) == 1 else ", ".join(data.modality)
    taken, made = _sizes(data, views)
    tensor = {"dtype": "float32", "value_range": [], "is_patch_data": True}
    seen = f" A network for each of the views {', '.join(views)}; their label maps are fused." if views else ""
    image = {
        "type": "image",
        "format": "hounsfield" if set(data.modality) == {"CT"} else "magnitude",
        "modality": modality,
        "num_channels": len(data.modality),
        "spatial_shape": taken,
        **tensor,
        "channel_def": {str(i): m for i, m in enumerate(data.modality)},
    }
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": data.classes,
        "spatial_shape": made,
        **tensor,
        "channel_def": {str(i): data.labels[v] for i, v in enumerate(data.label_values)},
    }
    return {
        "schema": "configs/metadata_schema.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": "as trained"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.2", "pytorch-ignite": "0.5"},
        "supported_apps": {"monai-label": ""},
        "name": name,
        "task": f"Segmentation of {organs} in {modality}",
        "description": f"Trained by medseg {__version__}, pipeline {name}.{seen} Not for diagnostic use.",
        "authors": "The user of medseg who trained it",
        "copyright": "As of the training data and its user",
        "intended_use": "Research only; not for diagnostic use.",
        "data_type": "nifti",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def metadata_schema() -> Config:
    """A JSON schema of `metadata.json` that needs no download."""
    text, versions = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}
    tensor = {
        "type": "object",
        "properties": {
            "type": text,
            "format": text,
            "modality": text,
            "num_channels": {"type": "integer", "minimum": 1},
            "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
            "dtype": text,
            "value_range": {"type": "array", "items": {"type": "number"}},
            "is_patch_data": {"type": "boolean"},
            "channel_def": versions,
        },
    }
    tensor["required"] = [key for key in tensor["properties"] if key != "modality"]
    tensors = {"type": "object", "minProperties": 1, "additionalProperties": tensor}
    properties = {
        "schema": text,
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
        "changelog": versions,
        "monai_version": text,
        "pytorch_version": text,
        "numpy_version": text,
        "required_packages_version": versions,
        "task": text,
        "description": text,
        "authors": text,
        "copyright": text,
        "network_data_format": {
            "type": "object",
            "properties": {"inputs": tensors, "outputs": tensors},
            "required": ["inputs", "outputs"],
        },
    }
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, "type": "object", "properties": properties, "required": list(properties)}


_TRAIN = """Continue training on a Decathlon data list `dataset.json` with `training`
and `validation`:

    python -m monai.bundle run --config_file configs/train.json --bundle_root . --dataset_dir DATA
"""

_NO_TRAIN = """There is no `configs/train.json`: each network was trained on slices of its own plane, and
MONAI's trainer trains one network on one kind of patch. Train again with medseg.
"""


def readme(data: DataSpec, name: str, views: Sequence[str] = ()) -> str:
    """`docs/README.md`: what the model finds and how to run it without medseg."""
    rows = "\n".join(f"| {value} | {data.labels[value]} |" for value in data.label_values)
    spacing = " x ".join(f"{mm:g}" for mm in data.spacing_mm)
    window = " x ".join(map(str, data.patch))
    seen = one = ""
    if views:
        seen = f"\nIt is a network for each of the views {', '.join(views)}; their label maps are fused."
        one = f"""\nA single view is asked with `--inferer#views "['{views[0]}']"`.\n"""
    return f"""# {name}

A segmentation model for {", ".join(data.modality)}, trained by medseg {__version__} at {spacing} mm
with windows of {window} voxels.{seen} Not for diagnostic use.

| value in the result | structure |
| --- | --- |
{rows}

Predict every image of a folder, from this folder, with MONAI alone:

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir IMAGES --output_dir RESULTS

Each result `<case>.nii.gz` lies on its image's own grid. {_files(len(data.modality))}
The result of another image of the same name is not replaced.{one}
{_NO_TRAIN if views else _TRAIN}
`pip install "monai[nibabel,ignite,fire]"` is all that is needed; `deflate` and `isal` read compressed files faster.
"""


def _files(channels: int) -> str:
    """Which files are one case."""
    if channels == 1:
        raw = "in nnU-Net's folders\nimagesTr and imagesTs the `_0000` at its end is no part of the name."
        return f"Each file is a case; {raw}"
    return f"Files named `<case>_0000` to\n`<case>_{channels - 1:04d}`, none missing, are the channels of one case."
