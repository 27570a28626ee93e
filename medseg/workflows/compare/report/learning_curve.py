"""The learning curve of a comparison: what each arm gains with more labels."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from medseg.workflows.compare.report.findings import Findings
from medseg.workflows.compare.report.table import heading_of
from medseg.workflows.reports.overlay import class_colors, encode_png


def draw_learning_curves(findings: Findings) -> list[bytes]:
    """PNGs: Dice and HD95, or balanced accuracy, of each arm over the number of labelled subjects.

    Bars are the spread over seeds.
    """
    return [_draw_metric(findings, metric) for metric in findings.measures.curves]


def _draw_metric(findings: Findings, metric: str) -> bytes:
    figure = Figure(figsize=(5.4, 3.8), dpi=120, layout="constrained")
    ax = figure.subplots()
    arms = [arm.name for arm in findings.description.arms]
    for arm, color in zip(arms, class_colors(len(arms)), strict=True):
        _draw_arm(ax, findings, arm, metric, color)
    counts = [labels for labels in findings.labels if labels is not None]
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, [str(count) for count in counts])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(title=_verbatim(heading_of(metric, findings)), xlabel="labelled subjects")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    handles, names = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 3), frameon=False, fontsize=9)
    return encode_png(figure)


def _draw_arm(ax: Axes, findings: Findings, arm: str, metric: str, color: str) -> None:
    counts, means, spreads = [], [], []
    for labels in findings.labels:
        result = findings.result(labels, arm)
        score = result.over_all.get(metric) if result else None
        if labels is None or score is None or score.spread.mean is None:
            continue
        counts.append(labels)
        means.append(score.spread.mean)
        spreads.append(score.spread.sd or 0.0)
    if counts:
        ax.errorbar(counts, means, yerr=spreads, label=_verbatim(arm), color=color, marker="o", markersize=4, capsize=3)


def _verbatim(text: str) -> str:
    """A text that matplotlib takes neither for mathematics nor for a label to hide."""
    escaped = text.replace("\\", "\\\\").replace("$", "\\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
