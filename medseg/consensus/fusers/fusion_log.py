"""What every fuser reports of a run besides its answer: facts, warnings, seconds, and a weight per rater."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from medseg.consensus.fusers.vote_patterns import VotePatterns
from medseg.consensus.study import Study

Row = dict[str, Any]
"""JSON-ready facts of one rater."""


class FusionLog:
    """Facts, warnings and seconds of one fusion.

    Args:
        method: name of the fuser.
        options: its options, a dataclass of plain values.
    """

    def __init__(self, method: str, options: Any) -> None:
        self.facts: dict[str, Any] = {"method": method, "settings": asdict(options), "warnings": [], "seconds": {}}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the wall seconds of what is done inside to a stage."""
        start = time.perf_counter()
        yield
        seconds = self.facts["seconds"]
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    def warn(self, text: str) -> None:
        """Keep a warning, once."""
        if text not in self.facts["warnings"]:
            self.facts["warnings"].append(text)

    def describe(self, study: Study, patterns: VotePatterns) -> None:
        """Enter what holds for every fuser: the box, coverage, and raters or classes without any vote."""
        voted, votes = patterns.voted(), patterns.count_votes()
        voxels_per_class = patterns.grid_counts @ votes
        voxels_per_rater = patterns.grid_counts @ voted
        uncovered = int(patterns.grid_counts[~voted.any(1)].sum())
        names = [rater.name for rater in study.raters]
        empty = (voxels_per_rater > 0) & ~_labelled_anything(patterns)
        self.facts |= {
            "box": [[side.start, side.stop] for side in patterns.box],
            "box_voxels": int(patterns.counts.sum()),
            "patterns": len(patterns.table),
            "disputed_voxels": int(patterns.counts[patterns.disputed()].sum()),
            "uncovered_voxels": uncovered,
            "dropped": [name for name, n in zip(names, voxels_per_rater, strict=True) if not n],
            "empty": [name for name, is_empty in zip(names, empty, strict=True) if is_empty],
            "absent_classes": [name for name, n in zip(study.classes, voxels_per_class, strict=True) if not n],
            "from_probabilities": [rater.name for rater in study.raters if rater.probabilities is not None],
        }
        self._warn_of_coverage(len(names), voxels_per_class, int(np.prod(study.shape)) - uncovered)

    def _warn_of_coverage(self, raters: int, voxels_per_class: np.ndarray, covered: int) -> None:
        facts = self.facts
        if raters - len(facts["dropped"]) < 2:
            self.warn("no consensus possible: fewer than two raters annotated anything")
        if not voxels_per_class[1:].any():
            self.warn("no rater labelled anything: the consensus is empty" if covered else "nothing is annotated")
        elif not voxels_per_class[0]:
            self.warn("no rater called any voxel background")
        for name in facts["dropped"]:
            self.warn(f"{name} annotated no voxel and is left out")
        for name in facts["empty"]:
            self.warn(empty_rater_warning(name))
        if facts["from_probabilities"]:
            self.warn(f"probabilities of {', '.join(facts['from_probabilities'])} count as their likeliest class")


def empty_rater_warning(name: str) -> str:
    """What is said of a rater who annotated, and labelled nothing."""
    return f"{name} labelled nothing in the annotated part; that is kept as a vote"


def normalise_weights(weights: Sequence[float] | np.ndarray) -> list[float]:
    """Weights that sum to 1; all 0 where there is nothing to share."""
    given = np.asarray(weights, float)
    return [float(weight) for weight in given / (given.sum() or 1.0)]


def rows_of_equal_weight(study: Study, patterns: VotePatterns) -> list[Row]:
    """Facts per rater where nobody counts more than another; who annotated nothing has weight 0."""
    weights = normalise_weights(patterns.active_raters())
    return [{"name": rater.name, "weight": weight} for rater, weight in zip(study.raters, weights, strict=True)]


def _labelled_anything(patterns: VotePatterns) -> np.ndarray:
    """`(R,)` bool: whether a rater gave any voxel a class above 0."""
    labelled = (patterns.table > 0) & patterns.voted()
    return (patterns.grid_counts @ labelled) > 0
