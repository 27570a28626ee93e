"""`medseg train` and `medseg plan`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """`medseg.workflows.train.train`, the former name of `medseg.train`."""
    if name != "train":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import medseg

    warnings.warn("medseg.workflows.train.train is now medseg.train", FutureWarning, stacklevel=2)
    return medseg.train
