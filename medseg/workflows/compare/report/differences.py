"""Paired differences between arms: the same cases and seeds, intervals over subjects and seeds, a test over subjects.

The unit is the subject. A difference of a structure of a case exists where both arms have a value for the same seed and
fold; it is averaged over the structures, then over the images of a subject, then over the seeds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from scipy.stats import wilcoxon

from medseg.workflows.compare.report.measures import measures_of
from medseg.workflows.compare.report.statistics import is_absent
from medseg.workflows.compare.scores.rows import CaseRow

DRAWS = 10_000
"""Of the bootstrap."""
LEVEL = 95.0
"""Per cent of the draws that lie in the interval."""
FEWEST_SUBJECTS = 6
"""Of a signed-rank test: with 5 the smallest two-sided p is 2 / 2^5 = 0.06, so that nothing could be shown."""
_CHUNK = 1000  # draws at once, for memory

Place = tuple[int, int | None, str]
"""Seed, fold and case."""


@dataclass(frozen=True)
class Difference:
    """An arm minus the first arm, in one metric, over what both have.

    Args:
        arm: its name.
        first: name of the first arm.
        labels: number of labelled subjects, where there are several.
        metric: name of the metric.
        mean: of the subjects' differences; None where the arms have nothing in common.
        low: end of the bootstrap interval; None with fewer than two subjects.
        high: its other end.
        subjects: with a difference.
        seeds: with a difference.
        p: of the signed-rank test, by Holm's correction over all tests of the comparison; None where none was made.
    """

    arm: str
    first: str
    labels: int | None
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    subjects: int
    seeds: int
    p: float | None = None


def compare_arms(rows: Sequence[CaseRow], first: str, *, draws: int = DRAWS, seed: int = 0) -> list[Difference]:
    """Differences of each arm from the first, in the metrics of the report, for each number of labels.

    Args:
        rows: of finished runs.
        first: name of the arm that the others are compared with.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        By number of labels, then by arm in the order of the rows, then by metric; none for a number of labels with
        which the first arm has no rows.
    """
    arms: dict[tuple[int | None, str], list[CaseRow]] = defaultdict(list)
    for row in rows:
        if row.metrics:
            arms[row.key.labels, row.key.arm].append(row)
    found = []
    measures = measures_of({name for row in rows for name in row.metrics})
    for labels, arm in sorted(arms, key=lambda group: -1 if group[0] is None else group[0]):
        if arm == first or (labels, first) not in arms:
            continue
        for metric in measures.compared:
            values = subject_differences(arms[labels, arm], arms[labels, first], metric)
            found.append(_describe(values, (arm, first, labels, metric), draws, seed))
    tested = [number for number, each in enumerate(found) if each.p is not None]
    corrected = holm([found[number].p or 0.0 for number in tested])
    for number, p in zip(tested, corrected, strict=True):
        found[number] = replace(found[number], p=p)
    return found


def subject_differences(rows: Sequence[CaseRow], first: Sequence[CaseRow], metric: str) -> np.ndarray:
    """Differences of one arm from another.

    Args:
        rows: of an arm.
        first: rows of the arm it is compared with.
        metric: name of the metric.

    Returns:
        `(subjects, seeds)` in the order of their names and numbers; NaN where a subject has no difference with a seed;
        subjects and seeds without any are left out.
    """
    ours, theirs = _by_place(rows), _by_place(first)
    of_subject: dict[tuple[str, int], list[float]] = defaultdict(list)
    for place in ours.keys() & theirs.keys():
        of_structures = _structure_differences(ours[place], theirs[place], metric)
        if of_structures:
            subject = next(iter(theirs[place].values())).subject  # another manifest may not name it
            of_subject[subject, place[0]].append(mean(of_structures))
    subjects = sorted({subject for subject, _ in of_subject})
    seeds = sorted({seed for _, seed in of_subject})
    found = np.full((len(subjects), len(seeds)), np.nan)
    for (subject, seed), values in of_subject.items():
        found[subjects.index(subject), seeds.index(seed)] = mean(values)
    return found


def bootstrap_interval(values: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float] | None:
    """Percentile bootstrap of the mean over subjects of the mean over seeds; both are drawn anew, with replacement.

    Args:
        values: `(subjects, seeds)`, NaN where there is none.
        draws: how often.
        seed: of the draws.

    Returns:
        Ends of the 95 % interval; None with fewer than two subjects.
    """
    subjects, seeds = values.shape
    if subjects < 2:
        return None
    exists = np.isfinite(values).astype(float)
    filled = np.where(np.isfinite(values), values, 0.0)
    generator = np.random.default_rng(seed)
    means = []
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        of_subjects = generator.multinomial(subjects, np.full(subjects, 1 / subjects), count)
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), count)
        drawn = of_seeds @ exists.T  # (draws, subjects): how many of the seeds drawn have the subject
        subject_means = (of_seeds @ filled.T) / np.maximum(drawn, 1)
        weights = of_subjects * (drawn > 0)
        total = weights.sum(1)
        means.append(((weights * subject_means).sum(1) / np.maximum(total, 1))[total > 0])
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
    return float(low), float(high)


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test; differences of exactly 0 say nothing and are left out.

    Returns:
        None with fewer than `FEWEST_SUBJECTS` differences; 1 where all are 0.
    """
    if len(differences) < FEWEST_SUBJECTS:
        return None
    other = [value for value in differences if value != 0]
    return float(wilcoxon(other).pvalue) if other else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction for several tests: the k-th smallest of m times m - k + 1, never below the one before.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    corrected = [0.0] * len(p)
    largest = 0.0
    for place, number in enumerate(sorted(range(len(p)), key=lambda number: p[number])):
        largest = max(largest, min(1.0, (len(p) - place) * p[number]))
        corrected[number] = largest
    return corrected


def _describe(values: np.ndarray, of: tuple[str, str, int | None, str], draws: int, seed: int) -> Difference:
    """One difference, its p not corrected yet."""
    subjects, seeds = values.shape
    if subjects == 0:
        return Difference(*of, None, None, None, 0, 0)
    of_subjects = np.nanmean(values, axis=1)
    low, high = bootstrap_interval(values, draws=draws, seed=seed) or (None, None)
    is_tested = of[-1] == measures_of(of[-1:]).tested
    p = signed_rank_p(of_subjects.tolist()) if is_tested else None
    return Difference(*of, float(of_subjects.mean()), low, high, subjects, seeds, p)


def _by_place(rows: Sequence[CaseRow]) -> dict[Place, dict[str, CaseRow]]:
    found: dict[Place, dict[str, CaseRow]] = defaultdict(dict)
    for row in rows:
        found[row.key.seed, row.key.fold, row.case][row.structure] = row
    return found


def _structure_differences(ours: Mapping[str, CaseRow], theirs: Mapping[str, CaseRow], metric: str) -> list[float]:
    """Of each structure that both have a value of; where it is in neither prediction nor the reference, there is none.

    Where one arm wrongly finds a structure and the other rightly does not, that one has the Dice of two empty masks, 1.
    """
    found = []
    for structure in ours.keys() & theirs.keys():
        one, other = ours[structure], theirs[structure]
        values = one.metrics.get(metric), other.metrics.get(metric)
        if values[0] is None or values[1] is None or (is_absent(one) and is_absent(other)):
            continue
        found.append(values[0] - values[1])
    return sorted(found)
