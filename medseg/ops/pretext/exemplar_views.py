"""Views of an image for the exemplar task: a random part of it in another size, mirrored, with other intensities.

After A. Dosovitskiy et al.: Discriminative unsupervised feature learning with exemplar convolutional neural networks,
IEEE TPAMI 2016. For grey images the noise of hue and saturation becomes x -> gain x^gamma + shift of [0, 1], noise and
blur. Images of several channels, colours too, have the same done to all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor

AREA = (0.3, 1.0)
"""Share of the image that a view shows."""

ASPECT = (3 / 4, 4 / 3)
"""Between the sides of what it shows."""

GAMMA, GAIN, SHIFT = 1.0, 0.5, 0.1
"""gamma is 2^u with u between -GAMMA and GAMMA, gain likewise, and the shift is between -SHIFT and SHIFT."""

NOISE = 0.05
"""Largest standard deviation of the noise, of the range of values."""

BLUR_PROBABILITY = 0.5
MIRROR_PROBABILITY = 0.5


def make_views(image: Tensor, count: int) -> Tensor:
    """Views of each image, one image after the other.

    Args:
        image: `(B, C, *spatial)`.
        count: of each.

    Returns:
        `(B count, C, *spatial)` in the range of values of each image.
    """
    views = []
    for each in image:
        for _ in range(count):
            part = _random_part(each[None])
            if bool(torch.rand(()) < MIRROR_PROBABILITY):
                part = part.flip(-1)
            views.append(_change_intensities(part))
    return torch.cat(views)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _random_part(image: Tensor) -> Tensor:
    """A random box of `(1, C, *spatial)`, in the size of the whole."""
    shape = image.shape[2:]
    dims = len(shape)
    side = _uniform(*AREA) ** (1 / dims)
    place = [slice(None), slice(None)]
    for length in shape:
        aspect = _uniform(*ASPECT) ** 0.5
        wanted = min(length, max(1, round(length * side * aspect)))
        start = int(torch.randint(length - wanted + 1, ()))
        place.append(slice(start, start + wanted))
    mode = "bilinear" if dims == 2 else "trilinear"
    return F.interpolate(image[tuple(place)], shape, mode=mode, align_corners=False)


def _change_intensities(image: Tensor) -> Tensor:
    """Gamma, gain, shift, noise and blur of `(1, C, *spatial)`, each channel's range taken as 0 to 1."""
    axes = tuple(range(2, image.ndim))
    low = image.amin(axes, keepdim=True)
    span = (image.amax(axes, keepdim=True) - low).clamp_min(torch.finfo(torch.float32).tiny)
    share = (image - low) / span
    gain = 2 ** _uniform(-GAIN, GAIN)
    gamma = 2 ** _uniform(-GAMMA, GAMMA)
    share = gain * share**gamma + _uniform(-SHIFT, SHIFT)
    noise = torch.randn(share.shape).to(share.device)
    share = share + _uniform(0, NOISE) * noise
    if bool(torch.rand(()) < BLUR_PROBABILITY):
        share = _blur(share)
    return share.clamp(0, 1) * span + low


def _blur(image: Tensor) -> Tensor:
    """The mean of three neighbours along each axis, with the outermost ones repeated."""
    dims = image.ndim - 2
    padded = F.pad(image, (1, 1) * dims, mode="replicate")
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    return pool(padded, 3, stride=1)
