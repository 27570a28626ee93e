"""What every fuser reports of a run besides its answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from medseg.consensus.fusers.vote_patterns import Patterns
from medseg.consensus.study import Study


class Account:
    """Facts, warnings and seconds of one fusion.

    Args:
        method: name of the fuser.
        options: its options, a dataclass of plain values; None: it has none.
    """

    def __init__(self, method: str, options: Any = None) -> None:
        settings = {} if options is None else asdict(options)
        self.facts: dict[str, Any] = {"method": method, "settings": settings, "warnings": [], "seconds": {}}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the wall seconds of what is done inside to the stage."""
        start = time.perf_counter()
        yield
        seconds = self.facts["seconds"]
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    def warn(self, text: str) -> None:
        """Keep a warning, once."""
        if text not in self.facts["warnings"]:
            self.facts["warnings"].append(text)

    def describe(self, study: Study, patterns: Patterns) -> None:
        """What holds for every fuser: field, coverage, and raters or classes that gave nothing to work with."""
        whole = int(np.prod(study.shape))
        voted = patterns.table < patterns.classes
        covered = patterns.everywhere @ voted
        votes = patterns.everywhere @ patterns.votes()
        self.facts |= {
            "field": [[b.start, b.stop] for b in patterns.field],
            "field_voxels": int(patterns.counts.sum()),
            "patterns": len(patterns.table),
            "disputed_voxels": int(patterns.counts[disputed(patterns)].sum()),
            "uncovered_voxels": int(patterns.everywhere[~voted.any(1)].sum()),
            "dropped": [e.name for e, n in zip(study.raters, covered, strict=True) if not n],
            "empty": [study.raters[r].name for r in empty_raters(patterns) if covered[r]],
            "absent_classes": [name for name, n in zip(study.classes, votes, strict=True) if not n],
            "from_probabilities": [e.name for e in study.raters if e.probabilities is not None],
        }
        self._warn_of_what_was_found(len(study.raters), votes, whole - self.facts["uncovered_voxels"])

    def _warn_of_what_was_found(self, raters: int, votes: np.ndarray, covered: int) -> None:
        if raters - len(self.facts["dropped"]) < 2:
            self.warn("no consensus possible: fewer than two raters annotated anything")
        if not votes[1:].any():
            self.warn("no rater labelled anything: the consensus is empty" if covered else "nothing is annotated")
        elif not votes[0]:
            self.warn("no rater called any voxel background")
        for name in self.facts["dropped"]:
            self.warn(f"{name} annotated no voxel and is left out")
        for name in self.facts["empty"]:
            self.warn(f"{name} labelled nothing in what he annotated; that is kept as a vote")
        if self.facts["from_probabilities"]:
            self.warn(f"probabilities of {', '.join(self.facts['from_probabilities'])} count as their likeliest class")


def disputed(patterns: Patterns) -> np.ndarray:
    """`(P,)` whether a pattern's voters disagree or nobody votes."""
    votes = patterns.votes()
    return votes.max(1) < np.maximum(votes.sum(1), 1)


def empty_raters(patterns: Patterns) -> list[int]:
    """Raters without any label above 0."""
    labelled = (patterns.table > 0) & (patterns.table < patterns.classes)
    return [int(r) for r in np.flatnonzero(~(patterns.everywhere @ labelled).astype(bool))]


def present(patterns: Patterns) -> np.ndarray:
    """`(R,)` whether a rater annotated anything."""
    return (patterns.everywhere @ (patterns.table < patterns.classes)) > 0


def shares(weights: Sequence[float] | np.ndarray) -> list[float]:
    """Weights that sum to 1; all 0 where there is nothing to share."""
    given = np.asarray(weights, float)
    return [float(w) for w in given / (given.sum() or 1.0)]
