"""The page of the demonstration: one HTML file with its pictures inside."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.atomic import write_whole
from medseg.manifest.manifest import SECTIONS, Manifest
from medseg.workflows.demo.figures import TITLES, side_by_side
from medseg.workflows.reports.formatting import describe_computer as machine
from medseg.workflows.reports.formatting import format_duration as duration
from medseg.workflows.reports.formatting import format_number as number
from medseg.workflows.reports.html import card, page, picture, table

if TYPE_CHECKING:
    from medseg.workflows.demo.result import Result


@dataclass(frozen=True)
class Report:
    """What the page tells.

    Args:
        output: folder of the demonstration.
        manifest_path: of the generated data.
        results: "supervised" and "dmpct".
        pseudo_labels: round -> their mean Dice with the hidden truth.
        training: the command.
        seconds: "data", "training" and "all".
        seed: of everything.
        quick: whether it is the small one, whose figures mean nothing.
    """

    output: Path
    manifest_path: Path
    results: Mapping[str, Result]
    pseudo_labels: Mapping[int, float]
    training: str
    seconds: Mapping[str, float]
    seed: int
    quick: bool

    @property
    def run(self) -> Path:
        """Folder of the training."""
        return self.output / "dmpct"

    def dice(self, method: str) -> float:
        """On the test scans."""
        return self.results[method].dice


def write_report(report: Report) -> Path:
    """Write `report.html` and return it."""
    manifest = Manifest.load(report.manifest_path)
    folders = {method: result.predictions for method, result in report.results.items()}
    parts = [
        _head(manifest, report),
        _table(report.results),
        "<h2>What they look like</h2>",
        picture(
            side_by_side(manifest, folders, _shown(report.results)),
            "The test scans that gained most from the rounds, a middle gain, and least or lost most. Soft-tissue "
            "window; the patient's right is on the left.",
        ),
        _rounds(report),
        _worst(report.results),
        _about(manifest, report),
        _commands(report),
    ]
    return write_whole(report.output / "report.html", page("medseg demonstration", parts))


def _head(manifest: Manifest, report: Report) -> str:
    few, many = len(manifest.training), len(manifest.unlabeled)
    gain = report.dice("dmpct") - report.dice("supervised")
    closed = gain / (1 - report.dice("supervised"))
    words = (
        f"In this run the unlabelled scans helped: {gain:.3f} more Dice, {closed:.0%} of the error that was left."
        if gain > 0
        else f"In this run the unlabelled scans did not help: {-gain:.3f} less Dice."
    )
    better, cases = _cases_better(report.results)
    note = '<p class="down"><b>A quick run: far too short to mean anything.</b></p>' if report.quick else ""
    cards = card(f"supervised: {few} labelled scans", f"{report.dice('supervised'):.3f}")
    cards += card(f"DMPCT: the same {few} and {many} unlabelled", f"{report.dice('dmpct'):.3f}")
    return f"""<h1>{few} labelled scans, {many} unlabelled ones</h1>
<p>Three small 2D networks, one for each plane, were trained on generated CT-like abdomens: first on the {few} scans
that have labels. That is the supervised baseline; the three vote. Then by <i>deep multi-planar co-training</i> (DMPCT;
Zhou et al., WACV 2019) their votes labelled {many} scans that have no labels, and three new networks learned from all
of them for the same number of steps; and once more. Both then segmented {len(manifest.test)} scans that none had seen,
whose truth is known.</p>{note}
<div class="cards">{cards}</div>
<p class="soft">Mean Dice over {len(manifest.labels) - 1} organs and {len(manifest.test)} test scans; 1 is perfect.</p>
<p>{words} DMPCT was better on {better} of {cases} test scans. It is one seed on few scans: differences of a few
hundredths are within what another seed would give.</p>"""


def _case_dice(result: Result) -> dict[str, float]:
    return {c["case"]: c["mean_dice"] for c in result.evaluation["cases"] if c["mean_dice"] is not None}


def _gains(results: Mapping[str, Result]) -> dict[str, float]:
    first, second = _case_dice(results["supervised"]), _case_dice(results["dmpct"])
    return {name: second[name] - first[name] for name in first if name in second}


def _cases_better(results: Mapping[str, Result]) -> tuple[int, int]:
    gains = _gains(results)
    return sum(gain > 0 for gain in gains.values()), len(gains)


def _shown(results: Mapping[str, Result]) -> list[str]:
    gains = _gains(results)
    ranked = sorted(gains, key=lambda name: gains[name])
    return list(dict.fromkeys([ranked[-1], ranked[len(ranked) // 2], ranked[0]]))


def _table(results: Mapping[str, Result]) -> str:
    first, second = (results[m].evaluation for m in ("supervised", "dmpct"))
    heads = ("organ", "Dice supervised", "Dice DMPCT", "difference", "HD95 mm supervised", "HD95 mm DMPCT",
             "surface Dice supervised", "surface Dice DMPCT")  # fmt: skip
    rows = [_row(name, first["classes"][name], second["classes"][name]) for name in first["classes"]]
    rows.append(_row("mean of organs", first["mean"], second["mean"]))
    tolerance = first["tolerance_mm"]
    return f"""<h2>By organ</h2>{table(heads, rows, last=True)}
<p class="soft">HD95: the larger of the two directed 95th percentiles, over the scans in which the organ was found at
all. Surface Dice: share of both surfaces within {tolerance:g} mm of the other. More figures, and what is missing:
<code>evaluation/metrics.md</code> in each folder of predictions.</p>"""


def _row(name: str, a: dict[str, Any], b: dict[str, Any]) -> tuple[str, ...]:
    dice = a["dice"]["mean"], b["dice"]["mean"]
    gain = None if None in dice else dice[1] - dice[0]
    color = "soft" if gain is None or abs(gain) < 0.0005 else "up" if gain > 0 else "down"
    return (
        escape(name),
        *(number(v, 3) for v in dice),
        f'<span class="{color}">{"" if gain is None else f"{gain:+.3f}"}</span>',
        *(number(x["hd95_mm"]["mean"], 1) for x in (a, b)),
        *(number(x["surface_dice"]["mean"], 3) for x in (a, b)),
    )


def _rounds(report: Report) -> str:
    """Validation and pseudo-labels round by round."""
    rows = [(f"round {n}", number(dice, 3)) for n, dice in report.pseudo_labels.items()]
    curves = picture(
        (report.run / "summary.png").read_bytes(),
        "Left: the planes and their vote on whole validation scans; round 0 is the supervised baseline. Middle and "
        "right: the pseudo-labels, as a run on real data can see them, without truth.",
    )
    words = (
        "The pseudo-labels against the hidden truth of the unlabelled scans, which exists since the scans are "
        "generated, and which only this table used:"
    )
    return (
        f"<h2>Round by round</h2>{curves}<p>{words}</p>"
        + table(("pseudo-labels of", "mean Dice"), rows)
        + '<p class="soft">With pictures of the pseudo-labels and where the planes disagree: '
        "<code>dmpct/summary.html</code>.</p>"
    )


def _worst(results: Mapping[str, Result]) -> str:
    result = results["dmpct"]
    caption = "Worst, median and best test case of DMPCT; broad line: truth, thin line: prediction."
    return "<h2>Where DMPCT fails</h2>" + picture(result.picture.read_bytes(), caption)


def _about(manifest: Manifest, report: Report) -> str:
    scans = sum(len(getattr(manifest, section)) for section in SECTIONS)
    rows = [
        (f"generating {scans} scans", duration(report.seconds["data"])),
        (f"training {_trainings(report)} networks, with all pseudo-labels", duration(report.seconds["training"])),
    ]
    for method, result in report.results.items():
        rows += [(f"{step}, {TITLES[method]}", duration(seconds)) for step, seconds in result.seconds.items()]
    return f"""<h2>What was done, and how long it took</h2>
<p>The scans are generated, seed {report.seed}: bodies that differ in build, contrast phase, breathing and the place and
size of every organ, with bowel, ribs, lungs and a table around them, partial volume, and noise that grows with what the
rays pass through. What works here need not work on patients.</p>
{table(("", ""), [*rows, ("everything", duration(report.seconds["all"]))], last=True)}
<p class="soft">{escape(machine())}.</p>"""


def _trainings(report: Report) -> int:
    return len(list(report.run.glob("round*/*/last.pt")))


def _commands(report: Report) -> str:
    options = ["--output", str(report.output), "--seed", str(report.seed), *["--quick"] * report.quick]
    whole = shlex.join(["medseg", "demo", *options])
    steps = "\n".join([report.training, *(line for result in report.results.values() for line in result.commands)])
    return f"""<h2>The same by hand</h2>
<pre>{escape(whole)}</pre>
<p>does all of it. Step by step, once the data is there; choose other folders, since no run is overwritten:</p>
<pre>{escape(steps)}</pre>"""
