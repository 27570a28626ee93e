"""Saliency: for each pixel how likely it is of some object, whichever, in [0, 1].

It comes from a file of the user, or is computed (`medseg data saliency`): another model's foreground, local contrast,
or how strongly a pre-trained network answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medseg.errors import DataError
from medseg.method import IGNORE
from medseg.ops.tags.saliency_values import ACCEPTED, ROUNDING

WIDER = 4
"""How many times as wide as the narrow blur the wide one is."""

TEMPERATURE = 1.05
NEARLY_ZERO = 1e-8

Polarity = Literal["dark", "bright", "both"]


def saliency_of(stored: Tensor, name: str) -> Tensor:
    """The values of a file as saliency: 0 to 1, or whole numbers of 8 bits, which are divided by 255.

    Args:
        stored: as the file has it.
        name: of the case, for the message.

    Raises:
        DataError: values that are neither.
    """
    values = stored.float()
    least, most = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
    if not (least >= 0 and most <= 255):  # nor a number
        raise DataError(f"{name}: saliency from {least:g} to {most:g}; {ACCEPTED}")
    if most <= 1 + ROUNDING:
        return values.clamp_max(1)
    if bool((values != values.round()).any()):
        raise DataError(f"{name}: saliency up to {most:g} that is not in whole numbers; accepted are 0 to 1")
    return values / 255


def fuse_with_saliency(
    maps: Tensor,
    saliency: Tensor,
    present: Tensor,
    possible: Tensor,
    *,
    object_threshold: float = 0.2,
    salient_threshold: float = 0.06,
) -> Tensor:
    """The class of the largest map where it and the saliency are high, 0 where neither is, 255 where one is.

    Args:
        maps: relative, `(structures, *spatial)`.
        saliency: in [0, 1], `(*spatial)`.
        present: `(structures,)` bool, classes that are in the image.
        possible: `(structures,)` bool, these and those that nobody looked for; where a map of one of the latter is
            high, nothing is learnt.
        object_threshold: above which a map is high.
        salient_threshold: above which the saliency is.

    Returns:
        `(*spatial)` uint8 class indices, 255 = ignore.
    """
    around = [1] * saliency.ndim
    largest, winner = torch.where(present.view(-1, *around), maps, 0).max(0)
    unknown = torch.where((possible & ~present).view(-1, *around), maps, 0).amax(0) > object_threshold
    is_object, is_salient = largest > object_threshold, saliency > salient_threshold
    label = torch.full(saliency.shape, IGNORE, dtype=torch.uint8)
    label[~is_object & ~is_salient & ~unknown] = 0
    found = is_object & is_salient & ~unknown
    label[found] = (winner[found] + 1).to(torch.uint8)
    return label


def sharpen(saliency: Tensor) -> Tensor:
    """What AuxSegNet's dense CRF makes of saliency before any neighbour is looked at, in [0, 1].

    `softmax(-U)` of the unaries `U0 = -ln(1 - p + e) / (t s(1 - p))` and `U1 = -ln(p + e) / (t s(p))`, with the
    logistic function s, t = 1.05 and e = 1e-8.
    """
    background, salient = unaries(saliency)
    return torch.sigmoid(background - salient)


def unaries(saliency: Tensor) -> tuple[Tensor, Tensor]:
    """U0 and U1 of `sharpen`."""
    p = saliency.double()
    background = -(1 - p + NEARLY_ZERO).log() / (TEMPERATURE * torch.sigmoid(1 - p))
    salient = -(p + NEARLY_ZERO).log() / (TEMPERATURE * torch.sigmoid(p))
    return background.float(), salient.float()


def local_contrast(image: np.ndarray, scales: Sequence[Sequence[float]], polarity: Polarity = "both") -> np.ndarray:
    """Difference of a narrow and a wide blur, the largest over scales and channels, divided by its own largest values.

    Args:
        image: `(C, X, Y, Z)`; along axes of one voxel nothing is blurred.
        scales: for each the standard deviation of the narrow blur along each axis, in voxels; the wide one has
            `WIDER` times as much.
        polarity: "dark": what is darker than its surroundings; "bright"; "both".

    Returns:
        `(X, Y, Z)` float32 in [0, 1]; 0 everywhere for an image of one value.
    """
    found = np.zeros(image.shape[1:], np.float32)
    for channel in np.asarray(image, np.float32):
        for sigmas in scales:
            narrow = ndimage.gaussian_filter(channel, sigmas, mode="nearest")
            wide = ndimage.gaussian_filter(channel, [WIDER * sigma for sigma in sigmas], mode="nearest")
            difference = narrow - wide
            if polarity == "both":
                difference = np.abs(difference)
            elif polarity == "dark":
                difference = -difference
            found = np.maximum(found, difference)
    highest = float(np.percentile(found, 99))
    return np.clip(found / highest, 0, 1) if highest > 0 else np.zeros_like(found)


def strength(features: Tensor) -> Tensor:
    """How strongly a network answers at each position, from 0 at the weakest to 1 at the strongest.

    What was trained to tell objects apart answers to them more strongly than to the ground that they stand on
    (selective convolutional descriptor aggregation: X.-S. Wei et al., IEEE TIP 26, 2017; arXiv 1604.04994); here the
    answer is the length of the features.

    Args:
        features: `(K, *positions)`.

    Returns:
        `(*positions)` in [0, 1]; 0 everywhere where all answers are equally strong.
    """
    return from_weakest_to_strongest(torch.linalg.vector_norm(features.float(), dim=0))


def from_weakest_to_strongest(values: Tensor) -> Tensor:
    """Values from 0 at the lowest to 1 at the highest; 0 everywhere where all are equal."""
    lowest = values.min()
    return (values - lowest) / (values.max() - lowest).clamp_min(NEARLY_ZERO)


def between(values: Tensor, nothing: float, object_: float) -> Tensor:
    """0 up to one value, 1 from another one on, and evenly rising between."""
    return ((values - nothing) / (object_ - nothing)).clamp(0, 1)
