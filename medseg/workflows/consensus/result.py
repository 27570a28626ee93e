"""The result of fusing one study, for those who write files of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.consensus.io.formats import Form
from medseg.consensus.study import Fused, Study


@dataclass(frozen=True, eq=False)
class Result:
    """The result of fusing one study.

    Attributes:
        study: what was fused.
        form: of its files.
        fused: the answer.
        report: everything of `report.json`.
        disagreement: `(X, Y, Z)` float32, see `medseg.consensus.statistics.uncertainty_maps.disagreement`.
    """

    study: Study
    form: Form
    fused: Fused
    report: dict[str, Any]
    disagreement: np.ndarray

    @property
    def structures(self) -> list[str]:
        """Classes that a rater or the consensus has."""
        tables = [entry["classes"] for entry in self.report["against_consensus"]]
        return [c for c in self.study.classes[1:] if any(t[c]["situation"] != "both_empty" for t in tables)]
