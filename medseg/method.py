"""The contract: a method is an `nn.Module` whose `forward` is its paper's loss.

Because `forward` is the loss, `.to()`, `state_dict()` and `DistributedDataParallel(method)` cover every network, head
and bank that the method owns. A hyper-parameter is a keyword of the constructor whose default is the paper's: the
signature is the configuration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor, nn

Batch = Mapping[str, Mapping[str, Tensor]]
"""stream -> key -> `(B, C, *spatial)`, e.g. `batch["unlabeled"]["image"]`; labels are class indices, 255 = ignore."""

PatchTargets = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Label patch `(*spatial)` of class indices -> further arrays `(C', *spatial)`; runs in the loader's workers."""

IGNORE = 255


@dataclass(frozen=True)
class Clock:
    """Position of a step in its run.

    Args:
        iteration: 0-based step.
        total: steps of the whole run.
    """

    iteration: int
    total: int

    @property
    def fraction(self) -> float:
        """Part of the run that is over, in [0, 1)."""
        return self.iteration / self.total


@dataclass(frozen=True, eq=False)
class Votes:
    """Predictions of the networks of all views for one unlabelled case, on the grid of its file.

    Of each network only the label and its probability are kept: the volumes of all classes of three planes are some
    twenty times larger, and a rule that takes the most confident view needs no more, since the largest probability of
    all views and classes is always some view's own largest.

    Args:
        labels: for each view `(X, Y, Z)` uint8 class indices.
        confidences: for each view `(X, Y, Z)` float16, the probability of each of these labels.
        probabilities: for each view `(C, X, Y, Z)` uint8 in steps of 1/255, memory-mapped; None unless the
            method's `fusion` is "mean".
    """

    labels: Sequence[Tensor]
    confidences: Sequence[Tensor]
    probabilities: Sequence[Tensor] | None = None


class Method(nn.Module, ABC):
    """Base class of all methods.

    Args:
        network: images `(B, Cin, *spatial)` to `(B, output_channels(classes), *spatial)`.
        classes: number of classes with background.
        previous: the segmenter of the stage before, for papers that start from one.
    """

    streams: ClassVar[tuple[str, ...]] = ("labeled",)
    """Which streams a batch must carry, labelled first."""

    fusion: Literal["vote", "any", "mean"] = "vote"
    """How networks of several views predict together, of `portable.inference.multi_view.FUSIONS`; with "mean" `relabel`
    gets the probabilities of all classes."""

    rule_options: ClassVar[frozenset[str]] = frozenset()
    """Options that a single network does not depend on: those of pseudo-labels and rounds."""

    warm_students: bool = False
    """Whether the networks of a round start from the round before, with half its iterations and a tenth of its rate."""

    stop_dice: float | None = None
    """Rounds end early where pseudo-labels agree with those of the round before by more than this mean Dice."""

    def __init__(self, network: nn.Module, *, classes: int, previous: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.previous = previous

    @classmethod
    def output_channels(cls, classes: int) -> int:
        """Channels that the method's network must have at its end."""
        return classes

    @abstractmethod
    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The paper's loss as named, already weighted scalar terms; their sum is minimised."""

    def after_step(self, clock: Clock) -> None:
        """Update what the optimiser does not, such as an averaged teacher."""

    def segmenter(self) -> nn.Module:
        """The network to validate, export and serve: images to `(B, classes, *spatial)` logits."""
        return self.network

    def parameter_groups(self, lr: float) -> list[dict]:
        """Optimiser groups; by default one."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def targets(self) -> PatchTargets | None:
        """Further targets to make of each labelled patch in the loader's workers."""
        return None

    def relabel(self, cases: Sequence[Votes], round_number: int = 1) -> Iterator[Tensor]:
        """New labels for unlabelled cases, once per round; only for papers that have rounds.

        The labels of a case must depend on that case alone: a resumed run makes the missing ones only. `self.network`
        is no trained network here; of a case there are the votes alone.

        Args:
            cases: `cases[i]` predicts case `i` when it is indexed, and keeps nothing of it.
            round_number: from 1, where the votes are those of the teachers.

        Returns:
            For each case in order `(X, Y, Z)` uint8 class indices, 255 = ignore.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rule for pseudo-labels")
