"""Supervised losses that honour the ignore label; labels are class indices `(B, 1, *spatial)`, 255 = ignore."""

from __future__ import annotations

from torch import Tensor

from medseg.portable.masked_losses import IGNORE, cross_entropy, labeled_mask, one_hot, soft_dice

__all__ = ["IGNORE", "cross_entropy", "labeled_mask", "masked_mean", "one_hot", "soft_dice"]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` (broadcastable) holds; zero, not NaN, where it holds nowhere."""
    weight = mask.to(values.dtype).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1)
