"""What a bundle says of itself: metadata, their schema and the page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

import monai
import numpy as np
import torch

from medseg import __version__
from medseg.bundle.configs import Config, fill, load_template
from medseg.bundle.model_card import before_postprocessing, kinds_of, limits, structure_table, training_sections
from medseg.bundle.training_facts import TrainingFacts
from medseg.config.pipeline import DataSpec


def metadata(data: DataSpec, name: str, views: Sequence[str] = ()) -> Config:
    """`metadata.json`: what the model is, takes and gives."""
    structures = ", ".join(data.structures.values())
    modality = ", ".join(data.modality)
    if len(set(data.modality)) == 1:
        modality = data.modality[0]
    of_views = ""
    if views:
        of_views = f" A network for each of the views {', '.join(views)}; their label maps are fused."
    config = load_template("metadata.json")
    fill(
        config,
        monai_version=monai.__version__,
        pytorch_version=torch.__version__.partition("+")[0],
        numpy_version=np.__version__,
        name=name,
        task=f"{_task(data)} of {structures} in {modality}",
        description=f"Trained by medseg {__version__}, pipeline {name}.{of_views} Not for diagnostic use.",
    )
    tensors = config["network_data_format"]
    input_size, output_size = _tensor_sizes(data, views)
    fill(
        tensors["inputs"]["image"],
        format="hounsfield" if set(data.modality) == {"CT"} else "magnitude",
        modality=modality,
        num_channels=len(data.modality),
        spatial_shape=input_size,
        channel_def={str(channel): name for channel, name in enumerate(data.modality)},
    )
    fill(
        tensors["outputs"]["pred"],
        num_channels=len(data.output_values),
        spatial_shape=output_size,
        channel_def={str(index): data.labels[value] for index, value in enumerate(data.output_values)},
    )
    return config


def _task(data: DataSpec) -> str:
    return "Classification" if data.target == "images" else "Segmentation"


def _tensor_sizes(data: DataSpec, views: Sequence[str]) -> tuple[list[int], list[int]]:
    """Voxels of an example of the network's input and of its output."""
    if views:  # any size will do that every plane can halve; the patch would be a volume of whole slices
        example = [min(length, 4 * gcd(length, 16)) for length in data.patch]
        return example, example
    with_context = [length + 2 * context for length, context in zip(data.patch, data.context, strict=True)]
    return with_context, list(data.patch)


def metadata_schema() -> Config:
    """A JSON schema of `metadata.json` that needs no download."""
    return load_template("metadata_schema.json")


_TRAIN = """Continue training on a Decathlon data list `dataset.json` with `training`
and `validation`:

    python -m monai.bundle run --config_file configs/train.json --bundle_root . --dataset_dir DATA
"""

_NO_TRAIN = """There is no `configs/train.json`: each network was trained on slices of its own plane, and
MONAI's trainer trains one network on one kind of patch. Train again with medseg.
"""


def readme(
    data: DataSpec,
    name: str,
    views: Sequence[str] = (),
    kept: Mapping[str, str] | None = None,
    facts: TrainingFacts | None = None,
) -> str:
    """`docs/README.md`, the model card: what the model finds, how good it is, what it was trained on, how to run it.

    Args:
        data: what the plan decided about the data.
        name: of the pipeline.
        views: that have a network each.
        kept: structure -> which of its components stay and what that brought, as a phrase.
        facts: of the training; None: none were kept.
    """
    spacing = " x ".join(f"{mm:g}" for mm in data.spacing_mm)
    window = " x ".join(str(length) for length in data.patch)
    of_views = ""
    if views:
        of_views = f"\nIt is a network for each of the views {', '.join(views)}; their label maps are fused."
    return f"""# {name}

A {_task(data).lower()} model for {kinds_of(data)}, trained by medseg {__version__} at {spacing} mm
with windows of {window} voxels.{of_views} Not for diagnostic use.

{_of_images(data)}{_of_regions(data)}{structure_table(data, facts)}

{before_postprocessing(kept or {}, facts)}{training_sections(data, facts)}## Limits

{limits(data, facts)}

## How to run it

With medseg, from this folder, also on DICOM series, with a check of each image and result:

    medseg predict --model . --input IMAGES --output RESULTS

{_with_monai(data, views, kept or {})}"""


def _with_monai(data: DataSpec, views: Sequence[str], kept: Mapping[str, str]) -> str:
    """How to run it without medseg."""
    one_view, training, extras = "", _TRAIN, "nibabel,ignite,fire"
    if kept:
        extras += ",skimage"
    if views:
        inferer = "inferer#inferer" if kept else "inferer"
        one_view = f"""\nA single view is asked with `--{inferer}#views "['{views[0]}']"`.\n"""
        training = _NO_TRAIN
    return f"""Predict every image of a folder, from this folder, with MONAI alone:

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir IMAGES --output_dir RESULTS

Each result `<case>.nii.gz` lies on its image's own grid. {_files(len(data.modality))}
The result of another image of the same name is not replaced.{one_view}{_kept_components(kept)}
{training}
`pip install "monai[{extras}]"` is all that is needed; `deflate` and `isal` read compressed files faster.
"""


def _kept_components(kept: Mapping[str, str]) -> str:
    """What is removed of a result, and how not to."""
    if not kept:
        return ""
    rules = "; ".join(f"{structure}: {rule}" for structure, rule in kept.items())
    return f"""
Of these structures a result keeps only, as it was best on the validation cases of the training: {rules}.
Everything stays with `--inferer#components "{{}}"`.
"""


def _of_images(data: DataSpec) -> str:
    """What a result says of a whole image."""
    if data.target != "images":
        return ""
    return (
        "An image has one class, which is the value of every voxel of its result, or of most where windows differ.\n\n"
    )


def _of_regions(data: DataSpec) -> str:
    """What the values of a result say of classes that overlap."""
    if not data.regions:
        return ""
    painted = "; ".join(f"{region.name} is {_either(region.values)}" for region in data.regions)
    return (
        "Its classes overlap: the network has a sigmoid for each of them, and each that is above a half paints its\n"
        f"value over those before it. In a result {painted}.\n\n"
    )


def _either(values: Sequence[int]) -> str:
    return " or ".join(map(str, values))


def _files(channels: int) -> str:
    """Which files are one case."""
    if channels == 1:
        raw = "in nnU-Net's folders\nimagesTr and imagesTs the `_0000` at its end is no part of the name."
        return f"Each file is a case; {raw}"
    return f"Files named `<case>_0000` to\n`<case>_{channels - 1:04d}`, none missing, are the channels of one case."
