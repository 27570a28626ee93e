"""Pipelines as frozen data: what a YAML may say, checked with the path of every mistake.

A pipeline is a list of stages; a stage is one kind of training run. There are no expressions and no references, so
that it never becomes a language. Papers count in epochs of their own data; everything here counts in iterations or in
fractions of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

NetworkName = Literal["vnet", "unet", "dynunet", "segresnet"]
NETWORK_NAMES: tuple[str, ...] = get_args(NetworkName)
View = Literal["volume", "axial", "coronal", "sagittal"]
Triple = tuple[PositiveInt, PositiveInt, PositiveInt]


class Frozen(BaseModel):
    """Base of all configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodSpec(Frozen):
    """Which paper, with which of its hyper-parameters changed from the paper's."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class NetworkSpec(Frozen):
    """A network by name, its first number of channels, and further keywords of its constructor."""

    name: NetworkName
    width: PositiveInt = 16
    options: dict[str, Any] = Field(default_factory=dict)


class Schedule(Frozen):
    """How long and how fast to learn."""

    iterations: PositiveInt = 6000
    batch: dict[str, PositiveInt] | None = None  # rows per stream; None: as planned for the device
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.01
    momentum: NonNegativeFloat = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    decay: Literal["constant", "step", "poly", "cosine"] = "poly"
    decay_steps: tuple[float, ...] = (2500 / 6000, 5000 / 6000)  # of the run; for decay: step
    decay_factor: PositiveFloat = 0.1
    decay_power: PositiveFloat = 0.9
    grad_clip: PositiveFloat | None = None
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    validate_every: PositiveInt | None = None  # iterations; None: ten times in the run
    workers: int | None = Field(default=None, ge=0)  # None: by the machine

    @field_validator("decay_steps")
    @classmethod
    def _in_run(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < s < 1 for s in steps) or list(steps) != sorted(steps):
            raise ValueError(f"must be rising fractions of the run between 0 and 1, got {list(steps)}")
        return steps


class Stage(Frozen):
    """One kind of training run."""

    method: MethodSpec
    network: NetworkSpec = NetworkSpec(name="vnet")
    init: Literal["none", "previous"] = "none"  # previous: start from the weights of the stage before
    schedule: Schedule = Schedule()


class Intensity(Frozen):
    """How stored intensities become network input.

    `zscore`: each image and channel to zero mean and unit variance. `window`: clip to [low, high], subtract `mean`,
    divide by `std`, all in the image's own units (HU for CT).
    """

    kind: Literal["zscore", "window"] = "zscore"
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    std: PositiveFloat = 1.0


class Augment(Frozen):
    """Random changes of a training patch; each probability is per patch. Axes are those of RAS: 0 x, 1 y, 2 z."""

    rotate_degrees: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (15.0, 15.0, 15.0)
    scale: tuple[PositiveFloat, PositiveFloat] = (0.9, 1.1)
    affine_probability: float = Field(default=0.3, ge=0, le=1)
    flip_axes: tuple[Literal[0, 1, 2], ...] = ()
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    rot90_axes: tuple[Literal[0, 1, 2], Literal[0, 1, 2]] | None = None
    noise_std: NonNegativeFloat = 0.1
    gamma: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.5)
    contrast: tuple[PositiveFloat, PositiveFloat] = (0.75, 1.25)
    intensity_probability: float = Field(default=0.15, ge=0, le=1)


class DataSpec(Frozen):
    """What the plan decided about the data; everything that a model must know of them to be used again."""

    labels: dict[int, str]
    modality: tuple[str, ...]
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    patch: Triple  # voxels along x, y, z; a 1 makes the network planar across that axis
    view: View = "volume"
    intensity: Intensity = Intensity()
    foreground: float = Field(default=0.5, ge=0, le=1)  # share of labelled patches centred on a class
    augment: Augment = Augment()
    overlap: float = Field(default=0.5, ge=0, lt=1)
    resample_axes: tuple[bool, bool, bool] = (True, True, True)  # False: keep each image's own spacing there

    @property
    def classes(self) -> int:
        """How many classes the network tells apart, background included."""
        return len(self.labels)

    @property
    def label_values(self) -> tuple[int, ...]:
        """The value in label files of each class index."""
        return tuple(sorted(self.labels))

    @property
    def spatial_dims(self) -> int:
        """2 for a planar view, else 3."""
        return 3 if self.view == "volume" else 2


class Pipeline(Frozen):
    """Stages of a paper with their settings; `data` overrides what would be planned from the manifest."""

    name: str
    description: str = ""
    seed: int = 0
    stages: tuple[Stage, ...] = Field(min_length=1)
    data: Mapping[str, Any] = Field(default_factory=dict)
