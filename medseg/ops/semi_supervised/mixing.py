"""Cutting boxes out of images and pasting them into others; one draw for image, label and teacher alike.

Everything is drawn from torch's generator of the CPU, whose state is in the checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from scipy import ndimage
from torch import Tensor

from medseg.ops.losses.segmentation import IGNORE

Box = tuple[slice, ...]
"""Part of an image, one slice for each spatial axis."""


ALONE = "there is a single unlabelled case, and no other one to mix it with"
"""Warning of methods that mix unlabelled images."""


def random_box(shape: Sequence[int], share: float = 0.5) -> Box:
    """A box of a share of the image's size at a random place.

    Side `i` has `N_i share^(w_i)` voxels with `w` uniform on the simplex: in two dimensions that is the log-uniform
    aspect ratio of AEL's code.

    Args:
        shape: of the image.
        share: of the image, in (0, 1).
    """
    drawn = torch.empty(len(shape)).exponential_()  # normalised: uniform on the simplex
    exponents = (drawn / drawn.sum()).tolist()
    box = []
    for size, exponent in zip(shape, exponents, strict=True):
        side = max(1, round(size * share**exponent))
        first = int(torch.randint(size - side + 1, ()))
        box.append(slice(first, first + side))
    return tuple(box)


def component_box(mask: Tensor, smallest: float) -> Box | None:
    """Bounding box of a connected component, the first in random order that is large enough.

    Args:
        mask: `(*spatial)` bool.
        smallest: voxels that a component has at least, more than that many.

    Returns:
        None: there is none.
    """
    if int(mask.sum()) <= smallest:
        return None
    components, count = ndimage.label(mask.cpu().numpy(), structure=np.ones([3] * mask.ndim))  # diagonals too
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    boxes = ndimage.find_objects(components)
    for number in (torch.randperm(count) + 1).tolist():  # 0 is what is outside
        if sizes[number] > smallest:
            return boxes[number - 1]
    return None


def box_masks(boxes: Sequence[Box], shape: Sequence[int], device: torch.device) -> Tensor:
    """`(B, 1, *shape)` bool, true inside the box of each image."""
    masks = torch.zeros(len(boxes), 1, *shape, dtype=torch.bool)
    for mask, box in zip(masks, boxes, strict=True):
        mask[(0, *box)] = True
    return masks.to(device)


def paste(base: Tensor, donor: Tensor, mask: Tensor) -> Tensor:
    """`donor` where the mask holds, else `base`; images, labels and logits alike.

    Args:
        base: `(B, C, *spatial)`.
        donor: of the same shape.
        mask: `(B, 1, *spatial)` bool.
    """
    return torch.where(mask, donor, base)


def other_images(count: int) -> list[int]:
    """For each image of a batch another one, drawn at random; in a batch of one the image itself."""
    if count == 1:
        return [0]
    shift = int(torch.randint(1, count, ()))
    return [(number + shift) % count for number in range(count)]


def move_freely(image: Tensor, label: Tensor, scale: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """A donor resized, mirrored and moved at random; what comes from outside it has the ignore label.

    Args:
        image: `(Cin, *spatial)`.
        label: `(1, *spatial)`.
        scale: smallest and largest factor of its size, see `factor_of_share`.
    """
    shape = image.shape[1:]
    factor = factor_of_share(float(torch.rand(())), scale)
    size = [max(1, round(length * factor)) for length in shape]
    smooth = "bilinear" if len(shape) == 2 else "trilinear"
    image = F.interpolate(image[None], size=size, mode=smooth, align_corners=False)[0]
    label = F.interpolate(label[None].float(), size=size, mode="nearest")[0].to(label.dtype)
    if float(torch.rand(())) < 0.5:
        image, label = image.flip(1), label.flip(1)
    moved = image.new_zeros(image.shape[0], *shape)
    moved_label = torch.full((1, *shape), IGNORE, dtype=label.dtype, device=label.device)
    here, there = [], []
    for length, new in zip(shape, size, strict=True):
        first = int(torch.randint(abs(length - new) + 1, ()))
        side = min(length, new)
        here.append(slice(first, first + side) if new < length else slice(0, side))
        there.append(slice(0, side) if new < length else slice(first, first + side))
    everything = slice(None)
    moved[(everything, *here)] = image[(everything, *there)]
    moved_label[(everything, *here)] = label[(everything, *there)]
    return moved, moved_label


def factor_of_share(share: float, scale: tuple[float, float]) -> float:
    """A factor of size from a number drawn evenly from [0, 1): one half makes smaller, the other half larger.

    Args:
        share: the number.
        scale: smallest and largest factor; where both are on one side of 1 all in between are alike.
    """
    smallest, largest = scale
    if not smallest < 1 < largest:
        return smallest + share * (largest - smallest)
    if share < 0.5:
        return smallest + 2 * share * (1 - smallest)
    return 1 + (2 * share - 1) * (largest - 1)
