"""DMPCT: deep multi-planar co-training, self-training in which the planes correct one another.

Y. Zhou, Y. Wang, P. Tang, S. Bai, W. Shen, E. Fishman, A. Yuille: Semi-Supervised 3D Abdominal Multi-Organ
Segmentation via Deep Multi-Planar Co-Training, WACV 2019, 121-140; arXiv 1804.02586.

    L = CE(f_v(x), y)                     for each plane v, over labelled and pseudo-labelled slices alike
    y(u) = the label that most planes give voxel u; where no two agree, that of the most confident plane

The teachers of round 0 learn from the labelled volumes. Each round labels the unlabelled ones anew, by a vote of the
networks of the round before, and trains the next on both. The loss is that of `Supervised`, so that the paper is the
rule of the vote alone. There is no code of the authors, and beyond the abstract the paper could not be consulted: the
rule, two rounds, and students that start where the teachers started are our reading of it. The vote needs of each plane
its label and that label's probability only (`medseg.method.Predictions`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from medseg.method import IGNORE, Predictions, PseudoLabels
from medseg.portable.inference import view_fusion


class VoteOfViews(PseudoLabels):
    """The label on which the views agree.

    Args:
        classes: number of classes with background.
        fusion: "vote"; "any": views that say background have no vote, so that a structure is where any view sees it;
            or "mean": the largest mean of the views' probabilities.
        ignore_disagreement: do not learn where no two of three or more views agree.
        background_confidence: learn background from pseudo-labels only where every view gives it at least this
            probability, such as 0.9; None: wherever the vote is background, as in the paper. Teachers of few scans
            miss much more than they invent, and what they miss would be taught as background.
        background_confidence_rounds: rounds, from the first, in which `background_confidence` holds; None: all. Once
            networks miss no more than they invent, leaving background out lets structures swell.
    """

    def __init__(
        self, classes: int, *, fusion: Literal["vote", "any", "mean"] = "vote", ignore_disagreement: bool = False,
        background_confidence: float | None = None, background_confidence_rounds: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(classes)
        if background_confidence is not None and not 0 <= background_confidence <= 1:
            raise ValueError(f"background_confidence is {background_confidence}; accepted is a probability from 0 to 1")
        self.fusion = fusion
        self.ignore_disagreement = ignore_disagreement
        self.background_confidence = background_confidence
        self.background_confidence_rounds = background_confidence_rounds
        if fusion == "mean":
            self.needs = "probabilities"

    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> Tensor:
        """The vote of the views."""
        fused = self._fuse(case)
        if self.ignore_disagreement and len(case.labels) > 2:
            fused[view_fusion.all_differ(case.labels)] = IGNORE
        confidence = self._background_confidence_of(round_number)
        if confidence is not None:
            confident = view_fusion.all_confident(case.labels, case.confidences, 0, confidence)
            fused[(fused == 0) & ~confident] = IGNORE
        return fused

    def _fuse(self, case: Predictions) -> Tensor:
        if self.fusion == "mean":
            assert case.probabilities is not None  # since `needs` asks for them
            return view_fusion.fuse_mean(case.probabilities)
        background = 0 if self.fusion == "any" else None
        return view_fusion.fuse_votes(case.labels, case.confidences, background)

    def _background_confidence_of(self, round_number: int) -> float | None:
        """The probability that background needs in a round; None: any."""
        last = self.background_confidence_rounds
        if last is not None and round_number > last:
            return None
        return self.background_confidence
