"""Tables of a comparison, for the page and for documents: `table.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean

from medseg.metrics import Metric
from medseg.workflows.compare.report.findings import Findings
from medseg.workflows.compare.report.measures import OF_IMAGES, OF_VOXELS, metric_called
from medseg.workflows.compare.report.sentences import (
    describe_difference,
    describe_interval,
    describe_p,
    signed,
    which_to_take,
)
from medseg.workflows.compare.report.statistics import ArmResult, Score, Spread
from medseg.workflows.compare.scores.rows import RunRow
from medseg.workflows.reports.cells import markdown_cell
from medseg.workflows.reports.formatting import count_of
from medseg.workflows.reports.pages import Table

GIB = 2**30
NONE = "-"


def heading_of(metric: str, findings: Findings) -> str:
    """A metric's name as the head of a column."""
    found = metric_called(metric)
    if isinstance(found, Metric):
        return found.head(findings.description.tolerance_mm, findings.description.unit)
    return found.heading


def result_table(findings: Findings, labels: int | None) -> Table:
    """Arms x metrics: mean ± spread over seeds, CPU minutes and memory."""
    heads = ["arm", "runs", *(heading_of(metric, findings) for metric in findings.measures.shown)]
    if findings.measures is OF_IMAGES:
        heads.append("accuracy")
    if findings.description.planar:
        heads.append("mIoU of the set")
    heads += ["CPU minutes", "peak memory GiB"]
    rows = [_result_row(findings, labels, arm.name) for arm in findings.description.arms]
    return Table(heads, rows)


def document_table(findings: Findings, labels: int | None) -> Table:
    """As `result_table`, and the difference in Dice from the first arm with its interval and p: all in one table."""
    results = result_table(findings, labels)
    rows = []
    for arm, row in zip(findings.description.arms, results.rows, strict=True):
        difference = _difference_cell(findings, labels, arm.name, findings.measures.tested)
        rows.append([*row, difference, _p_cell(findings, labels, arm.name)])
    return Table([*results.heads, f"{findings.measures.name} against {findings.first} (95 % interval)", "p"], rows)


def structure_tables(findings: Findings, labels: int | None) -> list[Table]:
    """Structures x arms, one table for each metric: mean ± spread over seeds; none where there is one structure."""
    results = [findings.result(labels, arm.name) for arm in findings.description.arms]
    structures = list(dict.fromkeys(name for result in results if result for name in result.structures))
    if len(structures) < 2:
        return []
    tables = [_structure_table(findings, results, structures, metric) for metric in findings.measures.shown]
    if findings.description.planar:
        tables.append(_set_iou_table(findings, results))
    return tables


def _structure_table(
    findings: Findings, results: Sequence[ArmResult | None], structures: Sequence[str], metric: str
) -> Table:
    rows = []
    for structure in structures:
        cells = [_score_cell(metric, _score_of(result, structure, metric)) for result in results]
        rows.append([structure, *cells])
    rows.append(
        [
            "mean of the structures",
            *(_score_cell(metric, result.over_all.get(metric) if result else None) for result in results),
        ]
    )
    arms = [arm.name for arm in findings.description.arms]
    heading = metric if findings.measures is OF_IMAGES else heading_of(metric, findings)
    return Table([heading, *arms], rows, total=True)


def _set_iou_table(findings: Findings, results: Sequence[ArmResult | None]) -> Table:
    classes = list(dict.fromkeys(name for result in results if result for name in result.set_iou_of))
    rows = []
    for name in classes:
        spreads = [result.set_iou_of.get(name, Spread()) if result else Spread() for result in results]
        rows.append([name, *(_spread_cell(OF_VOXELS.tested, spread) for spread in spreads)])
    means = [result.set_iou if result else Spread() for result in results]
    rows.append(["mean of the classes", *(_spread_cell(OF_VOXELS.tested, spread) for spread in means)])
    arms = [arm.name for arm in findings.description.arms]
    return Table(["IoU of the set", *arms], rows, total=True)


def difference_table(findings: Findings, labels: int | None) -> Table | None:
    """Arms x metrics: difference from the first arm with its interval, and p; None where there is none."""
    rows = []
    for arm in findings.description.arms[1:]:
        cells = []
        for metric in findings.measures.compared:
            cells.append(_difference_cell(findings, labels, arm.name, metric))
        if any(cell != NONE for cell in cells):
            rows.append([arm.name, *cells, _p_cell(findings, labels, arm.name)])
    measures = findings.measures
    names = [measures.name if measures is OF_IMAGES else heading_of(metric, findings) for metric in measures.compared]
    heads = [f"minus {findings.first}", *names, f"p of {measures.name}"]
    return Table(heads, rows) if rows else None


def describe_arms(findings: Findings) -> list[tuple[str, str]]:
    """Name of each arm, and what it is: task, settings, data of its own, plan or else iterations."""
    lines = []
    for arm in findings.description.arms:
        parts = [f"task {arm.task}"]
        if arm.settings:
            parts.append(f"with {' '.join(arm.settings)}")
        if arm.data:
            parts.append(f"on {arm.data}")
        if arm.plan:
            parts.append(arm.plan)
        counts = sorted({run.iterations for run in findings.runs if run.key.arm == arm.name and run.iterations})
        if counts and not arm.plan:  # a plan says them
            parts.append(f"{' or '.join(map(str, counts))} iterations")
        lines.append((arm.name, "; ".join(parts)))
    return lines


def sentences_of(findings: Findings, labels: int | None) -> list[str]:
    """A sentence for each arm but the first."""
    found = [each for each in findings.differences if each.labels == labels and each.metric == findings.measures.tested]
    return [describe_difference(each) for each in found]


def counts_of(findings: Findings, labels: int | None) -> list[str]:
    """What of each arm, over all its seeds, is counted and not averaged; a phrase each, none where there is nothing."""
    lines = []
    for arm in findings.description.arms:
        result = findings.result(labels, arm.name)
        counts = _count(result, findings.measures.shown) if result else []
        if counts:
            lines.append(f"{arm.name}: {', '.join(counts)}")
    return lines


def as_markdown(findings: Findings) -> str:
    """The file `table.md`."""
    description = findings.description
    lines = [f"# {plain(description.title)}", ""]
    for line in which_to_take(findings):
        lines += [plain(line), ""]
    lines += [
        f"Judged on {plain(description.judged)}; {plain(description.effort)}. Data: {plain(description.data)}.",
        "",
    ]
    for labels in findings.labels:
        lines += _section(findings, labels)
    if findings.missing:
        lines += ["## Missing runs", "", *(f"- {plain(line)}" for line in findings.missing), ""]
    arms = [f"- {plain(name)}: {plain(words)}" for name, words in describe_arms(findings)]
    lines += ["## Arms", "", *arms, ""]
    lines += ["## How to read it", "", *(f"- {line}" for line in reading_of(findings)), ""]
    lines += ["## Made by", "", f"    {plain(description.command)}", ""]
    for line in (description.machine, describe_versions(findings), *description.notes):
        if line:
            lines += [plain(line), ""]
    return "\n".join(lines)


def reading_of(findings: Findings) -> list[str]:
    """What the numbers are, a sentence or two each."""
    lines = [
        "Mean ± standard deviation over the seeds of the mean over the cases; without ± there is one seed. Over the "
        "structures: the mean of the structures' means. A structure that neither the prediction nor the reference has "
        "is left out; values that are not defined are counted in square brackets.",
        "Difference: over the cases and seeds that both arms have, of each subject the mean over structures, images "
        "and seeds, then the mean over subjects. Its 95 % interval is a percentile bootstrap: subjects and seeds are "
        "drawn anew 10 000 times.",
        f"p: Wilcoxon's signed-rank test over subjects of the difference in {findings.measures.name}, by Holm's "
        "correction over all tests of this comparison. A difference counts as shown where p is below 0.05 and the "
        "interval leaves out 0.",
        "CPU minutes: of one run, over all its processes, the mean of the runs. Peak memory: the largest of the runs.",
    ]
    for metric in findings.measures.shown:
        lines.append(f"{heading_of(metric, findings)}: {metric_called(metric).definition}.")
    if findings.measures is OF_IMAGES:
        lines.append(
            "accuracy: share of the images whose class is found, one vote for each; its differences are paired."
        )
    if findings.description.planar:
        of = " with the background" if findings.description.has_background else ""
        lines.append(f"mIoU of the set: one confusion over all cases, mean over the classes{of}.")
    return lines


def describe_versions(findings: Findings) -> str:
    """Packages and their versions in one line."""
    return ", ".join(f"{name} {version}" for name, version in findings.description.versions.items())


def table_lines(table: Table) -> list[str]:
    """A table in Markdown."""
    return [_line(table.heads), _line(["---"] * len(table.heads)), *map(_line, table.rows)]


def plain(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())


def describe_labels(labels: int | None) -> str:
    """The heading of a number of labels; empty where it is not varied."""
    return "" if labels is None else f"With {count_of(labels, 'labelled subject')}"


def _section(findings: Findings, labels: int | None) -> Iterator[str]:
    heading = describe_labels(labels)
    if heading:
        yield from (f"## {heading}", "")
    yield from (*table_lines(document_table(findings, labels)), "")
    lines = sentences_of(findings, labels)
    counts = counts_of(findings, labels)
    if counts:
        lines.append(f"Counted, not averaged, over all seeds: {'; '.join(counts)}.")
    yield from (f"- {plain(line)}" for line in lines)
    yield ""
    for table in structure_tables(findings, labels):
        yield from (*table_lines(table), "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_cell, cells)) + " |"


def _result_row(findings: Findings, labels: int | None, arm: str) -> list[str]:
    result = findings.result(labels, arm)
    runs = findings.runs_of(labels, arm)
    row = [arm, f"{len(runs)} of {findings.count_planned(labels, arm)}"]
    row += [_score_cell(metric, result.over_all.get(metric) if result else None) for metric in findings.measures.shown]
    if findings.measures is OF_IMAGES:
        row.append(_spread_cell(OF_IMAGES.tested, result.accuracy if result else Spread()))
    if findings.description.planar:
        row.append(_spread_cell(OF_VOXELS.tested, result.set_iou if result else Spread()))
    return [*row, _cpu_minutes(runs), _peak(runs)]


def _p_cell(findings: Findings, labels: int | None, arm: str) -> str:
    found = findings.difference(labels, arm, findings.measures.tested)
    return describe_p(found.p if found else None)


def _score_of(result: ArmResult | None, structure: str, metric: str) -> Score | None:
    return result.structures.get(structure, {}).get(metric) if result else None


def _score_cell(metric: str, score: Score | None) -> str:
    if score is None:
        return NONE
    cell = _spread_cell(metric, score.spread)
    return f"{cell} [{score.undefined}]" if score.undefined else cell


def _spread_cell(metric: str, spread: Spread) -> str:
    entry = metric_called(metric)
    cell = entry.text(spread.mean)
    return cell if spread.sd is None else f"{cell} ± {entry.text(spread.sd)}"


def _difference_cell(findings: Findings, labels: int | None, arm: str, metric: str) -> str:
    found = findings.difference(labels, arm, metric)
    if found is None or found.mean is None:
        return NONE
    cell = signed(metric, found.mean)
    return cell if found.low is None else f"{cell} ({describe_interval(found)})"


def _cpu_minutes(runs: Sequence[RunRow]) -> str:
    seconds = [run.cpu_seconds for run in runs if run.cpu_seconds is not None]
    return f"{mean(seconds) / 60:.1f}" if seconds else NONE


def _peak(runs: Sequence[RunRow]) -> str:
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return f"{max(peaks) / GIB:.1f}" if peaks else NONE


def _count(result: ArmResult, shown: Sequence[str]) -> list[str]:
    counts = []
    if result.absent:
        counts.append(f"a structure is in neither the prediction nor the reference {count_of(result.absent, 'time')}")
    for metric in shown:
        score = result.over_all.get(metric)
        if score and score.undefined:
            name = metric_called(metric).heading.partition(" ")[0]
            counts.append(f"{name} is not defined {count_of(score.undefined, 'time')}")
    return counts
