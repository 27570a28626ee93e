"""Where sliding windows lie, what they weigh, and how a network sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations, pairwise, product

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor
from torch.nn.functional import pad

Position = tuple[int, int, int]
Predictor = Callable[..., Tensor]


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxel of each window along one axis: MONAI's equal steps, the last window moved back inside."""
    step = max(1, int(window * (1 - overlap)))
    starts = range(0, max(size - window, 0) + step, step) if size > window else (0,)
    return [min(start, size - window) for start in starts]


def slab_axis(size: Sequence[int], window: Sequence[int]) -> int:
    """The axis along which one window's depth is the smallest part of the volume.

    The last axis is taken only if that halves the ring: planes across it are not contiguous in memory.
    """
    parts = [w / s for w, s in zip(window, size, strict=True)]
    return min(range(3), key=lambda axis: parts[axis] * (2 if axis == 2 and window[axis] > 1 else 1))


def visit(starts: Sequence[Sequence[int]], axis: int) -> list[Position]:
    """All window positions, the slab axis slowest."""
    order = [axis, *(a for a in range(3) if a != axis)]
    positions = []
    for chosen in product(*(starts[a] for a in order)):
        position = [0, 0, 0]
        for a, start in zip(order, chosen, strict=True):
            position[a] = start
        positions.append((position[0], position[1], position[2]))
    return positions


def batches(positions: Sequence[Position], size: int) -> list[Sequence[Position]]:
    """Split into batches of about `size`, no single window at the end: the CPU is much slower with one."""
    count = max(1, -(-(len(positions) - 1) // size))
    bounds = [len(positions) * i // count for i in range(count + 1)]
    return [positions[a:b] for a, b in pairwise(bounds)]


def gaussian(window: Sequence[int], device: torch.device) -> Tensor:
    """MONAI's importance of a window's voxels: a Gaussian of an eighth of the window, at least 0.001."""
    return compute_importance_map(tuple(window), mode="gaussian", sigma_scale=0.125, device=device)


def pad_to_window(image: Tensor, window: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Pad `(C, X, Y, Z)` on both sides to the window's size, with each channel's minimum.

    That is air in CT and MR, what lies beyond most images.

    Returns:
        The image, not copied if it is large enough, and the planes added in front of each axis.
    """
    missing = [max(0, w - n) for w, n in zip(window, image.shape[1:], strict=True)]
    before = [m // 2 for m in missing]
    if not any(missing):
        return image, before
    amounts = list(chain.from_iterable((b, m - b) for b, m in zip(before[::-1], missing[::-1], strict=True)))
    return torch.stack([pad(channel, amounts, value=float(channel.min())) for channel in image]), before


def cut(
    image: Tensor, positions: Sequence[Position], window: Sequence[int], context: Sequence[int] = (0, 0, 0)
) -> Tensor:
    """The windows `(B, C, *window)` of an image `(C, X, Y, Z)`, each larger by `context` voxels on either side.

    Beyond the edges of the image its outermost voxels are repeated, without a copy of the whole image.
    """
    if not any(context):
        regions = [tuple(slice(p, p + w) for p, w in zip(at, window, strict=True)) for at in positions]
        return torch.stack([image[(slice(None), *region)] for region in regions])
    return torch.stack([_edged(image, at, window, context) for at in positions])


def _edged(image: Tensor, at: Position, window: Sequence[int], context: Sequence[int]) -> Tensor:
    for axis, (start, length, more) in enumerate(zip(at, window, context, strict=True), 1):
        low, high, size = start - more, start + length + more, image.shape[axis]
        first = max(low, 0)
        image = image.narrow(axis, first, min(high, size) - first)
        if low < 0 or high > size:
            index = torch.arange(low - first, high - first, device=image.device)
            image = image.index_select(axis, index.clamp_(0, image.shape[axis] - 1))
    return image


def mirrored(network: Predictor, windows: Tensor, axes: Sequence[int], context: Sequence[int] = (0, 0, 0)) -> Tensor:
    """Mean logits of `(B, C, X, Y, Z)` over all mirrorings along `axes` (spatial).

    Args:
        network: gives logits of the window without its context.
        windows: with their context.
        axes: to mirror; one along which a window has a single voxel is left alone.
        context: voxels on either side that get no logits.
    """
    size = [n - 2 * c for n, c in zip(windows.shape[2:], context, strict=True)]
    flips = [a + 2 for a in axes if size[a] > 1]
    total = _checked(network(windows), windows, size)
    for chosen in chain.from_iterable(combinations(flips, n) for n in range(1, len(flips) + 1)):
        total = total + _checked(network(windows.flip(chosen)), windows, size).flip(chosen)
    return total / 2 ** len(flips) if flips else total


def _checked(logits: Tensor, windows: Tensor, size: Sequence[int]) -> Tensor:
    if not isinstance(logits, Tensor) or [len(logits), *logits.shape[2:]] != [len(windows), *size]:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the network made {found} of windows {tuple(windows.shape)}; logits of the size {list(size)} are needed"
        )
    return logits.float()
