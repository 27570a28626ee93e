"""Scans that show much less than those of training."""

from __future__ import annotations

from medseg.config.pipeline import DataSpec
from medseg.planning.fingerprint import along_ras_axes
from medseg.portable.io.header import Header

MUCH_LESS = 0.75
"""Part of the smallest scan of training, along any axis, below which a scan shows much less."""

AS_MUCH = 0.95
"""Part of the smallest scan of training, along every axis, from which on a scan shows as much."""


def shows_less(header: Header, data: DataSpec) -> str | None:
    """What to say of a scan that shows much less than any scan of training did.

    Args:
        header: of the scan's first file.
        data: of the model.

    Returns:
        A phrase with both fields of view; None: the scan shows enough, or the model does not know what it was trained
        on. Across the slices of a plane each slice is predicted for itself, so that their number does not matter.
    """
    if data.smallest_mm is None:
        return None
    lengths = _lengths_mm(header)
    small = False
    for axis, (length, smallest) in enumerate(zip(lengths, data.smallest_mm, strict=True)):
        if axis != data.slice_axis and length < MUCH_LESS * smallest:
            small = True
    if not small:
        return None
    return (
        f"shows {_by(lengths)} mm (x, y, z), the smallest scans of training {_by(data.smallest_mm)}: "
        "expect more mistakes than in whole scans"
    )


def shows_all_of(header: Header, data: DataSpec) -> bool:
    """Whether a scan shows as much as the smallest of training along every axis, so that nothing need be missing.

    Args:
        header: of the scan's first file.
        data: of the model.
    """
    if data.smallest_mm is None:
        return False
    pairs = zip(_lengths_mm(header), data.smallest_mm, strict=True)
    return all(length >= AS_MUCH * smallest for length, smallest in pairs)


def _lengths_mm(header: Header) -> list[float]:
    spacing, shape = along_ras_axes(header)
    return [size * mm for size, mm in zip(shape, spacing, strict=True)]


def _by(lengths: list[float] | tuple[float, ...]) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths)
