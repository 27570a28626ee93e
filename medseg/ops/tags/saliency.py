"""Saliency: for each pixel how likely it is of some object, whichever, in [0, 1].

It comes from a file of the user, or is computed (`medseg data saliency`): another model's foreground, local contrast,
or what stands out from the border in the features of a pre-trained network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from scipy import ndimage
from torch import Tensor

from medseg.errors import DataError
from medseg.method import IGNORE

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
        raise DataError(f"{name}: saliency from {least:g} to {most:g}; accepted are 0 to 1, or 0 to 255 in 8 bits")
    if most <= 1:
        return values
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


def stands_out(features: Tensor) -> Tensor:
    """What is told apart from the border by the second eigenvector of the affinity of features.

    The normalised cut (J. Shi, J. Malik, IEEE TPAMI 22, 2000) of a picture by the features of a pre-trained network,
    as of deep spectral methods (L. Melas-Kyriazi et al., CVPR 2022; arXiv 2205.07839): affinity `max(0, f_i . f_j)` of
    features of unit length, without their mean. The part that has less of the border is salient.

    Args:
        features: `(K, *positions)`.

    Returns:
        `(*positions)` in [0, 1]; 0 everywhere where all features are alike.
    """
    shape = features.shape[1:]
    flat = features.flatten(1).double()
    flat = flat - flat.mean(1, keepdim=True)
    if not float(flat.abs().max()) > NEARLY_ZERO:
        return torch.zeros(shape)
    flat = F.normalize(flat, dim=0)
    affinity = (flat.T @ flat).clamp_min(0) + NEARLY_ZERO
    root = affinity.sum(1).rsqrt()
    _, vectors = torch.linalg.eigh(root[:, None] * affinity * root[None, :])
    values = (vectors[:, -2] * root).view(shape)
    spread = (values.max() - values.min()).clamp_min(NEARLY_ZERO)
    if float(values[_border(shape)].mean()) > float(values.mean()):
        values = -values
    return ((values - values.min()) / spread).float()


def _border(shape: Sequence[int]) -> Tensor:
    """The outermost positions along each axis that has more than one, bool of that shape."""
    inner = torch.zeros(tuple(shape), dtype=torch.bool)
    inner[tuple(slice(1, -1) if size > 1 else slice(None) for size in shape)] = True
    return ~inner
