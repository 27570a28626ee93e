"""Pixel-adaptive mask refinement: maps are averaged over neighbours that look alike, so that they end at edges.

N. Araslanov, S. Roth: Single-Stage Semantic Segmentation from Image Labels, CVPR 2020; arXiv 2005.08104.

    k_in = mean over channels of -|x_i - x_n| / (e + 0.1 std_i)    likeness of voxel i and its neighbour n
    a_i  = softmax of k_i over the neighbours                      weights, which sum to 1
    m_i  <- sum_n a_in m_n                                         repeated

x: image; std_i: unbiased standard deviation of a channel over the neighbourhoods of i, itself included, of all
dilations; neighbours: the 8 (26 in volumes) next to i in steps of each dilation. Beyond the border the image repeats
itself. Nothing is learnt and nothing has a gradient.

All of it is computed in float32 whatever the surroundings do: in float16 a constant region, such as the border of a
scan, has a deviation of zero and an e that is rounded to zero, and gives NaN. For the same reason e is 1e-6, not the
1e-8 of the authors' code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

DILATIONS = {2: (1, 2, 4, 8, 12), 3: (1, 2, 4)}
"""Default dilations by the number of spatial dimensions: the authors' in images; fewer in volumes, of 26 each."""

DEVIATION_SHARE = 0.1
SMALLEST_DEVIATION = 1e-6

Offset = tuple[int, ...]


def pamr(
    image: Tensor,
    maps: Tensor,
    *,
    dilations: Sequence[int] | None = None,
    iterations: int = 10,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Maps that are refined along the edges of an image.

    Args:
        image: `(B, Cin, *spatial)` of the size of the maps (see `to_grid`), with values in the order of 1; their scale
            and offset do not matter, since differences are measured in standard deviations.
        maps: `(B, K, *spatial)`, such as probabilities.
        dilations: distances of the neighbours in voxels; None: `DILATIONS`.
        iterations: how often maps are averaged; 0 gives the maps.
        spacing: of the voxels along each axis, in any unit; None: the same along each. A dilation is a distance along
            the axis with the finest spacing, and as far along the others, at least one voxel.

    Returns:
        `(B, K, *spatial)` float32, within the range of the maps; probabilities that sum to 1 still do.

    Raises:
        ValueError: image and maps of different sizes, no dilation, or a dilation below 1.

    Examples:
        Nothing crosses the edge in the middle of an image:

        >>> import torch
        >>> from medseg.ops.tags.refinement import pamr
        >>> image = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)[None, None]
        >>> maps = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 2)[None, None]
        >>> [round(value, 3) for value in pamr(image, maps, dilations=(1,), iterations=1)[0, 0, 0].tolist()]
        [0.625, 0.6, 0.0, 0.0]
    """
    if image.shape[0] != maps.shape[0] or image.shape[2:] != maps.shape[2:]:
        raise ValueError(f"image {tuple(image.shape)} and maps {tuple(maps.shape)}: must agree but for the channels")
    offsets = neighbour_offsets(image.ndim - 2, dilations, spacing)
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        weights = likeness(image, offsets)
        refined = maps.float()
        for _ in range(iterations):
            refined = _average(refined, weights, offsets)
    return refined


def to_grid(image: Tensor, shape: Sequence[int]) -> Tensor:
    """An image brought to the grid of coarser maps, corners on corners.

    Args:
        image: `(B, Cin, *spatial)`.
        shape: of the maps.

    Returns:
        `(B, Cin, *shape)` float32.
    """
    mode = "bilinear" if image.ndim == 4 else "trilinear"
    return functional.interpolate(image.float(), tuple(shape), mode=mode, align_corners=True)


def neighbour_offsets(
    dims: int, dilations: Sequence[int] | None = None, spacing: Sequence[float] | None = None
) -> list[Offset]:
    """Offsets of all neighbours in voxels: 8 (26) for each dilation, one dilation after the other.

    Args:
        dims: 2 or 3.
        dilations: see `pamr`.
        spacing: see `pamr`.

    Raises:
        ValueError: no dilation, one below 1, or a spacing of another number of axes or not above 0.
    """
    distances = DILATIONS[dims] if dilations is None else tuple(dilations)
    if not distances or min(distances) < 1:
        raise ValueError(f"dilations {list(distances)}: one or more numbers from 1 on")
    spacing = (1.0,) * dims if spacing is None else tuple(spacing)
    if len(spacing) != dims or min(spacing) <= 0:
        raise ValueError(f"spacing {list(spacing)}: {dims} numbers above 0")
    finest = min(spacing)
    directions = [signs for signs in itertools.product((-1, 0, 1), repeat=dims) if any(signs)]
    offsets = []
    for distance in distances:
        steps = [max(1, round(distance * finest / each)) for each in spacing]
        for signs in directions:
            offset = tuple(sign * step for sign, step in zip(signs, steps, strict=True))
            offsets.append(offset)
    return offsets


def likeness(image: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """How much each neighbour counts.

    Args:
        image: `(B, Cin, *spatial)`.
        offsets: of the neighbours, see `neighbour_offsets`.

    Returns:
        a `(B, neighbours, *spatial)` float32, which sums to 1 over the neighbours of each voxel.
    """
    image = image.float()
    scale = SMALLEST_DEVIATION + DEVIATION_SHARE * _deviation(image, offsets)
    distances = []
    for other in _neighbours(image, offsets):
        of_channels = (image - other).abs() / scale
        distances.append(of_channels.mean(1))
    return torch.stack(distances, 1).neg_().softmax(1)


def _deviation(image: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """Unbiased standard deviation over all neighbourhoods, `(B, Cin, *spatial)`; the centre counts once for each.

    Of differences to the centre, not of the values themselves: where all are the same it is exactly zero.
    """
    neighbours_of_dilation = 3 ** (image.ndim - 2) - 1
    dilations = len(offsets) // neighbours_of_dilation
    count = len(offsets) + dilations
    total = torch.zeros_like(image)
    squares = torch.zeros_like(image)
    for other in _neighbours(image, offsets):
        difference = other - image
        total += difference
        squares += difference * difference
    variance = (squares - total * total / count) / (count - 1)
    return variance.clamp_min_(0).sqrt_()


def _average(maps: Tensor, weights: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """One pass: the weighted mean of the neighbours, summed in place, a neighbour at a time."""
    averaged = torch.zeros_like(maps)
    for number, other in enumerate(_neighbours(maps, offsets)):
        averaged.addcmul_(other, weights[:, number : number + 1])
    return averaged


def _neighbours(values: Tensor, offsets: Sequence[Offset]) -> Iterator[Tensor]:
    """For each offset the values there, `(B, C, *spatial)`, repeated beyond the border."""
    shape = values.shape[2:]
    reach = np.abs(offsets).max(0).tolist()  # along each axis
    padding: list[int] = []
    for length in reversed(reach):
        padding += [length, length]  # before and after, the last axis first
    padded = functional.pad(values, padding, mode="replicate")
    for offset in offsets:
        window = [slice(None), slice(None)]
        for far, step, size in zip(reach, offset, shape, strict=True):
            window.append(slice(far + step, far + step + size))
        yield padded[tuple(window)]
