"""Dice and cross-entropy over labelled voxels only: labels are class indices `(B, 1, *spatial)`, 255 = ignore."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from monai.config import KeysCollection
from monai.losses import DiceLoss
from monai.transforms import MapTransform
from torch import Tensor, nn

IGNORE = 255


def labeled_mask(label: Tensor) -> Tensor:
    """Where a label is not the ignore label: bool, of the label's shape."""
    return label != IGNORE


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Label `(B, 1, *spatial)` to `(B, classes, *spatial)` float32; ignored voxels belong to no class."""
    index = torch.arange(classes, device=label.device, dtype=label.dtype)
    index = index.view(1, classes, *[1] * (label.ndim - 2))
    return (label == index).float()  # 255 is no class; F.one_hot would pass through 64-bit integers


def soft_dice(logits: Tensor, label: Tensor, *, smooth: float = 1e-5, has_background: bool = True) -> Tensor:
    """One minus soft Dice, pooled over the batch, mean over the classes other than the background.

    `1 - (2 sum(p y) + e) / (sum(p^2) + sum(y^2) + e)`, sums over all labelled voxels of the batch at once (Milletari et
    al., 3DV 2016; pooled as in the code of DTC).

    Args:
        logits: `(B, C, *spatial)`.
        label: `(B, 1, *spatial)` class indices, 255 = ignore.
        smooth: `e`.
        has_background: whether the first class is the background; else it counts like the others.

    Returns:
        Scalar in [0, 1].
    """
    classes = logits.shape[1]
    # MONAI's MaskedDiceLoss masks before its softmax, which makes ignored voxels uniform instead of absent.
    probabilities = logits.float().softmax(1) * labeled_mask(label)
    loss = DiceLoss(
        include_background=not has_background, squared_pred=True, batch=True, smooth_nr=smooth, smooth_dr=smooth
    )
    return loss(probabilities, one_hot(label, classes))


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy over labelled voxels; zero, not NaN, where no voxel is labelled.

    Args:
        logits: `(B, C, *spatial)`.
        label: `(B, 1, *spatial)` class indices, 255 = ignore.
    """
    target = label.squeeze(1).long()
    total = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="sum")
    return total / labeled_mask(label).sum().clamp(min=1)


class DiceAndCrossEntropy(nn.Module):
    """`soft_dice` plus `cross_entropy` as a loss function of `(logits, label)`, for stock trainers.

    Args:
        has_background: as in `soft_dice`.
    """

    def __init__(self, has_background: bool = True) -> None:
        super().__init__()
        self.has_background = has_background

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar; shapes as in `soft_dice`."""
        return soft_dice(logits, label, has_background=self.has_background) + cross_entropy(logits, label)


class KnownOneHotd(MapTransform):
    """One-hot maps of a prediction and its label for stock metrics; where the label says 255 both are all zeros.

    Args:
        keys: of the prediction and of the label: `(C, *spatial)` logits, or `(1, *spatial)` class indices, and
            `(1, *spatial)`.
        classes: how many.
    """

    def __init__(self, keys: KeysCollection, classes: int) -> None:
        super().__init__(keys)
        self.classes = classes

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """The items with both maps replaced by `(classes, *spatial)` float32."""
        pred_key, label_key = self.keys
        pred, label = data[pred_key], data[label_key]
        predicted = pred.argmax(0, keepdim=True) if pred.shape[0] > 1 else pred
        return {**data, pred_key: self._one_hot(predicted, label), label_key: self._one_hot(label, label)}

    def _one_hot(self, indices: Tensor, label: Tensor) -> Tensor:
        return one_hot(indices[None], self.classes)[0] * labeled_mask(label)
