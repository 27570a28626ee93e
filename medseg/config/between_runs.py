"""What a pipeline may say of the time between two runs: rules, rounds, labelling, repeated stages."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from medseg.manifest.labelling import Kind

KINDS: tuple[Kind, ...] = ("unlabeled", "weak", "pseudo")


class Frozen(BaseModel):
    """Base of all configuration: immutable; other keys than its fields are refused.

    Fields in `later` were added after runs had been recorded: they are only written where they say something.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = whole(self)
        for name in self.later:
            if getattr(self, name) == type(self).model_fields[name].default:
                content.pop(name, None)
        return content


class MethodSpec(Frozen):
    """Which paper, with which of its hyper-parameters changed from the paper's.

    `sha256` is that of the file of a method of the user's own, which the run folder records.
    """

    later = ("sha256",)
    name: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    options: dict[str, Any] = Field(default_factory=dict)


class RuleSpec(MethodSpec):
    """Which pseudo-label rule, with which of its settings changed from the paper's."""


WARM_SHARE = 0.5
"""Share of the teacher's iterations that a student has which starts from its teacher."""


class Rounds(Frozen):
    """Training again with pseudo-labels, after the first networks, the teachers.

    Args:
        count: how many rounds at most.
        rule: by which the predictions of the networks before become labels.
        cases: which ones are labelled: without any label, with tags alone, with a label that a rule of a stage before
            made.
        student: where the networks of a round start: `scratch`, where the teachers started, or `warm`, from the
            networks before, with half their iterations and a tenth of their learning rate.
        iterations: of each student; None: as many as its teacher, or half of them where it starts from it.
        stop_dice: end early where the pseudo-labels of two rounds agree by more than this mean Dice.
    """

    later = ("cases", "iterations")
    count: PositiveInt
    rule: RuleSpec
    cases: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    student: Literal["scratch", "warm"] = "scratch"
    iterations: PositiveInt | None = None
    stop_dice: float | None = Field(default=None, gt=0, le=1)

    def student_iterations(self, of_teacher: int) -> int:
        """Iterations of each student.

        Args:
            of_teacher: those of a network that is trained before the rounds.
        """
        if self.iterations is not None:
            return self.iterations
        return max(1, int(of_teacher * WARM_SHARE)) if self.student == "warm" else of_teacher


class Labelling(Frozen):
    """Labels for the next stage, made by a rule of what this stage's networks predict of some cases.

    Args:
        rule: by which predictions become labels.
        cases: which ones are labelled, see `Rounds`.
    """

    rule: RuleSpec
    cases: tuple[Kind, ...] = Field(default=KINDS, min_length=1)


class Repeat(Frozen):
    """Which stages are passes of a group that a pipeline repeats.

    Args:
        first: number of the first stage.
        stages: in each pass.
        passes: how many at most.
        stop_dice: leave out the other passes where the pseudo-labels of two passes agree by more than this mean Dice.
    """

    first: int = Field(ge=0)
    stages: PositiveInt
    passes: PositiveInt
    stop_dice: float | None = Field(default=None, gt=0, le=1)

    def pass_of(self, index: int) -> int | None:
        """In which pass a stage is, from 1; None: in none of this group."""
        place = (index - self.first) // self.stages
        return place + 1 if 0 <= place < self.passes else None

    @property
    def end(self) -> int:
        """Number of the stage after the last pass."""
        return self.first + self.stages * self.passes
