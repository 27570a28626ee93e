"""Pipelines as frozen data: what a YAML may say, checked with the path of every mistake.

A pipeline is a list of stages; a stage is one kind of training run. There are no expressions and no references, so
that it never becomes a language. Papers count in epochs of their own data; everything here counts in iterations or in
fractions of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from medseg.config.between_runs import Frozen, Labelling, MethodSpec, Repeat, Rounds
from medseg.config.former_pipelines import as_now
from medseg.config.literals import not_plain
from medseg.config.sides import have_sides
from medseg.networks import registry as networks
from medseg.ops.augmentation.settings import Augment
from medseg.portable.planes import slice_axis

View = Literal["volume", "axial", "coronal", "sagittal"]
Triple = tuple[PositiveInt, PositiveInt, PositiveInt]
Sampling = Literal["cases", "union", "half", "classes"]
"""From which cases the patches of a batch are taken. `cases`: from all equally. `union`: in planes equally from the
slices of all cases, in volumes as `cases`. `half`: half of the patches from annotated cases, half from the others.
`classes`: of cases with labels equally from those of each class, the others as `cases`."""

Target = Literal["voxels", "images"]
"""What has a class: each voxel by itself, or an image as a whole, which its only tag names."""


class Weights(Frozen):
    """Pre-trained weights from a file of PyTorch, a mapping of names to tensors; nothing is ever fetched."""

    file: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")  # None: the plan records it
    licence: str | None = None  # of the weights, for the record


class NetworkSpec(Frozen):
    """A network by name, its first number of channels, further keywords of its constructor, and its first weights."""

    name: str
    width: PositiveInt = 16
    options: dict[str, Any] = Field(default_factory=dict)
    weights: Weights | None = None

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return networks.find(name).name

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], found: ValidationInfo) -> dict[str, Any]:
        strange = not_plain(options)
        if strange:
            raise ValueError(f"{strange}; accepted are numbers, words, and lists of them")
        if "name" in found.data:
            networks.find(found.data["name"]).check_options(options)
        return options


class Schedule(Frozen):
    """How long and how fast to learn."""

    later = ("encoder_lr",)
    iterations: PositiveInt = 6000
    batch: dict[str, PositiveInt] | None = None  # batch size per stream; None: as planned for the device
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.01
    encoder_lr: PositiveFloat = 1.0  # factor on `lr` for encoders, such as 0.1 where their weights are pre-trained
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
        inside = all(0 < step < 1 for step in steps)
        if not inside or list(steps) != sorted(steps):
            raise ValueError(f"must be rising fractions of the run between 0 and 1, got {list(steps)}")
        return steps


class Stage(Frozen):
    """One kind of training run."""

    method: MethodSpec
    network: NetworkSpec = NetworkSpec(name="vnet")
    init: Literal["none", "previous"] = "none"  # previous: start from the weights of the stage before
    views: tuple[View, ...] = ()  # a network for each; none: one network of the view that the plan chose
    fusion: Literal["vote", "any", "mean"] = "vote"  # how networks of several views predict together
    rounds: Rounds | None = None
    then: Labelling | None = None
    schedule: Schedule = Schedule()

    @model_validator(mode="before")
    @classmethod
    def _former(cls, given: Any) -> Any:
        return as_now(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _labels_once(self) -> Stage:
        if self.rounds is not None and self.then is not None:
            raise ValueError("has rounds and then: the rounds label the same cases; accepted is one of the two")
        return self

    @field_validator("views")
    @classmethod
    def _different(cls, views: tuple[View, ...]) -> tuple[View, ...]:
        if len(set(views)) < len(views):
            raise ValueError(f"names a view twice: {', '.join(views)}")
        return views

    @property
    def round_count(self) -> int:
        """Rounds of pseudo-labels after the teachers, at most."""
        return self.rounds.count if self.rounds else 0

    def specs(self, data: DataSpec) -> tuple[DataSpec, ...]:
        """What each network of the stage is trained on."""
        return tuple(data.of_view(view) for view in self.views) or (data,)


class Intensity(Frozen):
    """How stored intensities become network input.

    `zscore`: each image and channel to zero mean and unit variance. `window`: clip to [low, high], subtract `mean`,
    divide by `std`, all in the image's own units (HU for CT). `fixed`: subtract `mean`, divide by `std`, nothing else,
    as pre-trained networks want their photographs.
    """

    kind: Literal["zscore", "window", "fixed"] = "zscore"
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    std: PositiveFloat = 1.0


class DataSpec(Frozen):
    """What the plan decided about the data; everything that a model must know of them to be used again."""

    later = ("has_background", "native_mm", "target")
    labels: dict[int, str]
    modality: tuple[str, ...]
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    patch: Triple  # voxels along x, y, z; a 1 makes the network planar across that axis
    view: View = "volume"
    slices: Literal[1, 3] = 1  # adjacent slices that a planar network sees as channels, to label the middle one
    intensity: Intensity | tuple[Intensity, ...] = Intensity()  # several: one for each channel
    foreground: float = Field(default=0.5, ge=0, le=1)  # share of labelled patches centred on a class
    sampling: Sampling = "cases"
    augment: Augment = Augment()
    overlap: float = Field(default=0.5, ge=0, lt=1)
    padding: Literal["minimum", "edge"] = "minimum"  # what patches and windows hold beyond the edges of an image
    smallest_mm: tuple[float, float, float] | None = None  # of the images of training, along each axis
    resample_axes: tuple[bool, bool, bool] = (True, True, True)  # False: keep each image's own spacing there
    has_background: bool = True  # False: the first class is one like the others
    native_mm: tuple[float, float, float] | None = None  # median spacing of the files; None: it is `spacing_mm`
    target: Target = "voxels"

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> DataSpec:
        if isinstance(self.intensity, tuple) and len(self.intensity) != len(self.modality):
            raise ValueError(f"intensity has {len(self.intensity)} rules for {len(self.modality)} channels")
        return self

    @property
    def intensities(self) -> tuple[Intensity, ...]:
        """The rule of each channel."""
        if isinstance(self.intensity, tuple):
            return self.intensity
        return (self.intensity,) * len(self.modality)

    @property
    def classes(self) -> int:
        """How many classes the network tells apart, background included."""
        return len(self.labels)

    @property
    def label_values(self) -> tuple[int, ...]:
        """The value in label files of each class index."""
        return tuple(sorted(self.labels))

    @property
    def structures(self) -> dict[int, str]:
        """Value in label files -> name of every class but the background."""
        values = self.label_values[int(self.has_background) :]
        return {value: self.labels[value] for value in values}

    @property
    def has_sides(self) -> bool:
        """Whether there are structures of which one lies on the left and one on the right."""
        return have_sides(self.labels.values())

    @property
    def slice_axis(self) -> int | None:
        """The axis across which a planar view cuts; None for volumes."""
        return slice_axis(self.view)

    @property
    def spatial_dims(self) -> int:
        """2 for a planar view, else 3."""
        return 3 if self.slice_axis is None else 2

    @property
    def channels(self) -> int:
        """Channels that the network takes: those of the image, of each of the slices."""
        return len(self.modality) * (1 if self.slice_axis is None else self.slices)

    @property
    def context(self) -> tuple[int, int, int]:
        """Voxels that a planar network sees on either side of the slice that it labels, along each axis."""
        x, y, z = (self.slices // 2 if axis == self.slice_axis else 0 for axis in range(3))
        return x, y, z

    @property
    def network_patch(self) -> tuple[int, ...]:
        """Voxels of a patch along each axis of the network, 2 or 3 of them."""
        return tuple(size for axis, size in enumerate(self.patch) if axis != self.slice_axis)

    def along_network(self, of_axes: tuple[float, float, float]) -> tuple[float, ...]:
        """What is known of each axis, of the axes of the network, 2 or 3 of them."""
        return tuple(value for axis, value in enumerate(of_axes) if axis != self.slice_axis)

    @property
    def network_spacing_mm(self) -> tuple[float, ...]:
        """Distance of voxels along each axis of the network."""
        return self.along_network(self.spacing_mm)

    def of_view(self, view: View) -> DataSpec:
        """The same data seen by one network: in a plane the patch is one voxel thick across it."""
        across = slice_axis(view)
        patch = tuple(1 if axis == across else size for axis, size in enumerate(self.patch))
        return self.model_copy(update={"view": view, "patch": patch})


class Pipeline(Frozen):
    """Stages of a paper with their settings; `data` overrides what would be planned from the manifest.

    In a YAML stages may be repeated (`medseg.config.repeated_stages`); here they stand one after the other, and
    `repeats` says which are passes of what.
    """

    later = ("repeats", "postprocessing")
    name: str
    description: str = ""
    seed: int = 0
    stages: tuple[Stage, ...] = Field(min_length=1)
    repeats: tuple[Repeat, ...] = ()
    data: Mapping[str, Any] = Field(default_factory=dict)
    postprocessing: Literal["auto", "none"] | None = None  # which components stay; None: the plan says auto

    @model_validator(mode="after")
    def _next_stage(self) -> Pipeline:
        last = len(self.stages) - 1
        if self.stages[last].then is not None:
            raise ValueError(f"stages.{last}.then makes labels for the next stage, and there is none")
        return self

    @model_validator(mode="after")
    def _passes(self) -> Pipeline:
        for repeat in self.repeats:
            if repeat.end > len(self.stages):
                raise ValueError(f"repeats names stage {repeat.end - 1}, and there are {len(self.stages)}")
        return self

    @property
    def classifies(self) -> bool:
        """Whether whole images are classified, see `Target`."""
        return self.data.get("target") == "images"

    def repeat_of(self, index: int) -> tuple[Repeat, int] | None:
        """The group that a stage is a pass of, and which pass, from 1."""
        for repeat in self.repeats:
            number = repeat.pass_of(index)
            if number is not None:
                return repeat, number
        return None
