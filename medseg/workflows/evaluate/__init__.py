"""`medseg evaluate`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """`medseg.workflows.evaluate.evaluate`, the former name of `medseg.evaluate`."""
    if name != "evaluate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import medseg

    warnings.warn("medseg.workflows.evaluate.evaluate is now medseg.evaluate", FutureWarning, stacklevel=2)
    return medseg.evaluate
