"""Regions: classes that overlap, each the union of some values of a label map, with a sigmoid of its own.

A network has a channel for each region and none for the background. Where a region's probability is above a half it is
present; a label map holds one value per voxel, which present regions paint one after the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from monai.config import KeysCollection
from monai.losses import DiceLoss
from monai.transforms import MapTransform
from torch import Tensor, nn

from .masked_losses import labeled_mask
from .structure_masks import mask_of

Members = Sequence[Sequence[int]]
"""Of each region the values in a label map that belong to it."""


def region_targets(label: Tensor, members: Members) -> Tensor:
    """Label `(B, 1, *spatial)` of class indices to `(B, K, *spatial)` float32: 1 inside of each region.

    Args:
        label: class indices; 255, as any index of no region, is in none.
        members: of each region the class indices.
    """
    return torch.cat([mask_of(label, values) for values in members], 1).float()


def paint_regions(present: Tensor, order: Sequence[int]) -> Tensor:
    """Class indices `(*spatial)` uint8 of regions that are present: 0 in none, else that of the last one painted.

    Args:
        present: bool `(K, *spatial)`; channel `k` is of the class `k + 1`.
        order: class indices in the order in which they are painted.

    Examples:
        >>> paint_regions(torch.tensor([[True, True, False], [False, True, False]]), order=[1, 2]).tolist()
        [1, 2, 0]
    """
    painted = torch.zeros(present.shape[1:], dtype=torch.uint8, device=present.device)
    for index in order:
        painted.masked_fill_(present[index - 1], index)
    return painted


def region_dice(
    logits: Tensor, label: Tensor, members: Members, covered: Tensor | None = None, *, smooth: float = 1e-5
) -> Tensor:
    """One minus soft Dice of a sigmoid for each region, pooled over the batch, mean over the regions.

    `1 - (2 sum(p y) + e) / (sum(p^2) + sum(y^2) + e)`, as `masked_losses.soft_dice`.

    Args:
        logits: `(B, K, *spatial)`.
        label: `(B, 1, *spatial)` class indices, 255 = ignore.
        members: of each region the class indices.
        covered: `(B, K)` bool, the regions that the label of each image tells apart; None: all. A region that none of
            them covers is left out of the mean.
        smooth: `e`.

    Returns:
        Scalar in [0, 1]; zero where no image covers a region.
    """
    counted = _counted(label, logits, covered)
    target = region_targets(label, members) * counted
    probabilities = logits.float().sigmoid() * counted
    if covered is not None:
        some = covered.any(0)
        if not bool(some.any()):
            return logits.sum() * 0
        probabilities, target = probabilities[:, some], target[:, some]
    return DiceLoss(squared_pred=True, batch=True, smooth_nr=smooth, smooth_dr=smooth)(probabilities, target)


def region_cross_entropy(logits: Tensor, label: Tensor, members: Members, covered: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over the regions and voxels that are known; zero, not NaN, where none is.

    Args:
        logits: as `region_dice`.
        label: as there.
        members: as there.
        covered: as there.
    """
    counted = _counted(label, logits, covered)
    target = region_targets(label, members)
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return (each * counted).sum() / counted.sum().clamp(min=1)


def _counted(label: Tensor, logits: Tensor, covered: Tensor | None) -> Tensor:
    """Where a label says whether a region is there: bool of the shape of the logits."""
    counted = labeled_mask(label).expand_as(logits)
    if covered is None:
        return counted
    return counted & covered.view(*covered.shape, *[1] * (logits.ndim - 2))


class RegionDiceAndCrossEntropy(nn.Module):
    """`region_dice` plus `region_cross_entropy` as a loss function of `(logits, label)`, for stock trainers.

    Args:
        members: of each region the class indices.
    """

    def __init__(self, members: Members) -> None:
        super().__init__()
        self.members = members

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar; shapes as in `region_dice`."""
        return region_dice(logits, label, self.members) + region_cross_entropy(logits, label, self.members)


class KnownRegionsd(MapTransform):
    """Masks of regions of a prediction and its label for stock metrics; where the label says 255 both are zeros.

    Args:
        keys: of the prediction and of the label: `(K, *spatial)` logits, or `(1, *spatial)` class indices in uint8,
            and `(1, *spatial)`.
        members: of each region the class indices.
    """

    def __init__(self, keys: KeysCollection, members: Members) -> None:
        super().__init__(keys)
        self.members = members

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """The items with both maps replaced by `(K, *spatial)` float32."""
        pred_key, label_key = self.keys
        pred, label = data[pred_key], data[label_key]
        known = labeled_mask(label)
        # of a single region only the type tells logits from class indices
        found = (pred > 0).float() if pred.is_floating_point() else self._masks(pred)
        return {**data, pred_key: found * known, label_key: self._masks(label) * known}

    def _masks(self, indices: Tensor) -> Tensor:
        return region_targets(indices[None], self.members)[0]
