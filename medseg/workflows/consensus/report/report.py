"""The report of one fused study for those who have to decide whether to use it: one HTML file, nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from medseg.consensus.io.write_results import write_bytes
from medseg.workflows.consensus.report import sections
from medseg.workflows.consensus.report.crop import Scene, scene_of
from medseg.workflows.consensus.report.figures import draw
from medseg.workflows.consensus.report.sections import (
    about_method,
    about_rater,
    amount,
    hue_marks,
    size_against_consensus,
    units,
)
from medseg.workflows.consensus.report.viewer import viewer
from medseg.workflows.consensus.result import Result
from medseg.workflows.reports.formatting import format_number as number
from medseg.workflows.reports.html import card, page, picture, table

STYLE = """<style>
.note { background: #fff7e0; border: 1px solid #ecd48a; border-radius: 8px; padding: .6rem 1rem; }
.limits { background: #fdecea; border: 1px solid #e7b3ae; border-radius: 8px; padding: .5rem 1rem; font-weight: 600; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .45em 0 0;
          vertical-align: baseline; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.bar { display: inline-block; height: .6em; background: #4a6fa5; margin-right: .5em; border-radius: 2px;
       print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.name { white-space: nowrap; }
td.words { text-align: left; }
li { margin: .25rem 0; max-width: 46rem; }
#viewer-canvas { width: 100%; border-radius: 8px; background: #111315; }
#viewer-controls label { margin-right: 1.2rem; white-space: nowrap; }
#viewer-controls input { margin-right: .4rem; }
button { font: inherit; padding: .4rem 1rem; border-radius: 8px; border: 1px solid #4a6fa5; background: #4a6fa5;
         color: #fff; cursor: pointer; }
button:disabled { opacity: .6; }
code { overflow-wrap: anywhere; }
@media print {
  html { font-size: 10px; }
  body { background: #fff; font-size: 10px; }
  main { max-width: none; padding: 0; }
  p, li { max-width: none; }
  h2 { margin-top: 1.2rem; break-after: avoid; }
  figure, table, .card, .note, .limits { break-inside: avoid; }
  .viewer { display: none; }
  .scroll { overflow: visible; }
}
</style>"""


def write_page(path: Path, result: Result, *, viewer: bool = True) -> Path:
    """Write the report.

    Args:
        path: HTML file.
        result: of one study.
        viewer: with the interactive viewer, for volumes.

    Raises:
        OutputError: it cannot be written.
    """
    title = f"Consensus of {len(result.study.raters)} annotations: {result.report['case']}"
    return write_bytes(path, page(title, _parts(result, title, with_viewer=viewer)))


def _parts(result: Result, title: str, *, with_viewer: bool) -> list[str]:
    report, scene = result.report, scene_of(result)
    parts = [
        STYLE,
        f"<h1>{escape(title)}</h1>",
        '<p class="limits">Not for diagnostic use. A research tool made this; look at the images yourself.</p>',
        _cards(result),
        _summary(result),
        _warnings(report["warnings"]),
        _raters(result),
        _pictures(result, scene),
    ]
    if with_viewer and not result.form.flat and not scene.picture:
        parts.append(viewer(result, scene))
    parts += [
        sections.agreement(report, hue_marks(result)),
        sections.classes(result),
        sections.comparison(report),
        sections.limits(),
        sections.made(result),
    ]
    return [part for part in parts if part]


def _contradicted(result: Result) -> float:
    return float(np.count_nonzero(result.disagreement) * np.prod(result.study.spacing_mm)) / 1000


def _cards(result: Result) -> str:
    report, (measure, factor, _) = result.report, units(result)
    cards = [card("raters", str(len(result.study.raters)))]
    shown = sorted(report["volumes_ml"].items(), key=lambda pair: -pair[1])[:2]
    cards += [card(f"{name}, {measure}", amount(value * factor)) for name, value in shown]
    cards.append(card(f"contradicted, {measure}", amount(_contradicted(result) * factor)))
    cards.append(card("mean Dice between raters", number(_mean_dice(report), 2)))
    return f'<div class="cards">{"".join(cards)}</div>'


def _mean_dice(report: dict[str, Any]) -> float | None:
    matrix = report["agreement"]["pairwise_dice"]["mean"]
    values = [v for i, row in enumerate(matrix) for v in row[i + 1 :] if v is not None]
    return float(np.mean(values)) if values else None


def _summary(result: Result) -> str:
    report, (measure, factor, _) = result.report, units(result)
    names = ", ".join(escape(e.name) for e in result.study.raters)
    classes = ", ".join(escape(c) for c in result.structures) or "none"
    words = [
        f"Annotations of {names} were fused into one label map by <b>{escape(report['method'])}</b>; structures: "
        f"{classes}. {about_method(report['method'])}"
    ]
    whole = sum(report["volumes_ml"].values()) * factor
    apart = _contradicted(result) * factor
    if apart and whole:
        words.append(
            f"They contradict one another on {amount(apart)} {measure}; the consensus has {amount(whole)} {measure}."
        )
    elif whole:
        words.append("They nowhere contradict one another, so that there was nothing to decide.")
    rho = report.get("rho")
    if rho is not None and rho < 0.3:
        words.append("The image hardly tells the raters apart, so that they count nearly alike.")
    return "".join(f"<p>{text}</p>" for text in words)


def _warnings(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return (
        '<div class="note"><b>To know</b><ul>' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul></div>"
    )


def _raters(result: Result) -> str:
    report, marks, (_, _, length) = result.report, hue_marks(result), units(result)
    weights = [float(row["weight"]) for row in report["raters"]]
    judged = any(row.get("self_consistency") is not None for row in report["raters"])
    heads = ["rater", "weight", *(["follows the image"] if judged else []), "Dice", f"HD95 {length}",
             "surface Dice", "size against consensus", "annotated"]  # fmt: skip
    rows, lines = [], []
    for row, found in zip(report["raters"], report["against_consensus"], strict=True):
        overall, weight = found["overall"], float(row["weight"])
        bias = size_against_consensus(overall)
        share = weight / (sum(weights) or 1)
        cells = [
            marks[row["name"]],
            f'<span class="name"><span class="bar" style="width:{4 * share:.2f}em"></span>{share:.0%}</span>',
        ]
        cells += [number(row.get("self_consistency"), 2)] if judged else []
        cells += [number(overall["dice"], 3), number(overall["hd95_mm"], 1), number(overall["surface_dice"], 3)]
        rows.append([*cells, "-" if bias is None else f"{bias:+.0f} %", f"{found['coverage']:.0%}"])
        lines.append(f"<li>{marks[row['name']]}: {about_rater(row, found, weights, found['coverage'])}</li>")
    why = (
        " <i>Follows the image</i> is the self-consistency: how well what a rater drew in one part can be told from "
        "what the same rater drew on similar tissue elsewhere; 1 is perfect, "
        f"{1 / max(len(result.study.classes), 2):.2g} is chance."
        if judged
        else ""
    )
    tolerance = report["request"]["tolerance_mm"]
    return f"""<h2>Who was trusted, and why</h2>{table(heads, rows)}<ul>{"".join(lines)}</ul>
<p class="soft">Dice, HD95 and surface Dice (within {tolerance:g} {length}) compare each rater with the consensus,
where the rater annotated; that is agreement with the result, not proof of being right. <i>Annotated</i> is the share
of the region round all labels.{why}</p>"""


def _pictures(result: Result, scene: Scene) -> str:
    drawn = draw(result, scene)
    if drawn is None:
        return ""
    image, words = drawn
    right = "" if scene.picture else " The patient's right is on the left."
    caption = (
        "Left: the raters' outlines. Middle: the consensus. Right: the share of the votes that won; "
        "dark red is unsure, without colour all agree. " + " ".join(words) + right
    )
    return f"<h2>Where they disagree most</h2>{picture(image, caption)}"
