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
    """For each axis a text of "1" for slices that hold tissue or a drawn class, and "0" for the empty ones.

    Args:
        image: `(C, X, Y, Z)`, of which the first channel is looked at.
        label: `(X, Y, Z)` class indices, 255 = ignore; None: not known.
    """
    first = image[0]
    sparse = first[tuple(slice(None, None, max(1, n // _SAMPLES)) for n in first.shape)].astype(np.float32)
    low, high = np.percentile(sparse, [1, 99])
    tissue = float(low + _TISSUE * (high - low))
    drawn = None if label is None else (label != 0) & (label != IGNORE)
    x, y, z = (_along(axis, first, tissue, drawn) for axis in range(3))
    return x, y, z


def _along(axis: int, image: np.ndarray, tissue: float, drawn: np.ndarray | None) -> str:
    others = tuple(a for a in range(3) if a != axis)
    steps = [1 if a == axis else max(1, n // _SAMPLES) for a, n in enumerate(image.shape)]
    sparse = image[tuple(slice(None, None, step) for step in steps)]
    body = (sparse.astype(np.float32) > tissue).mean(others) >= _PART
    if drawn is not None:
        body |= drawn.any(others)
    if not body.any():  # without contrast all slices are alike
        body[:] = True
    return "".join("1" if b else "0" for b in body)


def slice_weights(body: Sequence[str], axis: int) -> np.ndarray:
    """How often each slice along an axis is wanted: 1, or `EMPTY_SHARE`."""
    return np.where(np.frombuffer(body[axis].encode(), np.uint8) == ord("1"), 1.0, EMPTY_SHARE)
