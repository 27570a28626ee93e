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
from medseg.config.data_spec import DataSpec as DataSpec
from medseg.config.data_spec import Intensity as Intensity
from medseg.config.data_spec import Sampling as Sampling
from medseg.config.data_spec import Target as Target
from medseg.config.data_spec import View as View
from medseg.config.former_pipelines import as_now
from medseg.config.literals import not_plain
from medseg.networks import registry as networks
from medseg.ops.augmentation.settings import Augment as Augment


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
    encoder_lr: NonNegativeFloat = 1.0  # factor on `lr` for encoders, such as 0.1 for pre-trained weights; 0: frozen
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

    @property
    def student_iterations(self) -> int:
        """Iterations of a network of a round of pseudo-labels; without rounds those of the stage."""
        iterations = self.schedule.iterations
        return self.rounds.student_iterations(iterations) if self.rounds else iterations

    def with_iterations(self, iterations: int) -> Stage:
        """The stage with so many iterations of each training from the start; what students are given, in proportion."""
        changes: dict[str, Any] = {"schedule": self.schedule.model_copy(update={"iterations": iterations})}
        if self.rounds is not None and self.rounds.iterations is not None:
            of_students = max(1, round(self.rounds.iterations * iterations / self.schedule.iterations))
            changes["rounds"] = self.rounds.model_copy(update={"iterations": of_students})
        return self.model_copy(update=changes)

    def specs(self, data: DataSpec) -> tuple[DataSpec, ...]:
        """What each network of the stage is trained on."""
        return tuple(data.of_view(view) for view in self.views) or (data,)


LARGEST_SEED = 2**32 - 1
"""Of numpy; seeds of single steps are products of it, and beyond 2^64 torch has none."""


class Pipeline(Frozen):
    """Stages of a paper with their settings; `data` overrides what would be planned from the manifest.

    In a YAML stages may be repeated (`medseg.config.repeated_stages`); here they stand one after the other, and
    `repeats` says which are passes of what.
    """

    later = ("repeats", "postprocessing", "measure_pseudo_labels")
    name: str
    description: str = ""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    stages: tuple[Stage, ...] = Field(min_length=1)
    repeats: tuple[Repeat, ...] = ()
    data: Mapping[str, Any] = Field(default_factory=dict)
    postprocessing: Literal["auto", "none"] | None = None  # which components stay; None: the plan says auto
    measure_pseudo_labels: bool = False  # by labels of unlabelled cases, which are opened for that alone

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
