"""Where sliding windows lie, what they weigh, and how a network sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise, product

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor
from torch.nn.functional import pad

PADDINGS = ("minimum", "edge", "zero")
"""What a window holds beyond the edges of an image: each channel's minimum, the outermost voxels again, or zeros."""

Position = tuple[int, int, int]
Overlap = float | Sequence[float]
"""Of neighbouring windows, in [0, 1): one for all axes, or one for each."""


def overlaps_of(overlap: Overlap) -> tuple[float, float, float]:
    """The overlap along each axis.

    Raises:
        ValueError: it is neither one nor three numbers in [0, 1).
    """
    three = (overlap,) * 3 if isinstance(overlap, int | float) else tuple(overlap)
    if len(three) != 3 or not all(0 <= each < 1 for each in three):
        raise ValueError(f"overlap must be in [0, 1), one number or three, got {overlap}")
    return three[0], three[1], three[2]


Predictor = Callable[..., Tensor]


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxel of each window along one axis: MONAI's equal steps, the last window moved back inside."""
    if size <= window:
        return [size - window]
    step = max(1, int(window * (1 - overlap)))
    last = size - window
    return [min(start, last) for start in range(0, last + step, step)]


def slab_axis(size: Sequence[int], window: Sequence[int]) -> int:
    """The axis along which one window's depth is the smallest part of the volume.

    The last axis is taken only if that halves the ring: planes across it are not contiguous in memory.
    """
    parts = [depth / length for depth, length in zip(window, size, strict=True)]
    if window[2] > 1:
        parts[2] *= 2
    return parts.index(min(parts))


def order_positions(starts: Sequence[Sequence[int]], axis: int) -> list[Position]:
    """All window positions, the slab axis slowest.

    Args:
        starts: first voxels of the windows along each axis.
        axis: the slab axis.
    """
    others = [other for other in range(3) if other != axis]
    positions = []
    for along_slab, *along_others in product(starts[axis], starts[others[0]], starts[others[1]]):
        position = [0, 0, 0]
        position[axis] = along_slab
        position[others[0]], position[others[1]] = along_others
        positions.append((position[0], position[1], position[2]))
    return positions


def split_into_batches(positions: Sequence[Position], size: int) -> list[Sequence[Position]]:
    """Batches of about `size` positions, no single window at the end: the CPU is much slower with one."""
    count = max(1, -(-(len(positions) - 1) // size))
    bounds = [len(positions) * number // count for number in range(count + 1)]
    return [positions[first:end] for first, end in pairwise(bounds)]


def importance(window: Sequence[int], device: torch.device, blend: str = "gaussian") -> Tensor:
    """MONAI's importance of a window's voxels.

    Args:
        window: voxels along each axis.
        device: of the result.
        blend: "gaussian", a Gaussian of an eighth of the window, at least 0.001; or "uniform", which MONAI calls
            constant: all voxels count alike.
    """
    mode = "constant" if blend == "uniform" else "gaussian"
    return compute_importance_map(tuple(window), mode=mode, sigma_scale=0.125, device=device)


def pad_to_window(image: Tensor, window: Sequence[int], padding: str = "minimum") -> tuple[Tensor, list[int]]:
    """Pad `(C, X, Y, Z)` on both sides to the window's size.

    Args:
        image: of any size.
        window: voxels along each axis.
        padding: "edge" repeats the outermost voxels; "minimum" takes each channel's minimum, air in CT and MR; "zero"
            takes 0.

    Returns:
        The image, not copied if it is large enough, and the planes added in front of each axis.
    """
    missing = [max(0, depth - length) for depth, length in zip(window, image.shape[1:], strict=True)]
    before = [planes // 2 for planes in missing]
    if not any(missing):
        return image, before
    amounts = []
    for axis in (2, 1, 0):  # torch's `pad` counts from the last axis
        amounts += [before[axis], missing[axis] - before[axis]]
    if padding == "edge":
        return pad(image, amounts, mode="replicate"), before
    if padding == "zero":
        return pad(image, amounts), before
    padded = [pad(channel, amounts, value=float(channel.min())) for channel in image]
    return torch.stack(padded), before


def extract_windows(
    image: Tensor, positions: Sequence[Position], window: Sequence[int], context: Sequence[int] = (0, 0, 0)
) -> Tensor:
    """The windows `(B, C, *window)` of an image `(C, X, Y, Z)`, each larger by `context` voxels on either side.

    Beyond the edges of the image its outermost voxels are repeated, without a copy of the whole image.
    """
    extract = _extract_with_context if any(context) else _extract
    return torch.stack([extract(image, position, window, context) for position in positions])


def _extract(image: Tensor, position: Position, window: Sequence[int], context: Sequence[int]) -> Tensor:
    for dimension, (start, length) in enumerate(zip(position, window, strict=True), 1):
        image = image.narrow(dimension, start, length)
    return image


def _extract_with_context(image: Tensor, position: Position, window: Sequence[int], context: Sequence[int]) -> Tensor:
    for dimension, (start, length, around) in enumerate(zip(position, window, context, strict=True), 1):
        size = image.shape[dimension]
        low, high = start - around, start + length + around
        first, end = max(low, 0), min(high, size)
        image = image.narrow(dimension, first, end - first)
        if low < 0 or high > size:
            index = torch.arange(low - first, high - first, device=image.device)
            image = image.index_select(dimension, index.clamp_(0, image.shape[dimension] - 1))
    return image


def predict_mirrored(
    network: Predictor, windows: Tensor, axes: Sequence[int], context: Sequence[int] = (0, 0, 0), *, one: bool = False
) -> Tensor:
    """Mean logits of `(B, C, X, Y, Z)` over all mirrorings along `axes` (spatial).

    Args:
        network: gives logits of the window without its context.
        windows: with their context.
        axes: to mirror; one along which a window has a single voxel is left alone.
        context: voxels on either side that get no logits.
        one: mirror along one axis at a time, never along several at once.
    """
    size = [length - 2 * around for length, around in zip(windows.shape[2:], context, strict=True)]
    dimensions = [axis + 2 for axis in axes if size[axis] > 1]
    total = _check_logits(network(windows), windows, size)
    if not dimensions:
        return total
    most = 1 if one else len(dimensions)
    passes = 1
    for count in range(1, most + 1):
        for flipped in combinations(dimensions, count):
            logits = _check_logits(network(windows.flip(flipped)), windows, size)
            total = total + logits.flip(flipped)
            passes += 1
    return total / passes


def _check_logits(logits: Tensor, windows: Tensor, size: Sequence[int]) -> Tensor:
    """Logits in float32.

    Raises:
        ValueError: they are not of the windows' number and size.
    """
    if not isinstance(logits, Tensor):
        found = type(logits).__name__
    elif [len(logits), *logits.shape[2:]] != [len(windows), *size]:
        found = str(tuple(logits.shape))
    else:
        return logits.float()
    raise ValueError(
        f"the network made {found} of windows {tuple(windows.shape)}; logits of the size {list(size)} are needed"
    )
