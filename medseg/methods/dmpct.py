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

Not in the paper are options of the rule that leave voxels out: by `confidence` every class has to be probable enough,
whatever number of planes says so; by `background_confidence` the background alone; by `ignore_disagreement` two planes
have to agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from medseg.method import IGNORE, Predictions, PseudoLabels
from medseg.portable.inference import view_fusion

STEPS = 255
"""Of the probabilities of all classes, which are kept as bytes."""

LEAST_TO_DISAGREE = 3
"""Views of which no two may agree while a vote still means something."""


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
        confidence: learn a pseudo-label, of whatever class, only where its probability is at least this, such as 0.8;
            None: everywhere, as in the paper. With "mean" it is the mean of all views' probabilities of that class;
            with "vote" and "any" that of the most confident of the views that give it, so that one plane which is
            sure is enough.
    """

    def __init__(
        self, classes: int, *, fusion: Literal["vote", "any", "mean"] = "vote", ignore_disagreement: bool = False,
        background_confidence: float | None = None, background_confidence_rounds: int | None = None,
        confidence: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(classes)
        for name, given in {"background_confidence": background_confidence, "confidence": confidence}.items():
            if given is not None and not 0 <= given <= 1:
                raise ValueError(f"{name} is {given}; accepted is a probability from 0 to 1")
        if background_confidence_rounds is not None and background_confidence_rounds < 1:
            raise ValueError(f"background_confidence_rounds is {background_confidence_rounds}; accepted are 1 and more")
        self.fusion = fusion
        self.ignore_disagreement = ignore_disagreement
        self.background_confidence = background_confidence
        self.background_confidence_rounds = background_confidence_rounds
        self.confidence = confidence
        if fusion == "mean":
            self.needs = "probabilities"

    def cautions(self, views: int) -> list[str]:
        """Where `ignore_disagreement` changes nothing."""
        if not self.ignore_disagreement or views >= LEAST_TO_DISAGREE:
            return []
        counted = "1 view" if views == 1 else f"{views} views"
        return [f"ignore_disagreement is true, and changes nothing with {counted}: it looks for two of three or more"]

    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> Tensor:
        """The vote of the views."""
        fused = self._fuse(case)
        if self.confidence is not None:
            fused[~self._is_probable(case, fused, self.confidence)] = IGNORE
        if self.ignore_disagreement and len(case.labels) >= LEAST_TO_DISAGREE:
            fused[view_fusion.all_differ(case.labels)] = IGNORE
        least = self._background_confidence_of(round_number)
        if least is not None:
            confident = view_fusion.all_confident(case.labels, case.confidences, 0, least)
            fused[(fused == 0) & ~confident] = IGNORE
        return fused

    def _fuse(self, case: Predictions) -> Tensor:
        if self.fusion == "mean":
            assert case.probabilities is not None  # since `needs` asks for them
            return view_fusion.fuse_mean(case.probabilities)
        background = 0 if self.fusion == "any" else None
        return view_fusion.fuse_votes(case.labels, case.confidences, background)

    def _is_probable(self, case: Predictions, fused: Tensor, least: float) -> Tensor:
        """Where the probability of the pseudo-label is at least `least`, bool `(X, Y, Z)`.

        Args:
            case: what the views say.
            fused: the pseudo-label, class indices.
            least: probability in [0, 1].
        """
        if self.fusion == "mean":
            assert case.probabilities is not None  # since `needs` asks for them
            return _mean_is_at_least(case.probabilities, fused, least)
        found = torch.zeros_like(fused, dtype=torch.bool)
        for label, probability in zip(case.labels, case.confidences, strict=True):
            found |= (label == fused) & (probability >= least)
        return found

    def _background_confidence_of(self, round_number: int) -> float | None:
        """The probability that background needs in a round; None: any."""
        last = self.background_confidence_rounds
        if last is not None and round_number > last:
            return None
        return self.background_confidence


def _mean_is_at_least(probabilities: Sequence[Tensor], label: Tensor, least: float) -> Tensor:
    """Where the mean of the views' probabilities of a label is at least so much, bool `(X, Y, Z)`.

    Args:
        probabilities: for each view `(C, X, Y, Z)` uint8 in steps of 1/255; may be memory-mapped.
        label: `(X, Y, Z)` class indices.
        least: probability in [0, 1].
    """
    found = torch.zeros_like(label, dtype=torch.bool)
    steps = least * STEPS * len(probabilities)
    for place in range(label.shape[-1]):  # an index takes eight bytes a voxel
        index = label[..., place].long()[None]
        total = torch.zeros_like(label[..., place], dtype=torch.int32)
        for of_view in probabilities:
            total += torch.as_tensor(of_view[..., place]).gather(0, index)[0]
        found[..., place] = total >= steps
    return found
