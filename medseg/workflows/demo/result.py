"""What each of the two models of a demonstration came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Result:
    """What one of the two models came to.

    Args:
        bundle: the model.
        predictions: folder of its label files of the test scans.
        evaluation: what `evaluate` returned.
        seconds: of each step.
        commands: that do the same from a shell, once the training is done.
    """

    bundle: Path
    predictions: Path
    evaluation: dict[str, Any]
    seconds: dict[str, float]
    commands: list[str]

    @property
    def picture(self) -> Path:
        """The worst, the median and the best case."""
        return self.predictions / "evaluation" / "montage.png"

    @property
    def dice(self) -> float:
        """Mean over the organs, of the mean over the test cases."""
        return float(self.evaluation["mean"]["dice"]["mean"] or 0.0)
