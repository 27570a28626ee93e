"""Tables of a fused study as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from medseg.consensus.statistics.rater_vs_consensus import csv_rows

JUDGED = ("weight", "self_consistency", "kappa")


def raters_csv(report: dict[str, Any]) -> str:
    """Each rater against the consensus, class by class, with what the method thinks of the rater."""
    judged = {row["name"]: row for row in report["raters"]}
    heads, *rows = csv_rows(report["against_consensus"])
    full = [[*row, *(judged[row[0]].get(key) for key in JUDGED)] for row in rows]
    return _csv([[*heads, *JUDGED], *full])


def pairwise_csv(report: dict[str, Any]) -> str:
    """Dice of each two raters, for each class and their mean."""
    names, found = report["agreement"]["raters"], report["agreement"]["pairwise_dice"]
    matrices = {**found["classes"], "mean": found["mean"]}
    rows = [
        [label, names[i], names[j], matrix[i][j]]
        for label, matrix in matrices.items()
        for i, j in combinations(range(len(names)), 2)
    ]
    return _csv([["class", "rater", "other", "dice"], *rows])


def comparison_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Each method against the chosen one, and the reference if there is one, for each class and their mean."""
    heads = [
        "method",
        "class",
        "dice_to_chosen",
        "dice_to_reference",
        "volume_ml",
        "differing_voxels",
        "seconds",
        "error",
    ]
    lines: list[list[Any]] = []
    for row in rows:
        told = [row["differing_voxels"], row["seconds"], row["error"]]
        chosen, true = row["dice_to_chosen"] or {}, row.get("dice_to_reference") or {}
        for name in chosen or ["mean"]:
            volume = row["volumes_ml"].get(name)
            lines.append([row["method"], name, chosen.get(name), true.get(name), volume, *told])
    return _csv([heads, *lines])


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)
    return stream.getvalue()
