"""The mask of a structure in a label map, also where structures overlap: the union of its values. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

Array = TypeVar("Array", bound=Any)


def mask_of(labels: Array, values: Sequence[int]) -> Array:
    """Where a label map holds one of the values of a structure: bool of the map's shape.

    Args:
        labels: any array or tensor of integers.
        values: at least one.

    Examples:
        >>> import numpy as np
        >>> mask_of(np.array([0, 1, 2, 3]), (2, 3)).tolist()
        [False, False, True, True]
    """
    first, *others = values
    mask: Any = labels == first
    for value in others:
        mask |= labels == value
    return mask
