"""Majority vote: the label that most raters give a voxel; whoever left it out does not vote.

Options: `tie` ("background").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from medseg.consensus.fusers.fusion_log import FusionLog, rows_of_equal_weight
from medseg.consensus.fusers.vote_patterns import VotePatterns, find_patterns
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
        options: how a tie is decided.

    Returns:
        Confidence: the share of the voxel's votes that the label won.

    Examples:
        Three raters and four voxels; the last rater left out the third and the fourth (255), where the votes are tied.

        >>> import numpy as np
        >>> from medseg.consensus.study import Rater, Study
        >>> votes = {"a": [0, 1, 1, 1], "b": [1, 1, 1, 0], "c": [0, 1, 255, 255]}
        >>> raters = [Rater(name, np.array(vote, np.uint8).reshape(4, 1, 1)) for name, vote in votes.items()]
        >>> study = Study(tuple(raters), ("background", "liver"), (1.0, 1.0, 1.0))
        >>> majority(study, MajorityOptions()).labels.ravel().tolist()
        [0, 1, 1, 0]
        >>> majority(study, MajorityOptions(tie="undecided")).labels.ravel().tolist()
        [0, 1, 1, 255]
    """
    log = FusionLog("majority", options)
    with log.stage("patterns"):
        patterns = find_patterns(study)
    log.describe(study, patterns)
    with log.stage("votes"):
        labels, confidence, tied = vote(patterns, options.tie)
    with log.stage("write"):
        label_map, confidence_map = patterns.to_volume(labels), patterns.to_volume(confidence)
    log.facts["tied_voxels"] = int(patterns.grid_counts[tied].sum())
    return Fused(label_map, confidence_map, rows_of_equal_weight(study, patterns), log.facts)


def vote(patterns: VotePatterns, tie: Tie = "background") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vote of each pattern: `(P,)` labels uint8, the winner's share float32, and whether it was tied."""
    votes = patterns.count_votes()
    most, total = votes.max(1), votes.sum(1)
    leading = votes == most[:, None]
    tied = (leading.sum(1) > 1) & (total > 0)
    labels = leading.argmax(1)
    if tie == "background":
        labels[tied] = 0
    elif tie == "undecided":
        labels[tied] = MISSING
    elif tie == "prior":
        used = patterns.grid_counts @ votes
        labels[tied] = np.where(leading[tied], used, -1).argmax(1)
    labels[total == 0] = 0
    share = most / np.maximum(total, 1)
    return labels.astype(np.uint8), share.astype(np.float32), tied
