"""Which plane is which: axes run along RAS+ everywhere behind the preprocessing, and this is the only table."""

from __future__ import annotations

from typing import Literal

Plane = Literal["sagittal", "coronal", "axial"]
PLANES: tuple[Plane, Plane, Plane] = ("sagittal", "coronal", "axial")
"""The plane that cuts across each axis: x from left to right, y to anterior, z to superior."""

AXES = "xyz"


def slice_axis(view: str) -> int | None:
    """The axis across which a plane cuts; None for the whole volume."""
    return PLANES.index(view) if view in PLANES else None
