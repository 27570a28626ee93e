"""What is reported of a fusion besides its labels: coverage of each rater, and Dice of each with the consensus."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from medseg import __version__
from medseg.consensus.boxes import labelled_box
from medseg.consensus.fusers.fusion_log import empty_rater_warning
from medseg.consensus.statistics.never_drawn import notes_on_few
from medseg.consensus.statistics.odd_raters import find_oddities
from medseg.consensus.statistics.panel import Panel
from medseg.consensus.statistics.turned_annotations import AXES
from medseg.consensus.study import MISSING, Fused, Study

_PACKAGES = ("numpy", "scipy", "scikit-learn", "PyMaxflow", "SimpleITK")
_PLANE = 1 << 20


def rater_count(study: Study) -> np.ndarray:
    """`(X, Y, Z)` uint8: how many raters annotated each voxel."""
    count = np.full(study.shape, len(study.raters), np.uint8)
    for rater in study.raters:
        if rater.labels.max() == MISSING:
            count -= rater.labels == MISSING
    return count


def summarise(study: Study, fused: Fused, notes: list[str] | None = None, axes: Sequence[str] = AXES) -> dict[str, Any]:
    """JSON-ready report of a fusion.

    Args:
        study: what was fused.
        fused: the answer.
        notes: what was strange about the input; they join the warnings.
        axes: see `find_oddities`.
    """
    tables = contingencies(study, fused.labels)
    rows = []
    for rater, table, facts in zip(study.raters, tables, fused.raters, strict=True):
        annotated = int(rater.labels.size - np.count_nonzero(rater.labels == MISSING))
        rows.append(
            {
                "name": rater.name,
                **facts,
                "dice": dice_by_class(table, study.classes),
                "coverage": annotated / rater.labels.size,
                "annotated_voxels": annotated,
                "empty": bool(annotated and not table[1:-1].any()),
                "soft": rater.probabilities is not None,
            }
        )
    empty = [empty_rater_warning(row["name"]) for row in rows if row["empty"]]
    panel = Panel.of(study)
    oddities = find_oddities(study, axes, panel)
    in_consensus = {name for c, name in enumerate(study.classes) if tables[0, :, c].any()}
    few = notes_on_few(panel, oddities, in_consensus)
    warnings = [*(notes or []), *few, *_unseen(study, fused), *fused.facts.get("warnings", []), *empty]
    return {
        "classes": list(study.classes),
        "shape": list(study.shape),
        "spacing_mm": list(study.spacing_mm),
        **fused.facts,
        "raters": rows,
        "oddities": oddities,
        "versions": versions(),
        "warnings": list(dict.fromkeys(warnings)),
    }


def contingencies(study: Study, labels: np.ndarray) -> np.ndarray:
    """`(R, K + 1, K)` voxels by the rater's class (the last row: not annotated) and the consensus.

    Only the box of all labels is counted: outside of it rater and consensus are background.
    """
    classes = len(study.classes)
    counts = np.zeros((len(study.raters), classes + 1, classes), np.int64)
    box = labelled_box([labels, *(rater.labels for rater in study.raters)])
    if box is None:
        return counts
    consensus = labels[box]
    step = max(1, _PLANE * len(consensus) // consensus.size)
    for r, rater in enumerate(study.raters):
        votes = rater.labels[box]
        for k in range(0, len(consensus), step):
            counts[r] += _contingency(votes[k : k + step], consensus[k : k + step], classes)
    return counts


def _contingency(votes: np.ndarray, consensus: np.ndarray, classes: int) -> np.ndarray:
    """`(K + 1, K)` voxels by the class of one rater and the consensus, where the consensus is decided."""
    rows = np.minimum(votes, np.uint8(min(classes, MISSING)))
    pairs = rows.astype(np.uint16) * np.uint16(classes) + consensus
    decided = pairs[consensus != MISSING]
    count = np.bincount(decided.reshape(-1), minlength=(classes + 1) * classes)
    return count.reshape(classes + 1, classes)


def dice_by_class(table: np.ndarray, classes: tuple[str, ...]) -> dict[str, float | None]:
    """Dice of each foreground class where the rater annotated, and their mean; None where neither has the class.

    None too where the rater never drew it, and did not annotate most of it.

    Args:
        table: `(K + 1, K)`, one entry of `contingencies`.
        classes: names of the K classes.
    """
    annotated = table[:-1]
    scores: dict[str, float | None] = {}
    for c, name in enumerate(classes[1:], start=1):
        total = annotated[c].sum() + annotated[:, c].sum()
        is_unknown = not annotated[c].any() and 2 * table[-1, c] > table[:, c].sum()
        scores[name] = float(2 * annotated[c, c] / total) if total and not is_unknown else None
    existing = [score for score in scores.values() if score is not None]
    scores["mean"] = float(np.mean(existing)) if existing else None
    return scores


def _unseen(study: Study, fused: Fused) -> list[str]:
    """A line on voxels between the structures that nobody annotated; what lies around all of them is no matter."""
    box = labelled_box([rater.labels for rater in study.raters])
    if box is None:
        return []
    nobody = np.ones(fused.labels[box].shape, bool)
    for rater in study.raters:
        nobody &= rater.labels[box] == MISSING
    unseen = int(np.count_nonzero(nobody))
    if not unseen:
        return []
    answer = fused.labels[box][nobody]
    structure = int(np.count_nonzero((answer > 0) & (answer != MISSING)))
    undecided = int(np.count_nonzero(answer == MISSING))
    became = [f"{structure} were filled in as a structure"] if structure else []
    if undecided:
        became.append(f"{undecided} are undecided")
    if structure + undecided < unseen:
        became.append(f"{unseen - structure - undecided} became background")
    return [f"nobody annotated {unseen} of the {nobody.size} voxels around the structures: {', '.join(became)}"]


def versions() -> dict[str, str | None]:
    """Versions of what the numbers depend on; None: not installed."""
    found: dict[str, str | None] = {"medseg": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
