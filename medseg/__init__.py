"""medseg: medical image segmentation from scarce, weak or contradictory labels, on MONAI."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LATER = {"fuse": "medseg.consensus.fuse", "Consensus": "medseg.consensus.fuse"}


def __getattr__(name: str) -> Any:
    """`medseg.fuse` and `medseg.Consensus`, imported when they are asked for: `import medseg` stays light."""
    if name not in _LATER:
        raise AttributeError(f"module 'medseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
