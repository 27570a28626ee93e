"""How sure a network is of each class during a training, and what follows from it; the confidence bank of AEL.

H. Hu, F. Wei, H. Hu, Q. Ye, J. Cui, L. Wang: Semi-Supervised Semantic Segmentation via Adaptive Equalization Learning,
NeurIPS 2021; arXiv 2110.05474.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medseg.ops.losses.segmentation import IGNORE, labeled_mask, merge_uncovered, one_hot
from medseg.ops.processes import gather_from_processes, sum_over_processes


class ConfidenceBank(nn.Module):
    """Moving average of each class's mean probability where the label has that class.

    Args:
        classes: number of classes with background.
        momentum: share of the bank that a step keeps.
        pooled: over all voxels of the batch at once, as in the authors' code; else the mean over the images that hold
            the class, as in the paper.
        absent: what a class becomes that no label of the batch has. "skip": it stays as it is. "zero", as in the
            authors' code: it counts as 0, so that the bank becomes confidence times frequency.
    """

    average: Tensor
    updates: Tensor

    def __init__(
        self, classes: int, *, momentum: float = 0.999, pooled: bool = True, absent: Literal["skip", "zero"] = "skip"
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum {momentum:g} of the confidence bank: must be at least 0 and less than 1")
        self.momentum, self.pooled, self.absent = momentum, pooled, absent
        self.register_buffer("average", torch.zeros(classes))
        self.register_buffer("updates", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def update(self, logits: Tensor, label: Tensor, covered: Tensor | None = None) -> None:
        """Take a labelled batch in; of all processes together.

        Args:
            logits: `(B, classes, *spatial)`.
            label: `(B, 1, *spatial)` class indices, 255 = ignore.
            covered: `(B, classes)` bool, see `medseg.ops.losses.segmentation`; None: every label covers every class.
        """
        if covered is not None:
            logits = merge_uncovered(logits, covered)
        sums, counts = class_sums(logits, label)
        if self.pooled:
            sums, counts = sums.sum(0), counts.sum(0)
        else:
            sums, counts = (sums / counts.clamp(min=1)).sum(0), (counts > 0).sum(0).float()
        both = sum_over_processes(torch.stack([sums, counts]))
        present = both[1] > 0
        new = both[0] / both[1].clamp(min=1e-12)
        if self.absent == "zero":
            new = torch.where(present, new, 0)
            present = torch.ones_like(present)
        moved = self.momentum * self.average + (1 - self.momentum) * new
        self.average.copy_(torch.where(present, moved, self.average))
        self.updates.add_(present)

    @property
    def known(self) -> Tensor:
        """Which classes some label has had: `(classes,)` bool."""
        if self.absent == "zero":  # absent classes are updated too, and stay at 0 until a label has them
            return self.average > 0
        return self.updates > 0

    def confidence(self) -> Tensor:
        """`(classes,)` in [0, 1], as if the average had not begun at 0; 0 for a class that was never seen."""
        correction = 1 - self.momentum ** self.updates.double()
        corrected = self.average.double() / correction.clamp(min=1e-12)
        return torch.where(self.known, corrected, 0).clamp(0, 1).float()

    def draw_probability(self, eligible: Tensor, *, root: bool = False, temperature: float = 1.0) -> Tensor:
        """Probability to draw each class: softmax of 1 - confidence, or of its square root, over eligible classes.

        Args:
            eligible: `(classes,)` bool.
            root: whether of the square root, as AEL's copy-paste draws.
            temperature: of the softmax.

        Returns:
            `(classes,)`, zero where a class is not eligible or was never seen; all zero where none is left.
        """
        wanted = 1 - self.confidence()
        if root:
            wanted = wanted.sqrt()
        usable = eligible & self.known
        weights = torch.where(usable, torch.exp(wanted / temperature), 0)
        return weights / weights.sum().clamp(min=1e-12)

    def rates(self, *, exponent: float = 1.0, least: float = 0.0) -> Tensor:
        """Rate at which voxels of each class are learnt: `((1 - conf) / max(1 - conf))^exponent`, `(classes,)`.

        Args:
            exponent: beta of the paper.
            least: smallest rate.
        """
        missing = 1 - self.confidence()
        largest = torch.where(self.known, missing, 0).max()
        share = torch.where(largest > 0, missing / largest.clamp(min=1e-12), torch.ones_like(missing))
        share = torch.where(self.known, share, 1)
        return share.clamp(0, 1).pow(exponent).clamp(min=least)


def class_sums(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of each class's own probability over its voxels, and their number, both `(B, classes)`."""
    probabilities = logits.float().softmax(1)
    where = one_hot(label, logits.shape[1])
    axes = tuple(range(2, logits.ndim))
    return (probabilities * where).sum(axes), where.sum(axes)


def class_voxels(label: Tensor, classes: int) -> Tensor:
    """Voxels of each class in each image, `(B, classes)` int64; 255 is no class."""
    counts = [torch.bincount(of_image.flatten(), minlength=IGNORE + 1)[:classes] for of_image in label]
    return torch.stack(counts)


def class_fractions(label: Tensor, classes: int) -> Tensor:
    """Share of each class among the voxels of each image that are not ignored, `(B, classes)`."""
    known = labeled_mask(label).sum(tuple(range(2, label.ndim))).clamp(min=1)
    return class_voxels(label, classes) / known


@torch.no_grad()
def follow_fractions(usual: Tensor, label: Tensor) -> Tensor:
    """Move the usual share of each class a tenth of the way to that of a batch, over the images that hold the class.

    Args:
        usual: `(classes,)`, 0 for a class that no batch has had.
        label: `(B, 1, *spatial)` class indices of this process; the batches of all processes count.
    """
    areas = class_fractions(gather_from_processes(label), len(usual))
    holding = areas > 0
    mean = areas.sum(0) / holding.sum(0).clamp(min=1)
    moved = torch.where(usual > 0, 0.9 * usual + 0.1 * mean, mean)
    return torch.where(holding.any(0), moved, usual)


def draw_class(chance: Tensor) -> int | None:
    """A class by its probability `(classes,)`, which need not add up to 1; None where no class has any."""
    if float(chance.sum()) == 0:
        return None
    return int(torch.multinomial(chance, 1))
