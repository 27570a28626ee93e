"""medseg: medical image segmentation from scarce, weak or contradictory labels, on MONAI.

medseg.train(task, data, output)              a pipeline and a manifest become a MONAI bundle in a run folder
medseg.pretrain(task, data, output)           images without labels become an encoder to start from
medseg.predict(model, inputs, output)         a bundle and images become label maps on the images' grids
medseg.predict(model, image)                  the same of an array or of an image of nibabel, SimpleITK or Pillow
medseg.evaluate(prediction, reference)        label maps and references become metrics
medseg.compare(tasks=..., data=..., output=...)   several methods or settings on the same data, and which to take
medseg.fuse(image, annotations)               several raters' annotations become one label map
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.consensus.fuse import Consensus, fuse
    from medseg.workflows.compare.run import compare
    from medseg.workflows.evaluate.run import evaluate
    from medseg.workflows.predict.in_memory import predict
    from medseg.workflows.train.pretrain import pretrain
    from medseg.workflows.train.run import train

__all__ = ["Consensus", "__version__", "compare", "evaluate", "fuse", "predict", "pretrain", "train"]

__version__ = "0.1.0"

# MONAI imports MLflow where that is installed, which then tells its makers of each use, unless this says not to
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

_LATER = {
    "Consensus": "medseg.consensus.fuse",
    "compare": "medseg.workflows.compare.run",
    "evaluate": "medseg.workflows.evaluate.run",
    "fuse": "medseg.consensus.fuse",
    "predict": "medseg.workflows.predict.in_memory",
    "pretrain": "medseg.workflows.train.pretrain",
    "train": "medseg.workflows.train.run",
}


def __getattr__(name: str) -> Any:
    """What users call is imported when it is asked for: `import medseg` stays light."""
    if name not in _LATER:
        raise AttributeError(f"module 'medseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
