"""From measured costs to the number of iterations that end with the budget: arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 10
"""Iterations that are trained whatever the budget says."""

VALIDATIONS = (10, 5, 3, 2, 1)
"""How often a training is validated; seldom enough to take `VALIDATION_SHARE` of its time at most."""

VALIDATION_SHARE = 0.25

MANY = 200
"""Iterations of which a few are not missed."""

SAVE_EVERY_SECONDS = 120.0


@dataclass(frozen=True)
class StageCosts:
    """What the work of a stage costs on this machine, seconds.

    Args:
        step: a training step with what its loader does, mean over the networks.
        start: of one training, until its first step is taken.
        validation: one pass of one network over all validation cases; 0: nothing is validated.
        save: one checkpoint.
        finish: the export of one network.
        trainings: in all; one that is half as long counts half.
        networks: trainings in all, whatever their length.
        other: all else: preprocessing that is left, predictions, pseudo-labels, scores.
    """

    step: float
    start: float = 0.0
    validation: float = 0.0
    save: float = 0.0
    finish: float = 0.0
    trainings: float = 1.0
    networks: int = 1
    other: float = 0.0

    @property
    def constant(self) -> float:
        """Seconds that do not depend on the number of iterations."""
        return self.networks * (self.start + self.finish + 2 * self.save) + self.other

    def seconds(self, iterations: int, every: int | None) -> float:
        """Seconds of the whole stage.

        Args:
            iterations: of a training from the start.
            every: iterations between validations; None: ten times in the run.
        """
        steps = self.trainings * iterations * self.step
        passes = self.networks * count_validations(iterations, every)
        return self.constant + steps * (1 + self.save / SAVE_EVERY_SECONDS) + passes * self.validation


@dataclass(frozen=True)
class StageLength:
    """How long a stage is trained.

    Args:
        iterations: of a training from the start.
        validate_every: iterations between validations; None: ten times in the run.
        seconds: of the whole stage.
    """

    iterations: int
    validate_every: int | None
    seconds: float


def count_validations(iterations: int, every: int | None) -> int:
    """Validations of one training: every so often, and after the last iteration."""
    every = every or max(1, iterations // 10)
    return iterations // every + (1 if iterations % every else 0)


def fit_stage(costs: StageCosts, seconds: float, *, most: int, every: int | None) -> StageLength:
    """The most iterations of a stage that end in time.

    Args:
        costs: of the stage.
        seconds: it may take.
        most: iterations.
        every: iterations between validations as the user set them; None: as often as is worth their time.
    """
    if every is not None or not costs.validation:
        iterations = _most_iterations(costs, seconds, most=most, every=every)
        return StageLength(iterations, every, costs.seconds(iterations, every))
    best = StageLength(0, None, 0.0)
    for count in VALIDATIONS:
        best = _validated(costs, seconds, most=most, count=count)
        passes = costs.networks * costs.validation * count_validations(best.iterations, best.validate_every)
        if passes <= VALIDATION_SHARE * max(best.seconds - costs.constant, 0.0):
            break
    return best


def _validated(costs: StageCosts, seconds: float, *, most: int, count: int) -> StageLength:
    """The most iterations that end in time with so many validations."""
    if count == VALIDATIONS[0]:
        iterations = _most_iterations(costs, seconds, most=most, every=None)
        if MANY <= iterations < most:
            iterations -= iterations % 10  # ten validations, not eleven
        return StageLength(iterations, None, costs.seconds(iterations, None))
    without = seconds - costs.networks * count * costs.validation
    step = costs.trainings * costs.step * (1 + costs.save / SAVE_EVERY_SECONDS)
    iterations = min(most, max(FEWEST, int((without - costs.constant) / step)))
    every = -(-iterations // count)
    return StageLength(iterations, every, costs.seconds(iterations, every))


def _most_iterations(costs: StageCosts, seconds: float, *, most: int, every: int | None) -> int:
    """Bisection, since validations come with iterations."""
    low, high = FEWEST, max(FEWEST, most)
    while low < high:
        middle = (low + high + 1) // 2
        if costs.seconds(middle, every) <= seconds:
            low = middle
        else:
            high = middle - 1
    return min(low, most)


def fit_stages(
    costs: Sequence[StageCosts], seconds: float, *, most: Sequence[int], every: Sequence[int | None]
) -> list[StageLength]:
    """Share the time among the stages: equal shares, and what one does not need is the others'.

    Args:
        costs: of each stage.
        seconds: that are left for all of them.
        most: iterations of each stage as planned for unlimited time.
        every: iterations between validations of each stage as the user set them.
    """
    wanted = [cost.seconds(limit, each) - cost.constant for cost, limit, each in zip(costs, most, every, strict=True)]
    left = seconds - sum(cost.constant for cost in costs)
    lengths: dict[int, StageLength] = {}
    for done, index in enumerate(sorted(range(len(costs)), key=lambda number: wanted[number])):
        constant = costs[index].constant
        share = constant + left / (len(costs) - done)
        lengths[index] = fit_stage(costs[index], share, most=most[index], every=every[index])
        left -= lengths[index].seconds - constant
    return [lengths[index] for index in range(len(costs))]
