"""How good each arm of a comparison is: mean over cases for each seed, then mean and spread over the seeds.

As in `medseg evaluate`: a structure that neither the prediction nor the reference of a case has is left out of every
mean and counted; so is a metric that is not defined, such as a distance to nothing. "Over the structures" is the mean
of the structures' means.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev

from medseg.workflows.compare.report.measures import OF_IMAGES
from medseg.workflows.compare.scores.rows import CaseRow


@dataclass(frozen=True)
class Spread:
    """A number for each seed.

    Args:
        values: one for each seed that has it.
    """

    values: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        """Over the seeds; None where no seed has a value."""
        return mean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over the seeds; None with fewer than two, of which nobody knows the spread."""
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Score:
    """A metric of an arm.

    Args:
        spread: over the seeds.
        undefined: values, over structures, cases and seeds, that are not defined where the structure is in the
            prediction or the reference; no mean has them.
    """

    spread: Spread = Spread()
    undefined: int = 0


@dataclass(frozen=True)
class ArmResult:
    """An arm with one number of labels.

    Args:
        arm: its name.
        labels: labelled subjects that it learnt from, where the comparison asks for several numbers.
        seeds: that have rows, in order.
        cases: how many were judged, each counted once.
        absent: structures of cases, over all seeds, that are in neither the prediction nor the reference; left out.
        over_all: metric -> over the structures.
        structures: structure -> metric -> score.
        set_iou: mean over the classes of the IoU of the whole set, where the rows have the counts of every class.
        set_iou_of: class -> IoU of the whole set, the background among them, if there is one.
        accuracy: of classified images, the share whose class is found.
    """

    arm: str
    labels: int | None
    seeds: tuple[int, ...]
    cases: int
    absent: int
    over_all: Mapping[str, Score] = field(default_factory=dict)
    structures: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    set_iou: Spread = Spread()
    set_iou_of: Mapping[str, Spread] = field(default_factory=dict)
    accuracy: Spread = Spread()


def summarize(rows: Sequence[CaseRow], *, has_background: bool = True) -> list[ArmResult]:
    """The results of all arms, by number of labels and then in the order in which the rows name them.

    Args:
        rows: of all arms.
        has_background: of the data set.

    Examples:
        Two seeds of one arm, two cases each: the means are 0.8 and 0.9.

        >>> from medseg.workflows.compare.scores.rows import CaseRow, RunKey
        >>> rows = []
        >>> for seed, values in enumerate([(0.7, 0.9), (0.85, 0.95)]):
        ...     for case, dice in zip("ab", values):
        ...         row = CaseRow(RunKey("dtc", seed), case, case, "liver", {"dice": dice}, 7, 8, 9)
        ...         rows.append(row)
        >>> (result,) = summarize(rows)
        >>> dice = result.over_all["dice"].spread
        >>> round(dice.mean, 3), round(dice.sd, 3)
        (0.85, 0.071)
    """
    groups: dict[tuple[int | None, str], list[CaseRow]] = defaultdict(list)
    for row in rows:
        groups[row.key.labels, row.key.arm].append(row)
    order = sorted(groups, key=lambda group: -1 if group[0] is None else group[0])
    return [_summarize_arm(arm, labels, groups[labels, arm], has_background) for labels, arm in order]


def is_absent(row: CaseRow) -> bool:
    """Whether neither the prediction nor the reference of the case has the structure."""
    return row.predicted == 0 and row.reference == 0


def by_seed(rows: Iterable[CaseRow]) -> dict[int, list[CaseRow]]:
    """Rows of each seed, in the seeds' order."""
    found: dict[int, list[CaseRow]] = {}
    for row in sorted(rows, key=lambda row: row.key.seed):
        found.setdefault(row.key.seed, []).append(row)
    return found


def set_iou(rows: Sequence[CaseRow], *, has_background: bool = True) -> dict[str, float]:
    """Intersection over union of a whole set of cases, from the counts of one training's rows.

    One confusion over all cases; a class that neither any prediction nor any reference has is left out
    (Everingham et al., "The Pascal Visual Object Classes Challenge", 2015).

    Args:
        rows: of one training.
        has_background: of the data set; else every voxel is of a class that has metrics.

    Returns:
        Class -> IoU, the background among them; empty where the rows lack it.
    """
    counts: dict[str, list[int]] = {}
    has_all = not has_background
    for row in rows:
        has_all = has_all or not row.metrics
        total = counts.setdefault(row.structure, [0, 0, 0])
        for place, count in enumerate((row.shared, row.predicted, row.reference)):
            total[place] += count
    found = {}
    for structure, (shared, predicted, reference) in counts.items():
        union = predicted + reference - shared
        if union:
            found[structure] = shared / union
    return found if has_all else {}


def _summarize_arm(arm: str, labels: int | None, rows: Sequence[CaseRow], has_background: bool) -> ArmResult:
    judged = [row for row in rows if row.metrics]  # the background has none
    present = [row for row in judged if not is_absent(row)]
    structures = list(dict.fromkeys(row.structure for row in judged))
    metrics = list(dict.fromkeys(name for row in judged for name in row.metrics))
    scores = {}
    for structure in structures:
        of_structure = [row for row in present if row.structure == structure]
        scores[structure] = {metric: _score(of_structure, metric) for metric in metrics}
    of_seeds = [set_iou(of_seed, has_background=has_background) for of_seed in by_seed(rows).values()]
    classes = dict.fromkeys(name for of_seed in of_seeds for name in of_seed)
    of_classes = {}
    for name in classes:
        of_classes[name] = Spread(tuple(of_seed[name] for of_seed in of_seeds if name in of_seed))
    return ArmResult(
        arm,
        labels,
        seeds=tuple(by_seed(rows)),
        cases=len({row.case for row in judged}),
        absent=len(judged) - len(present),
        over_all={metric: _over_structures(present, structures, metric) for metric in metrics},
        structures=scores,
        set_iou=Spread(tuple(mean(of_seed.values()) for of_seed in of_seeds if of_seed)),
        set_iou_of=of_classes,
        accuracy=_accuracy(rows),
    )


def _accuracy(rows: Sequence[CaseRow]) -> Spread:
    """Share of the images whose class is found, for each seed; empty where no images are classified."""
    values = []
    for of_seed in by_seed(rows).values():
        found = _defined(of_seed, OF_IMAGES.tested)
        if found:
            values.append(mean(found))
    return Spread(tuple(values))


def _score(rows: Sequence[CaseRow], metric: str) -> Score:
    """A metric of rows of one structure."""
    values = []
    for of_seed in by_seed(rows).values():
        defined = _defined(of_seed, metric)
        if defined:
            values.append(mean(defined))
    return Score(Spread(tuple(values)), _count_undefined(rows, metric))


def _over_structures(rows: Sequence[CaseRow], structures: Sequence[str], metric: str) -> Score:
    """A metric over the structures: for each seed the mean of the structures' means."""
    values = []
    for of_seed in by_seed(rows).values():
        means = []
        for structure in structures:
            defined = _defined([row for row in of_seed if row.structure == structure], metric)
            if defined:
                means.append(mean(defined))
        if means:
            values.append(mean(means))
    return Score(Spread(tuple(values)), _count_undefined(rows, metric))


def _count_undefined(rows: Iterable[CaseRow], metric: str) -> int:
    """Rows whose metric is not defined; not those that have no such metric."""
    return sum(1 for row in rows if metric in row.metrics and row.metrics[metric] is None)


def _defined(rows: Iterable[CaseRow], metric: str) -> list[float]:
    values = [row.metrics.get(metric) for row in rows]
    return [value for value in values if value is not None]
