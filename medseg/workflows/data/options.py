"""Options of `medseg data check`, `medseg data init` and `medseg data saliency`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from medseg.errors import ConfigError
from medseg.options import Option, check_types
from medseg.structure_names import named_twice


@dataclass(frozen=True)
class CheckOptions:
    """Which manifest to check, and how thoroughly."""

    manifest: Annotated[Path, Option("Manifest to check.", argument=True)]
    as_json: Annotated[bool, Option("A report for programs.", ("--json",))] = False
    headers_only: Annotated[bool, Option("Fast: do not read voxels.")] = False

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class InitOptions:
    """What to make a manifest of."""

    source: Annotated[
        Path, Option("Decathlon file, CSV, nnU-Net raw folder, or folder of images and labels.", argument=True)
    ]
    output: Annotated[Path, Option("Manifest to write.", ("--output", "-o"))]
    validation: Annotated[float, Option("Share of labelled subjects to hold out.")] = 0.0
    seed: Annotated[int, Option("Of that choice.")] = 0
    kind: Annotated[str, Option("auto, decathlon, nnunet, folders or csv.")] = "auto"
    name: Annotated[str | None, Option("Name of the data set.")] = None
    modality: Annotated[str | None, Option("CT, MR, ... where the source does not say.")] = None
    image_pattern: Annotated[
        str | None,
        Option("Where the images are, such as images/{case}.nii.gz; one pattern for each channel, divided by commas."),
    ] = None
    label_pattern: Annotated[str | None, Option("Where the labels are, such as labels/{case}_seg.nii.gz.")] = None
    label: Annotated[
        tuple[str, ...],
        Option(
            "VALUE=NAME of a class, such as 1=liver; may be repeated. Of masks of single structures: which to take."
        ),
    ] = ()
    colors: Annotated[
        str | None, Option("What the colours of masks are: a CSV with the columns name,r,g,b, or voc or camvid.")
    ] = None

    def __post_init__(self) -> None:
        check_types(self)
        self.names  # noqa: B018  # what cannot be understood is told now
        if (self.image_pattern is None) != (self.label_pattern is None):
            raise ConfigError("--image-pattern and --label-pattern are given together or not at all")

    @property
    def names(self) -> dict[int, str]:
        """Value -> name of the classes that the user names."""
        names: dict[int, str] = {}
        for text in self.label:
            value, equals, name = (part.strip() for part in text.partition("="))
            if not value.isdecimal() or not equals or not name:
                raise ConfigError(f"--label is '{text}'; accepted is VALUE=NAME, such as 1=liver")
            if int(value) in names:
                raise ConfigError(f"--label names {value} twice: {names[int(value)]} and {name}")
            names[int(value)] = name
        twice = named_twice(names.values())
        if twice:
            raise ConfigError(f"--label gives the name '{twice[0]}' to two values")
        return names


SALIENCY_KINDS = ("dark", "bright", "contrast", "features", "model")


@dataclass(frozen=True)
class SaliencyOptions:
    """Of which images to compute saliency, and from what."""

    manifest: Annotated[Path, Option("Manifest of the images.", argument=True)]
    output: Annotated[Path, Option("Folder of the maps and of a manifest that names them.", ("--output", "-o"))]
    kind: Annotated[
        str,
        Option(
            "dark, bright: than its surroundings; contrast: either; features: what a pre-trained network answers "
            "strongly to; model: its foreground."
        ),
    ] = "contrast"
    size: Annotated[float, Option("Of what is looked for by contrast, as a share of the longest side.")] = 0.1
    weights: Annotated[Path | None, Option("Of EfficientNet-lite0 trained on photographs, for features.")] = None
    model: Annotated[Path | None, Option("Run folder or bundle, for model.")] = None
    masks: Annotated[
        Path | None, Option("Manifest with labels of some of the images, opened to measure the recall alone.")
    ] = None
    validation: Annotated[
        bool, Option("Make training images with such a label validation cases: see docs/methods.")
    ] = False
    empty: Annotated[bool, Option("Saliency of 0 for images whose tags say that no class is there.")] = True
    device: Annotated[str, Option("auto, cpu or cuda.")] = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        if self.kind not in SALIENCY_KINDS:
            raise ConfigError(f"--kind is '{self.kind}'; accepted are {', '.join(SALIENCY_KINDS)}")
        if not 0 < self.size <= 1:
            raise ConfigError(f"--size is {self.size:g}; accepted is more than 0 and up to 1")
        if self.kind == "features" and self.weights is None:
            raise ConfigError("--kind features needs --weights", hint="give the file of EfficientNet-lite0")
        if self.validation and self.masks is None:
            raise ConfigError("--validation needs --masks", hint="give a manifest with labels of some of the images")
        if self.kind == "model" and self.model is None:
            raise ConfigError("--kind model needs --model", hint="give a run folder or a bundle")
