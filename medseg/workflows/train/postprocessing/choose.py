"""Of all rules the one that helps: per structure, by Dice of cases that the model was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import floor, log10
from typing import Any

import numpy as np

from medseg.bundle.components import describe, describe_gain
from medseg.portable.inference.components import LARGEST, Rule
from medseg.workflows.train.postprocessing.evidence import Evidence

LARGEST_LOSS = 0.01
"""Dice that any one case may lose. Of left atria, whose labels are one component, 84 predictions by 7 networks lost at
most 0.005 by their largest component, pieces whose bridge was not found, and gained at most 0.09; a structure that
really has several parts, such as two kidneys, loses tenths."""

SMALLEST_GAIN = 0.001
"""Mean Dice that a rule has to bring, also over a milder one. Less is within what another seed changes, and a rule that
brings nothing may still remove something true from a new case. A case that changes by less counts as unchanged."""

PARTS = (1, 4, 16)
"""The smallest volumes that are tried are these parts of the smallest component that labels have."""


@dataclass(frozen=True)
class Choice:
    """What was chosen for one structure.

    Args:
        structure: its name.
        rule: None: no rule helps.
        dice_before: mean over the cases without a rule.
        dice_after: with the rule that was chosen; without one the same.
        largest_loss: of a case, by the rule that was chosen; 0: none loses.
        cases: that have the structure, in the label or in the prediction.
    """

    structure: str
    rule: Rule | None
    dice_before: float
    dice_after: float
    largest_loss: float
    cases: int

    def plain(self) -> dict[str, Any]:
        """As values for JSON, numbers with as many digits as they deserve."""
        content = asdict(self)
        for name in ("dice_before", "dice_after", "largest_loss"):
            content[name] = round(content[name], 5)
        return content

    def line(self, unit: str = "mm") -> str:
        """A line for people; `unit` as of `describe`."""
        assert self.rule is not None
        return f"{self.structure}: {describe(self.rule, unit)}, {describe_gain(self.plain())}"


def rules_to_try(smallest_mm3: float | None, voxel_mm3: float) -> list[Rule]:
    """The rules in the order of what they remove, the mildest first.

    Args:
        smallest_mm3: volume of the smallest component that labels have; None: not known.
        voxel_mm3: volume of a voxel; a component has more in any case.
    """
    rules: list[Rule] = []
    for part in sorted(PARTS, reverse=True):
        volume = round_down(smallest_mm3 / part) if smallest_mm3 else 0.0
        if volume > voxel_mm3:
            rules.append({"smallest_mm3": volume})
    return [*rules, LARGEST]


def round_down(volume: float) -> float:
    """To two digits, never up."""
    unit = 10.0 ** (floor(log10(volume)) - 1)
    return float(f"{floor(volume / unit) * unit:.2g}")


def choose_rule(structure: str, cases: Sequence[Evidence], smallest_mm3: float | None) -> Choice:
    """The rule with the largest mean Dice, if it brings enough of it, in more cases than it harms.

    No case may lose more than `LARGEST_LOSS`, and a stronger rule has to bring `SMALLEST_GAIN` over a milder one.

    Args:
        structure: its name.
        cases: what each case says of it; at least one.
        smallest_mm3: see `rules_to_try`.
    """
    before = np.array([case.dice(None) for case in cases])
    best = Choice(structure, None, float(before.mean()), float(before.mean()), 0.0, len(cases))
    for rule in rules_to_try(smallest_mm3, min(case.voxel_mm3 for case in cases)):
        after = np.array([case.dice(rule) for case in cases])
        loss = max(0.0, float((before - after).max()))
        is_worth_it = after.mean() - best.dice_after >= SMALLEST_GAIN
        if is_worth_it and loss <= LARGEST_LOSS and _helps_more_than_it_harms(before, after):
            best = Choice(structure, rule, best.dice_before, float(after.mean()), loss, len(cases))
    return best


def _helps_more_than_it_harms(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether more cases gain than lose, `SMALLEST_GAIN` or more of the Dice `(cases,)`."""
    gain = after - before
    return int((gain >= SMALLEST_GAIN).sum()) > int((gain <= -SMALLEST_GAIN).sum())


def choose_rules(evidence: Mapping[str, Sequence[Evidence]], smallest_mm3: Mapping[str, float]) -> list[Choice]:
    """One choice for each structure that any case has.

    Args:
        evidence: structure -> what each case says of it.
        smallest_mm3: structure -> volume of the smallest component that labels have, where it was asked for.
    """
    choices = []
    for structure, cases in evidence.items():
        if cases:
            choices.append(choose_rule(structure, cases, smallest_mm3.get(structure)))
    return choices
