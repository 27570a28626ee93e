"""Class-activation maps: where a classifier of tags looks, all classes at once.

B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba: Learning Deep Features for Discriminative Localization, CVPR
2016; arXiv 1512.04150. The classifier is a 1x1 convolution without bias after the mean over all positions, so that the
same convolution before the mean gives a map of each class whose mean is the class's logit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor

from medseg.method import IGNORE
from medseg.ops.losses.segmentation import masked_mean
from medseg.portable.networks.tag_networks import enlarge as enlarge

PRESENT = 1
"""Value of a tag that says that the class is in the image."""

SMALLEST = 1e-5
"""Added to the maximum that a map is divided by."""


def activation_maps(features: Tensor, weight: Tensor) -> Tensor:
    """The map of each class: `sum_k w_ck F_k` at each position, not yet cut at 0.

    Args:
        features: F, `(B, K, *spatial)`.
        weight: w of the classifier, `(classes, K)` or as of a 1x1 convolution `(classes, K, 1, ...)`.

    Returns:
        `(B, classes, *spatial)`.
    """
    matrix = weight.flatten(1)
    if matrix.shape[1] != features.shape[1]:
        raise ValueError(f"the classifier takes {matrix.shape[1]} channels, the features have {features.shape[1]}")
    return torch.einsum("ck,bk...->bc...", matrix, features)


def mean_over_positions(maps: Tensor) -> Tensor:
    """The logit of each class: `(B, classes, *spatial)` to `(B, classes)`."""
    return maps.flatten(2).mean(2)


def relative_maps(maps: Tensor, smallest: float = SMALLEST) -> Tensor:
    """What is positive of each map, divided by its maximum over the positions: `ReLU(M) / (max M + smallest)`.

    Args:
        maps: `(B, classes, *spatial)`.
        smallest: added to the maximum.

    Returns:
        In [0, 1), as large as `maps`; 0 everywhere where a map is nowhere positive.
    """
    positive = maps.float().clamp_min(0)
    return positive / (largest_of(positive) + smallest)


def largest_of(maps: Tensor) -> Tensor:
    """The maximum of each map over its positions: `(B, classes, *spatial)` to `(B, classes, 1, ...)`."""
    return maps.amax(tuple(range(2, maps.ndim)), keepdim=True)


def keep_present(maps: Tensor, tags: Tensor) -> Tensor:
    """The maps with 0 for every class that the tags do not name as present.

    Args:
        maps: `(B, classes, *spatial)`.
        tags: `(B, classes)`, 1 = present, 0 = absent, 255 = not known.
    """
    present = (tags == PRESENT).view(*tags.shape, *[1] * (maps.ndim - 2))
    return torch.where(present, maps, 0)


def presence_of(tags: Mapping[int, bool], classes: int) -> tuple[Tensor, Tensor]:
    """Which structures are in an image, and which may be, nobody having looked for them.

    Args:
        tags: class index -> whether it is there.
        classes: with background.

    Returns:
        Present, and present or not known, both `(classes - 1,)` bool.
    """
    present = torch.tensor([tags.get(index, False) for index in range(1, classes)])
    possible = torch.tensor([tags.get(index, True) for index in range(1, classes)])
    return present, possible


def tag_loss(logits: Tensor, tags: Tensor) -> Tensor:
    """Binary cross-entropy of each class, mean over what is known: multi-label soft margin loss.

    Args:
        logits: `(B, classes)`.
        tags: `(B, classes)`, 1 = present, 0 = absent, 255 = not known.

    Returns:
        Scalar; 0, not NaN, where nothing is known.
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), (tags == PRESENT).float(), reduction="none")
    return masked_mean(each, tags != IGNORE)


def coarsest_within(strides: Sequence[Sequence[int]], largest: int) -> int:
    """Which feature map of a network in halves to look at: the coarsest whose strides are all at most `largest`.

    Args:
        strides: of each feature map along each axis, the finest first (`EncoderDecoder.strides`).
        largest: voxels of the image between those of the map.

    Raises:
        ValueError: no feature map is so fine.
    """
    within = [level for level, each in enumerate(strides) if max(each) <= largest]
    if not within:
        finest = min(max(each) for each in strides)
        raise ValueError(f"stride {largest}: the network's finest feature map has {finest}")
    return within[-1]
