"""How strongly training patches are changed, by what the images are (figures: docs/results/settings.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.config.pipeline import View
from medseg.ops.augmentation.settings import nested_augment
from medseg.portable.planes import slice_axis

CROP_PROBABILITY = 0.2
"""Share of the training patches that are as of a smaller scan."""

SMALL_DEGREES, LARGE_DEGREES = 15.0, 30.0
"""Largest rotation: of volumes and photographs, and of single slices of scans."""

ZOOM_OF_SLICES = {"scale": (0.7, 1.4), "probability": 0.7}
"""Slices of a few patients show few sizes and positions: with this Dice rose by 0.07 and 0.12 where two patients had
labels. In short trainings of volumes it fell by 0.08."""


def plan_augment(view: View, given: Any, *, photographs: bool = False, asks_upright: bool = False) -> Any:
    """Augmentation as planned, changed by the settings of the pipeline.

    Args:
        view: the volume, or the plane of slices.
        given: `data.augment` of the pipeline.
        photographs: the images are photographs in colour.
        asks_upright: a method asks which way up an image is.
    """
    if not isinstance(given, Mapping):
        return given  # `check_data_spec` says what is accepted
    settings = nested_augment(given)
    settings["crop"] = {"probability": CROP_PROBABILITY, **settings.get("crop", {})}

    are_slices = view != "volume" and not photographs
    degrees = LARGE_DEGREES if are_slices and not asks_upright else SMALL_DEGREES
    affine = {"rotate_degrees": _rotation(view, degrees), **(ZOOM_OF_SLICES if are_slices else {})}
    changed = settings.get("affine", {})
    if isinstance(changed, Mapping):
        settings["affine"] = {**affine, **changed}
    return settings


def _rotation(view: View, degrees: float) -> tuple[float, float, float]:
    """Largest rotation about each axis, degrees: in a plane only about the slice axis."""
    if view == "volume":
        return degrees, degrees, degrees
    x, y, z = (degrees if axis == slice_axis(view) else 0.0 for axis in range(3))
    return x, y, z
