"""Images with boxes hidden in them, for networks that learn to say what was there.

D. Pathak, P. Krähenbühl, J. Donahue, T. Darrell, A. A. Efros: Context Encoders: Feature Learning by Inpainting,
CVPR 2016; arXiv 1604.07379.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.ops.losses.segmentation import masked_mean
from medseg.ops.semi_supervised import mixing


def hide_boxes(images: Tensor, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Hide boxes at random places, which may overlap, under the mean of the image's channel.

    Args:
        images: `(B, C, *spatial)`.
        count: boxes in each image.
        share: of the image, that a box has.

    Returns:
        the images and what is hidden of them, `(B, 1, *spatial)` bool.
    """
    hidden = torch.zeros((len(images), 1, *images.shape[2:]), dtype=torch.bool, device=images.device)
    for _ in range(count):
        boxes = [mixing.random_box(images.shape[2:], share) for _ in images]
        hidden |= mixing.box_masks(boxes, images.shape[2:], images.device)
    mean = images.flatten(2).mean(2).reshape(*images.shape[:2], *[1] * (images.ndim - 2))
    return torch.where(hidden, mean, images), hidden


def restoration_loss(restored: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute difference of what was hidden, over all channels.

    Args:
        restored: `(B, C, *spatial)`.
        images: the same, as they were.
        hidden: `(B, 1, *spatial)` bool.
    """
    difference = (restored.float() - images.float()).abs()
    return masked_mean(difference, hidden.expand_as(difference))


def inpainting_loss(network: nn.Module, head: nn.Module, images: Tensor, count: int, share: float) -> Tensor:
    """Hide boxes of images, let a network say what was there, and compare.

    Args:
        network: images `(B, C, *spatial)` to features.
        head: features to intensities `(B, C, *spatial)`.
        images: what it shall say; it sees them with boxes hidden.
        count: boxes in each image.
        share: of the image, that a box has.
    """
    seen, hidden = hide_boxes(images, count, share)
    return restoration_loss(head(network(seen)), images, hidden)


def check_boxes(boxes: int, share: float) -> None:
    """See that something is hidden.

    Raises:
        ValueError: nothing, or everything.
    """
    if boxes < 1:
        raise ValueError(f"boxes is {boxes}; accepted: 1 or more")
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; accepted: a number between 0 and 1")
