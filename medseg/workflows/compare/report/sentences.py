"""What may be said of each arm, and which to take: no more than intervals and tests carry."""

from __future__ import annotations

from collections.abc import Mapping

from medseg.workflows.compare.report.differences import FEWEST_SUBJECTS, Difference
from medseg.workflows.compare.report.findings import Findings
from medseg.workflows.compare.report.measures import measures_of, metric_called
from medseg.workflows.reports.formatting import count_of

SIGNIFICANT = 0.05
"""Largest p, after Holm's correction, of a difference that is called shown."""

BETTER, WORSE, OPEN, UNTESTED, NOTHING = "better", "worse", "open", "untested", "nothing"

_BEGINNINGS = ("no ", "take ")
_CHANCE = "With one seed, how much trainings of one arm differ by chance is not known."


def judge(difference: Difference) -> str:
    """What a difference of Dice shows.

    Returns:
        "better" or "worse": the test says so after correction, and the interval, which has the spread of the seeds in
        it, leaves out 0. "open": neither is shown. "untested": too few subjects. "nothing": nothing in common.
    """
    if difference.mean is None:
        return NOTHING
    if difference.p is None or difference.low is None or difference.high is None:
        return UNTESTED
    if difference.p < SIGNIFICANT and difference.low > 0:
        return BETTER
    if difference.p < SIGNIFICANT and difference.high < 0:
        return WORSE
    return OPEN


def describe_difference(difference: Difference) -> str:
    """One sentence, or two, of an arm against the first."""
    arm, first = difference.arm, difference.first
    verdict = judge(difference)
    if verdict == NOTHING:
        what = "a Dice" if difference.metric == "dice" else f"a {difference.metric}"
        return f"{arm} and {first} have no case with {what} and no seed in common: nothing can be compared."
    numbers = describe_numbers(difference)
    alone = difference.seeds == 1
    if verdict == OPEN:
        line = f"{arm}: no difference from {first} is shown at this size: {numbers}."
    elif verdict == UNTESTED:
        few = f"No test is made of fewer than {FEWEST_SUBJECTS} subjects"
        line = f"{arm}: {numbers}. {few}, so that no difference from {first} is shown."
    elif alone:
        line = f"The one training of {arm} is {verdict} than that of {first}: {numbers}."
    else:
        line = f"{arm} is {verdict} than {first}: {numbers}."
    return f"{line} {_CHANCE}" if alone else line


def describe_numbers(difference: Difference) -> str:
    """Mean, interval, p and size of a difference: "+0.012 Dice (95 % interval 0.004 to 0.020, p 0.031; 20 ...)"."""
    measures = measures_of([difference.metric])
    name = measures.name if difference.metric == measures.tested else difference.metric
    facts = []
    if difference.low is not None:
        facts.append(f"95 % interval {describe_interval(difference)}")
    if difference.p is not None:
        facts.append(f"p {describe_p(difference.p)}")
    size = f"{count_of(difference.subjects, 'subject')}, {count_of(difference.seeds, 'seed')}"
    inside = "; ".join([", ".join(facts), size] if facts else [size])
    return f"{signed(difference.metric, difference.mean)} {name} ({inside})"


def describe_interval(difference: Difference) -> str:
    """The ends of an interval: "-0.004 to 0.020"."""
    entry = metric_called(difference.metric)
    return f"{entry.text(difference.low)} to {entry.text(difference.high)}"


def describe_p(p: float | None) -> str:
    """A p with the digits that it deserves."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def signed(metric: str, value: float | None) -> str:
    """A difference with its sign, as a metric's values are written."""
    text = metric_called(metric).text(value)
    if value is None:
        return text
    return text if text.startswith("-") else f"+{text}"


def which_to_take(findings: Findings) -> list[str]:
    """The opening of the report: which arm to take; a sentence for each number of labels."""
    lines = []
    for labels in findings.labels:
        line = _which_to_take(findings, labels)
        if labels is not None:
            line = f"With {count_of(labels, 'labelled subject')}: {line}"
        elif line.startswith(_BEGINNINGS):  # others begin with the name of an arm, which stays as it is
            line = line[0].upper() + line[1:]
        lines.append(line)
    return lines


def _which_to_take(findings: Findings, labels: int | None) -> str:
    first = findings.first
    names = [arm.name for arm in findings.description.arms]
    finished = [name for name in names if findings.result(labels, name)]
    if not finished:
        return "no run is finished, so that there is nothing to say yet."
    if finished == [first]:
        more = "" if len(names) == 1 else "; no run of the others is finished"
        return f"{first} has a {findings.measures.mean_name} of {_dice(findings, labels, first)}{more}."
    if first not in finished:
        return f"no run of {first} is finished, with which the others are to be compared."
    found = [each for each in findings.differences if each.labels == labels and each.metric == findings.measures.tested]
    better = [each for each in found if judge(each) == BETTER]
    if better:
        return _take_the_best(better, {each.arm: _mean_dice(findings, labels, each.arm) for each in better})
    if all(judge(each) == WORSE for each in found):
        return f"take {first}{_caution(found)}: every other arm is shown to be worse."
    best = max(finished, key=lambda name: _mean_dice(findings, labels, name))
    highest = f"has the highest {findings.measures.mean_name}, {_dice(findings, labels, best)}"
    if best == first:
        return f"take {first}: it {highest}, and no other arm is shown to be better."
    means = f"{best} {highest} against {_dice(findings, labels, first)}"
    return f"no arm is shown to be better than {first}; {means}, which at this size may be chance."


def _take_the_best(better: list[Difference], means: Mapping[str, float]) -> str:
    """Of arms that are better than the first, the one with the highest mean, which the table shows."""
    best = max(better, key=lambda each: (each.seeds > 1, means[each.arm]))  # one training alone may be a lucky one
    others = [each.arm for each in better if each is not best]
    line = f"take {best.arm}{_caution([best])}: {describe_numbers(best)} against {best.first}"
    if not others:
        return f"{line}."
    are = "is" if len(others) == 1 else "are"
    return f"{line}; {', '.join(others)} {are} better than {best.first} too, and no test was made between them."


def _caution(differences: list[Difference]) -> str:
    """What has to be said with an advice that hangs on single trainings."""
    return ", as far as one training of each can tell" if any(each.seeds == 1 for each in differences) else ""


def _mean_dice(findings: Findings, labels: int | None, arm: str) -> float:
    result = findings.result(labels, arm)
    score = result.over_all.get(findings.measures.tested) if result else None
    mean = score.spread.mean if score else None
    return -1.0 if mean is None else mean


def _dice(findings: Findings, labels: int | None, arm: str) -> str:
    mean = _mean_dice(findings, labels, arm)
    return metric_called(findings.measures.tested).text(None if mean < 0 else mean)
