"""Supervised losses that honour the ignore label and cases of which only some structures are labelled.

Labels are class indices `(B, 1, *spatial)`, 255 = ignore. `covered` `(B, classes)` bool says which classes the label of
each image tells apart: of a case whose label knows livers only, a voxel with label 0 may be a kidney. There the classes
that are not covered are merged with the background: p(background) becomes the sum of its own and theirs (G. Shi, L.
Xiao, Y. Chen, S. K. Zhou: Marginal loss and exclusion loss for partially supervised multi-organ segmentation, Medical
Image Analysis 70, 2021; arXiv 2007.03868).
"""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor

from medseg.portable import masked_losses
from medseg.portable.masked_losses import IGNORE, labeled_mask, one_hot

__all__ = [
    "IGNORE",
    "binary_cross_entropy",
    "cross_entropy",
    "labeled_mask",
    "masked_mean",
    "merge_uncovered",
    "one_hot",
    "soft_dice",
    "weighted_mean",
]


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of `values` where `mask` (broadcastable) holds; zero, not NaN, where it holds nowhere. None: of all."""
    if mask is None:
        return values.mean()
    weight = mask.to(values.dtype).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1)


def weighted_mean(cost: Tensor, weight: Tensor) -> Tensor:
    """`sum w c / sum w`; zero, not NaN, where all weights are."""
    return (weight * cost).sum() / weight.sum().clamp(min=1e-12)


def merge_uncovered(logits: Tensor, covered: Tensor) -> Tensor:
    """Logits whose softmax has the probability of classes that are not covered added to the background's.

    Args:
        logits: `(B, classes, *spatial)`.
        covered: `(B, classes)` bool, the background always true.

    Returns:
        `(B, classes, *spatial)` float32; classes that are not covered have a probability of zero.
    """
    logits = logits.float()
    other = ~covered.view(*covered.shape, *[1] * (logits.ndim - 2))
    nothing = torch.finfo(logits.dtype).min / 4  # not -inf, whose product with a zero is not a number
    merged_with = other.clone()
    merged_with[:, 0] = True
    background = logits.masked_fill(~merged_with, nothing).logsumexp(1, keepdim=True)
    return torch.cat([background, logits[:, 1:].masked_fill(other[:, 1:], nothing)], 1)


def soft_dice(
    logits: Tensor,
    label: Tensor,
    covered: Tensor | None = None,
    *,
    smooth: float = 1e-5,
    has_background: bool = True,
) -> Tensor:
    """One minus soft Dice, pooled over the batch, mean over the classes that some image of it covers.

    See `medseg.portable.masked_losses.soft_dice` for the formula.

    Args:
        logits: `(B, classes, *spatial)`.
        label: `(B, 1, *spatial)` class indices, 255 = ignore.
        covered: `(B, classes)` bool; None: every label covers every class.
        smooth: added to numerator and denominator.
        has_background: whether the first class is the background, which is left out of the mean; without one every
            label covers every class.

    Returns:
        Scalar in [0, 1]; zero where no image covers a class besides the background.
    """
    if covered is None:
        return masked_losses.soft_dice(logits, label, smooth=smooth, has_background=has_background)
    counted = covered.any(0)
    counted[0] = True
    if not bool(counted[1:].any()):
        return logits.sum() * 0
    probabilities = merge_uncovered(logits, covered).softmax(1) * labeled_mask(label)
    target = one_hot(label, logits.shape[1])
    loss = DiceLoss(include_background=False, squared_pred=True, batch=True, smooth_nr=smooth, smooth_dr=smooth)
    return loss(probabilities[:, counted], target[:, counted])


def cross_entropy(logits: Tensor, label: Tensor, covered: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over voxels that are not ignored; zero, not NaN, where all are.

    Args:
        logits: `(B, classes, *spatial)`.
        label: `(B, 1, *spatial)` class indices, 255 = ignore.
        covered: `(B, classes)` bool; None: every label covers every class.
    """
    merged = logits if covered is None else merge_uncovered(logits, covered)
    return masked_losses.cross_entropy(merged, label)


def binary_cross_entropy(logits: Tensor, label: Tensor, covered: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a sigmoid for each class, summed over classes, mean over voxels that are not ignored.

    Args:
        logits: `(B, classes, *spatial)`.
        label: `(B, 1, *spatial)` class indices, 255 = ignore.
        covered: `(B, classes)` bool; None: every label covers every class. A class that is not covered teaches nothing,
            nor does the background where it may be such a class.
    """
    logits = logits.float()
    target = one_hot(label, logits.shape[1])
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    if covered is not None:
        told = covered.view(*covered.shape, *[1] * (logits.ndim - 2)).expand_as(logits).clone()
        told[:, :1] = covered.all(1).view(-1, *[1] * (logits.ndim - 1)) | (label != 0)
        each = each * told
    return masked_mean(each.sum(1, keepdim=True), labeled_mask(label))
