"""The result of fusing one study, for those who write files of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.consensus.io.formats import Form
from medseg.consensus.statistics.panel import join_names
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

    @property
    def mean_pairwise_dice(self) -> float | None:
        """Of all pairs of raters that can be compared; None: there is none."""
        rows = self.report["agreement"]["pairwise_dice"]["mean"]
        values = [dice for first, row in enumerate(rows) for dice in row[first + 1 :] if dice is not None]
        return float(np.mean(values)) if values else None

    @property
    def lacking(self) -> list[str]:
        """What raters drew and the consensus does not have, a clause each; first of all if it is empty."""
        absent = [name for name in self.structures if not self.report["volumes_ml"][name]]
        if not self.structures:
            return ["the consensus is empty: no rater drew anything"]
        if absent == self.structures:
            return [f"the consensus is empty, although {self._who_drew(absent)}"]
        return [f"the consensus has no {name}, although {self._who_drew([name])}" for name in absent]

    def _who_drew(self, structures: list[str]) -> str:
        """Which raters drew which of some structures that the consensus lacks."""
        clauses = []
        for name in structures:
            entries = self.report["against_consensus"]
            raters = [entry["rater"] for entry in entries if entry["classes"][name]["situation"] == "spurious"]
            clauses.append(f"{join_names(raters)} drew {name}")
        return join_names(clauses)
