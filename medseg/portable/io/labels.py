"""Label maps from files: whole numbers, one rule for every command that reads them.

Programs that scale or resample leave 1.00002 where 1 was: such numbers are rounded, and that is said. What is further
from a whole number is no label. JPEG and interpolation make many grey levels of a mask of 0 and 255, most of which
would pass as labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import DataError
from .header import Header
from .read import read_volume

ROUNDED = 1e-3
"""How far a stored number may lie from the label that it means."""

LARGEST = 2**31
"""Beyond, a number is no label, and may not be counted as an integer."""

LOSSY = (".jpg", ".jpeg")
NO_LOSS = "save it as PNG or NIfTI; of a mask of 0 and 255 'medseg data init' writes a copy of 0 and 1"

DARK, BRIGHT = 25, 230
"""Grey levels up to and from which pixels of a mask of 0 and 255 are found again after JPEG or resizing."""


def read_labels(path: str | Path) -> tuple[np.ndarray, Header]:
    """A label file as whole numbers.

    Args:
        path: of an image format without loss.

    Returns:
        array `(C, X, Y, Z)`, and the header, among whose warnings is that numbers were rounded.

    Raises:
        DataError: a file that cannot be read, a JPEG, or numbers that are no labels.
    """
    path = Path(path)
    refuse_lossy(path)
    array, header = read_volume(path, indices=True)
    labels, note = whole_numbers(array, path)
    refuse_grey_levels(labels, path)
    if note:
        header = replace(header, warnings=(*header.warnings, note))
    return labels, header


def refuse_lossy(path: Path) -> None:
    """Refuse a label file of a format that changes the numbers.

    Raises:
        DataError: it is one.
    """
    if path.name.lower().endswith(LOSSY):
        raise DataError("is a JPEG, which does not keep label values", path=path, hint=NO_LOSS)


def refuse_grey_levels(labels: np.ndarray, path: Path) -> None:
    """Refuse a mask of 0 and 255 that was resized or was JPEG once, see `is_smeared`.

    Raises:
        DataError: it is one.
    """
    if labels.min(initial=0) < 0 or not BRIGHT <= labels.max(initial=0) <= 255:
        return
    counts = np.bincount(labels.astype(np.uint8).reshape(-1), minlength=256)
    found = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    if is_smeared(found):
        raise DataError(grey_levels(len(found)), path=path, hint=NO_LOSS)


def grey_levels(count: int) -> str:
    """What is wrong with a mask of so many grey levels."""
    return f"holds {count} grey levels, as masks of 0 and 255 do that were resized or were JPEG"


def whole_numbers(array: np.ndarray, path: Path | None = None) -> tuple[np.ndarray, str]:
    """Label values that rounding made fractions of.

    Args:
        array: of any real type and shape.
        path: of the file, for messages.

    Returns:
        the same array, or one of the same type with what is within `ROUNDED` of a whole number rounded to it; and a
        note, empty where nothing was rounded.

    Raises:
        DataError: numbers that are further from whole ones, not finite, or far too large.
    """
    if array.dtype.kind != "f":
        return array, ""
    nearest = np.rint(array)
    with np.errstate(invalid="ignore"):
        off = np.abs(array - nearest)  # NaN where the number is not finite
        is_label = (off <= ROUNDED) & (np.abs(array) <= LARGEST)
    if not is_label.all():
        broken = array[~is_label]
        found = f"{broken.size} voxels are no whole numbers, such as {float(broken[0]):.7g}"
        raise DataError(found, path=path, hint=f"labels are whole numbers, or within {ROUNDED:g} of them")
    if not off.any():
        return array, ""
    example = float(array.reshape(-1)[int(off.argmax())])
    return nearest, rounding_note(example)


def rounding_note(example: float) -> str:
    """What is said of label values that were rounded."""
    return f"holds label values such as {example:.7g}: rounded to whole numbers"


def is_smeared(counts: Mapping[int, int]) -> bool:
    """Whether a label map is a mask of 0 and 255 after JPEG or interpolation.

    Such a mask has many grey levels, some of them near 255, few pixels that are neither dark nor bright, and more
    bright than grey ones. A map of many classes has either no value near 255 or many voxels of those in between.

    Args:
        counts: value -> voxels.

    Examples:
        >>> edge = {value: 3 for value in range(20, 250, 10)}
        >>> is_smeared({0: 5000, 255: 2000, **edge}), is_smeared({0: 5000, 1: 2000, 255: 100})
        (True, False)
    """
    values = list(counts)
    if len(values) < 8 or min(values) < 0 or max(values) > 255:
        return False
    if not any(BRIGHT <= value < 255 for value in values):  # 255 itself may be what nobody annotated
        return False
    bright = sum(count for value, count in counts.items() if value >= BRIGHT)
    grey = [count for value, count in counts.items() if DARK < value < BRIGHT]
    total = sum(counts.values())
    return len(grey) >= 3 and sum(grey) <= min(bright, 0.1 * total)
