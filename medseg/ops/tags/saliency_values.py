"""Which values of a file are saliency; without torch, for checks that answer at once."""

from __future__ import annotations

import numpy as np

SALIENCY_MAPS = ("saliency", "salient")
"""Names of maps of a case that hold saliency: what the user gives, and what a rule makes of it for a stage."""

ACCEPTED = "accepted are 0 to 1, or 0 to 255 in 8 bits"

ROUNDING = 1e-3
"""By so much a saliency that was computed may be above 1."""


def saliency_problem(stored: np.ndarray) -> str:
    """Why the values of a file are no saliency; empty where they are one.

    Unlike `medseg.ops.tags.saliency.saliency_of`, which gets floating-point numbers of any file, it looks at the file's
    own type.

    Args:
        stored: of any shape, as the file has it.

    Examples:
        >>> import numpy as np
        >>> from medseg.ops.tags.saliency_values import saliency_problem
        >>> saliency_problem(np.array([0, 200], np.uint8)), saliency_problem(np.array([0.0, 0.5]))
        ('', '')
        >>> saliency_problem(np.array([0.0, 2.5]))
        'saliency up to 2.5 in floating-point numbers; accepted are 0 to 1, or 0 to 255 in 8 bits'
        >>> saliency_problem(np.array([0, 1000]))
        'saliency from 0 to 1000; accepted are 0 to 1, or 0 to 255 in 8 bits'
    """
    if not stored.size:
        return ""
    unusable = int(stored.size - np.count_nonzero(np.isfinite(stored)))
    if unusable:
        return f"{unusable} of {stored.size} voxels are NaN or infinite; {ACCEPTED}"
    least, most = float(stored.min()), float(stored.max())
    if least < 0 or most > 255:
        return f"saliency from {least:g} to {most:g}; {ACCEPTED}"
    if stored.dtype.kind == "f" and most > 1 + ROUNDING:
        return f"saliency up to {most:g} in floating-point numbers; {ACCEPTED}"
    return ""
