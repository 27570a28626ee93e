"""`medseg predict`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """`medseg.workflows.predict.predict`, the former name of `medseg.predict`."""
    if name != "predict":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import medseg

    warnings.warn("medseg.workflows.predict.predict is now medseg.predict", FutureWarning, stacklevel=2)
    return medseg.predict
