"""Options of `medseg evaluate`, checked before any file is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from medseg.errors import ConfigError
from medseg.options import Option, check_types


@dataclass(frozen=True)
class EvaluateOptions:
    """Which label maps to compare with which references."""

    prediction: Annotated[
        Path, Option("Folder of predicted label maps, CASE.nii.gz or CASE.png.", ("--prediction", "-p"))
    ]
    reference: Annotated[Path, Option("Manifest or folder of true label maps.", ("--reference", "-r"))]
    output: Annotated[Path | None, Option("Default: PREDICTION/evaluation.", ("--output", "-o"))] = None
    section: Annotated[
        str | None, Option("List of the manifest; default the first of test, validation, training with labels.")
    ] = None
    tolerance_mm: Annotated[float, Option("Of the surface Dice, in mm, or pixels where there is no spacing.")] = 1.0
    pseudo_labels: Annotated[
        bool, Option("Predictions leave voxels out by the ignore value; measured with these wrong, and without them.")
    ] = False
    pictures: Annotated[bool, Option("Draw the worst, median and best case, and write report.html.")] = True

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.tolerance_mm < float("inf"):
            raise ConfigError(f"--tolerance-mm {self.tolerance_mm}: a length of 0 or more is wanted")

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.output or self.prediction / "evaluation"
