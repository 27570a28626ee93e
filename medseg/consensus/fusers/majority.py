"""Majority vote: the label that most raters give a voxel; whoever left it out abstains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from medseg.consensus.fusers.fusion_log import Account, present, shares
from medseg.consensus.fusers.vote_patterns import Patterns, compress
from medseg.consensus.study import MISSING, Fused, Study
from medseg.errors import ConfigError

Tie = Literal["background", "lowest", "undecided", "prior"]


@dataclass(frozen=True)
class MajorityOptions:
    """Options of the majority vote.

    Args:
        tie: what becomes of a voxel whose vote is tied. "background": background, also where that is not among
            the tied classes; "lowest": the lowest tied class index; "undecided": `MISSING`; "prior": the tied
            class that the raters used most in the whole study (the lowest index of those that are equal).

    Raises:
        ConfigError: an unknown tie rule.
    """

    tie: Tie = "background"

    def __post_init__(self) -> None:
        if self.tie not in get_args(Tie):
            raise ConfigError(f"tie must be one of {', '.join(get_args(Tie))}, got {self.tie!r}")


def majority(study: Study, options: MajorityOptions) -> Fused:
    """Majority vote; voxels that nobody annotated become background with confidence 0.

    Args:
        study: raters with the same or partial coverage.
        options: see there.
    """
    account = Account("majority", options)
    with account.stage("patterns"):
        patterns = compress(study)
    account.describe(study, patterns)
    with account.stage("votes"):
        labels, confidence, tied = elect(patterns, options.tie)
    with account.stage("write"):
        painted = patterns.paint(labels), patterns.paint(confidence)
    account.facts["tied_voxels"] = int(patterns.everywhere[tied].sum())
    weights = shares(present(patterns))
    raters = [{"name": e.name, "weight": w} for e, w in zip(study.raters, weights, strict=True)]
    return Fused(*painted, raters, account.facts)


def elect(patterns: Patterns, tie: Tie = "background") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vote of each pattern: `(P,)` labels uint8, the winner's share float32, and whether it was tied."""
    votes = patterns.votes()
    most, cast = votes.max(1), votes.sum(1)
    leading = votes == most[:, None]
    tied = (leading.sum(1) > 1) & (cast > 0)
    labels = leading.argmax(1)
    if tie == "background":
        labels[tied] = 0
    elif tie == "undecided":
        labels[tied] = MISSING
    elif tie == "prior":
        used = patterns.everywhere @ votes
        labels[tied] = np.where(leading[tied], used, -1).argmax(1)
    labels[cast == 0] = 0
    return labels.astype(np.uint8), (most / np.maximum(cast, 1)).astype(np.float32), tied
