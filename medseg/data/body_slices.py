"""Which slices of a volume show the body: planar training goes over those, and looks at few of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.method import IGNORE

EMPTY_SHARE = 0.1
"""How often a slice of air is looked at, beside one of the body: seldom, but a network must know what air is."""

_TISSUE = 0.1  # of the way from nearly the darkest value to nearly the brightest; below it all is air and its noise
_PART = 0.01  # of a slice that must be tissue
_SAMPLES = 64  # lines and columns of a slice that are looked at


def body_slices(image: np.ndarray, label: np.ndarray | None) -> tuple[str, str, str]:
    """For each axis a text of "1" for slices that hold tissue or an annotated class, and "0" for the empty ones.

    Args:
        image: `(C, X, Y, Z)`, of which the first channel is looked at.
        label: `(X, Y, Z)` class indices, 255 = ignore; None: there is none.
    """
    first_channel = image[0]
    sparse = _thinned(first_channel, axes=(0, 1, 2))
    low, high = np.percentile(sparse, [1, 99])
    tissue = float(low + _TISSUE * (high - low))
    annotated = None if label is None else (label != 0) & (label != IGNORE)
    x, y, z = (_along(axis, first_channel, tissue, annotated) for axis in range(3))
    return x, y, z


def _along(axis: int, image: np.ndarray, tissue: float, annotated: np.ndarray | None) -> str:
    """Of one axis: which slices of `(X, Y, Z)` have enough voxels above a value, or an annotated one."""
    others = tuple(other for other in range(3) if other != axis)
    body = (_thinned(image, others) > tissue).mean(others) >= _PART
    if annotated is not None:
        body |= annotated.any(others)
    if not body.any():  # without contrast all slices are alike
        body[:] = True
    return "".join(body.astype(int).astype(str))


def _thinned(image: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """About `_SAMPLES` evenly spread voxels along some axes, all of them along the others; float32."""
    steps = [slice(None)] * image.ndim
    for axis in axes:
        steps[axis] = slice(None, None, max(1, image.shape[axis] // _SAMPLES))
    return image[tuple(steps)].astype(np.float32)


def slice_weights(body: Sequence[str], axis: int) -> np.ndarray:
    """How often each slice along an axis is wanted: 1, or `EMPTY_SHARE`."""
    return np.where(np.frombuffer(body[axis].encode(), np.uint8) == ord("1"), 1.0, EMPTY_SHARE)
