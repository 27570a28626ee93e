"""Strong views for consistency: changes of intensities that keep every structure where it is."""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.ops.semi_supervised import mixing


def jitter_intensities(image: Tensor, strength: float) -> Tensor:
    """Images with another contrast, brightness, colour and noise, drawn for each image and channel.

    The contrast about the mean is multiplied by 1 - s to 1 + s, the mean moves by up to s/2 standard deviations of the
    channel, and noise of up to s/4 standard deviations is added.

    Args:
        image: `(B, C, *spatial)`.
        strength: s, in [0, 1]; 0 gives the images back and draws nothing.
    """
    if strength == 0:
        return image
    axes = tuple(range(2, image.ndim))
    shape = (*image.shape[:2], *[1] * len(axes))
    contrast, brightness, noise = (torch.rand(3, *shape) * 2 - 1).to(image.device)
    mean = image.mean(axes, keepdim=True)
    deviation = image.std(axes, keepdim=True)
    changed = mean + (image - mean) * (1 + strength * contrast) + brightness * strength / 2 * deviation
    grain = torch.randn(image.shape).to(image.device)
    return changed + grain * noise.abs() * strength / 4 * deviation


def cut_out(image: Tensor, share: float) -> Tensor:
    """Images of each of which a box at a random place has the mean of the channel.

    Args:
        image: `(B, C, *spatial)`.
        share: of the voxels that the box has; 0 gives the images back and draws nothing.
    """
    if share == 0:
        return image
    shape = image.shape[2:]
    boxes = [mixing.random_box(shape, share) for _ in image]
    blank = image.mean(tuple(range(2, image.ndim)), keepdim=True).expand_as(image)
    return mixing.paste(image, blank, mixing.box_masks(boxes, shape, image.device))
