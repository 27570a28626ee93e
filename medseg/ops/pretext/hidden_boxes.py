"""Images with boxes hidden in them, for networks that learn to say what was there.

D. Pathak, P. Krähenbühl, J. Donahue, T. Darrell, A. A. Efros: Context Encoders: Feature Learning by Inpainting,
CVPR 2016; arXiv 1604.07379.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.ops.contact_sheet import contact_sheet, middle_slices
from medseg.ops.losses.segmentation import masked_mean
from medseg.ops.semi_supervised import mixing

SHOWN = 4
"""Images in a picture."""


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


class InpaintingTask:
    """Hides boxes of images, lets a network say what was there, and compares.

    Args:
        boxes: hidden in each image.
        share: of the image, that a box has.

    Raises:
        ValueError: nothing is hidden, or everything.
    """

    def __init__(self, boxes: int, share: float) -> None:
        if boxes < 1:
            raise ValueError(f"boxes is {boxes}; accepted: 1 or more")
        if not 0 < share < 1:
            raise ValueError(f"share is {share}; accepted: a number between 0 and 1")
        self.boxes, self.share = boxes, share
        self._shown: tuple[Tensor, ...] = ()

    def loss(self, network: nn.Module, head: nn.Module, images: Tensor, inside: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            network: images `(B, C, *spatial)` to features.
            head: features to intensities `(B, C, *spatial)`.
            images: as the network shall restore them.
            inside: `(B, 1, *spatial)` bool, what shows the images and counts; None: everything.
        """
        seen, hidden = hide_boxes(images, self.boxes, self.share)
        restored = head(network(seen))
        self._shown = tuple(middle_slices(each, SHOWN) for each in (seen, restored, images))
        return restoration_loss(restored, images, hidden if inside is None else hidden & inside)

    def pictures(self) -> dict[str, Tensor]:
        """Images of the last batch: with boxes hidden, below as the network restored them, below as they were."""
        return {"inpainting": contact_sheet(self._shown)} if self._shown else {}
