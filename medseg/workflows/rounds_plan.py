"""How much there is to do in a stage with views and rounds, and what its method must be able to do."""

from __future__ import annotations

from torch import nn

from medseg import methods
from medseg.config import Stage
from medseg.errors import ConfigError
from medseg.method import Method

WARM_PART = 0.5
"""Of the iterations that a network has which starts from its teacher, and a tenth of its learning rate."""


def check_stage(stage: Stage) -> None:
    """Refuse rounds where the method has no rule for them.

    Raises:
        ConfigError: naming the method.
    """
    if stage.rounds and methods.find(stage.method.name).relabel is Method.relabel:
        raise ConfigError(
            f"rounds is {stage.rounds}, and the method {stage.method.name} makes no pseudo-labels",
            hint="take dmpct, or rounds: 0",
        )


def relabeller(stage: Stage, classes: int) -> Method:
    """The stage's method without a network: relabelling knows the votes alone."""
    return methods.build(stage.method.name, nn.Identity(), classes=classes, **stage.method.options)


def student_part(stage: Stage) -> float:
    """How long the training of a student is, of its teacher's."""
    return WARM_PART if relabeller(stage, 2).warm_students else 1.0


def trainings(stage: Stage, unlabeled: int) -> float:
    """Trainings of one network in the whole stage; one that is half as long counts half.

    Args:
        stage: with its views and rounds.
        unlabeled: cases; without any there are no rounds.
    """
    rounds = stage.rounds if unlabeled else 0
    return max(1, len(stage.views)) * (1 + (student_part(stage) * rounds if rounds else 0))
