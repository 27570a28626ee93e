"""Whether two files lie on the same grid, by the world positions of their corners.

The order in which a grid is stored does not matter: permuted or flipped axes with the matching affine are the
same grid, and loading turns both to RAS.
"""

from __future__ import annotations

import numpy as np

from medseg.portable.reading import Header

FINE_VOXELS = 1e-3
"""Rounding: nobody has to look at it."""

REFUSED_VOXELS = 0.5
"""From here on voxels face other voxels than those they were drawn on."""


def corner_distance_mm(one: Header, other: Header) -> float:
    """Largest distance of a corner of one grid to the nearest corner of the other."""
    between = np.linalg.norm(one.corners_mm[:, None] - other.corners_mm[None], axis=2)
    return float(max(between.min(axis=0).max(), between.min(axis=1).max()))


def difference(label: Header, image: Header) -> tuple[str, str, str] | None:
    """How a label's grid differs from its image's.

    Returns:
        (severity, code, message), or None where they are the same within rounding.
    """
    if sorted(label.shape) != sorted(image.shape):
        message = f"its shape is {_times(label.shape)}, the image's is {_times(image.shape)}"
        return "error", "shape", message + "; resample it to the image"
    apart = corner_distance_mm(label, image)
    voxels = apart / min(image.spacing_mm)
    if voxels <= FINE_VOXELS:
        return None
    severity = "warning" if voxels <= REFUSED_VOXELS else "error"
    spacings = sorted(label.spacing_mm), sorted(image.spacing_mm)
    code = "affine" if np.allclose(*spacings, rtol=1e-2) else "spacing"
    what = f"its corners lie up to {apart:.3g} mm ({voxels:.3g} voxels) from the image's"
    if code == "spacing":
        what += f": its spacing is {_times(label.spacing_mm)} mm, the image's {_times(image.spacing_mm)} mm"
    return severity, code, f"{what}; accepted is {REFUSED_VOXELS} voxels at most"


def _times(numbers: tuple) -> str:
    return " x ".join(f"{n:.4g}" if isinstance(n, float) else str(n) for n in numbers)
