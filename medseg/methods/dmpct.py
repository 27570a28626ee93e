"""DMPCT: deep multi-planar co-training, self-training in which the planes correct one another.

Y. Zhou, Y. Wang, P. Tang, S. Bai, W. Shen, E. Fishman, A. Yuille: Semi-Supervised 3D Abdominal Multi-Organ
Segmentation via Deep Multi-Planar Co-Training, WACV 2019, 121-140; arXiv 1804.02586.

    L = CE(f_v(x), y)                     for each plane v, over labelled and pseudo-labelled slices alike
    y(u) = the label that most planes give voxel u; where no two agree, that of the most confident plane

The teachers of round 0 learn from the labelled volumes. Each round labels the unlabelled ones anew, by a vote of the
networks of the round before, and trains the next on both. There is no code of the authors, and beyond the abstract the
paper could not be consulted: the rule of the vote, two rounds, and students that start where the teachers started are
our reading of it. The vote needs of each plane its label and that label's probability only (`medseg.method.Votes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from torch import Tensor, nn

from medseg.method import IGNORE, Batch, Clock, Method, Votes
from medseg.ops import losses
from medseg.portable.inference import view_fusion as fusing


class DMPCT(Method):
    """Deep multi-planar co-training.

    Args:
        network: slices (or, with the view `volume`, patches) to class logits.
        classes: number of classes with background.
        previous: not used.
        dice: weight of a soft Dice term beside the cross-entropy, which is all that the paper has.
        fusion: "vote"; "any": planes that say background have no vote, so that a structure is where any plane sees it;
            or "mean": the largest mean of the planes' probabilities.
        ignore_disagreement: do not learn where no two planes agree.
        background_confidence: learn background from pseudo-labels only where every plane gives it at least this
            probability, such as 0.9; None: wherever the vote is background, as in the paper. Teachers of few scans
            miss much more than they invent, and what they miss would be taught as background.
        background_confidence_rounds: rounds, from the first, in which `background_confidence` holds; None: all. Once
            networks miss no more than they invent, leaving background out lets structures swell.
        student: "scratch", from where the teachers started, or "warm", from the teachers' weights with half the
            iterations and a tenth of the learning rate.
        stop_dice: end early once the mean Dice of the pseudo-labels with those of the round before is above this, such
            as 0.99.
    """

    rule_options = frozenset(
        {
            "fusion",
            "ignore_disagreement",
            "background_confidence",
            "background_confidence_rounds",
            "student",
            "stop_dice",
        }
    )

    def __init__(
        self, network: nn.Module, *, classes: int, previous: nn.Module | None = None,
        dice: float = 0.0, fusion: Literal["vote", "any", "mean"] = "vote", ignore_disagreement: bool = False,
        background_confidence: float | None = None, background_confidence_rounds: int | None = None,
        student: Literal["scratch", "warm"] = "scratch", stop_dice: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(network, classes=classes)  # a network that is not trained here need not travel along
        if stop_dice is not None and not 0 < stop_dice <= 1:
            raise ValueError(f"stop_dice is {stop_dice}; accepted is a Dice above 0 and up to 1")
        if background_confidence is not None and not 0 <= background_confidence <= 1:
            raise ValueError(f"background_confidence is {background_confidence}; accepted is a probability from 0 to 1")
        self.dice = dice
        self.fusion = fusion
        self.ignore_disagreement = ignore_disagreement
        self.background_confidence = background_confidence
        self.background_confidence_rounds = background_confidence_rounds
        self.warm_students = student == "warm"
        self.stop_dice = stop_dice

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Terms `cross_entropy` and `dice`."""
        image, label = batch["labeled"]["image"], batch["labeled"]["label"]
        logits = self.network(image)
        soft_dice = self.dice * losses.soft_dice(logits, label) if self.dice else logits.new_zeros(())
        return {"cross_entropy": losses.cross_entropy(logits, label), "dice": soft_dice}

    def relabel(self, cases: Sequence[Votes], round_number: int = 1) -> Iterator[Tensor]:
        """The vote of the views, case by case."""
        for index in range(len(cases)):
            votes = cases[index]
            fused = self._fuse(votes)
            if self.ignore_disagreement and len(votes.labels) > 2:
                fused[fusing.all_differ(votes.labels)] = IGNORE
            confidence = self._background_confidence_of(round_number)
            if confidence is not None:
                confident = fusing.all_sure(votes.labels, votes.confidences, 0, confidence)
                fused[(fused == 0) & ~confident] = IGNORE
            yield fused

    def _fuse(self, votes: Votes) -> Tensor:
        if self.fusion == "mean":
            assert votes.probabilities is not None  # since `fusion` asks for them
            return fusing.fuse_mean(votes.probabilities)
        background = 0 if self.fusion == "any" else None
        return fusing.fuse_votes(votes.labels, votes.confidences, background)

    def _background_confidence_of(self, round_number: int) -> float | None:
        """The probability that background needs in a round; None: any."""
        last = self.background_confidence_rounds
        if last is not None and round_number > last:
            return None
        return self.background_confidence
