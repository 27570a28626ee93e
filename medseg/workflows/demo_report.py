"""The page of the demonstration: one HTML file with its pictures inside."""

from __future__ import annotations

import base64
import os
import platform
import shlex
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg import __version__
from medseg.files import write_whole
from medseg.manifest import SECTIONS, Manifest
from medseg.workflows.demo_figures import TITLES, learning_curves, side_by_side

if TYPE_CHECKING:
    from medseg.workflows.demo import Result

STYLE = """
:root { color-scheme: light; --ink: #1c1e21; --soft: #5d636b; --line: #dfe2e6; }
body { margin: 0; background: #f6f6f4; color: var(--ink);
       font: 16px/1.55 system-ui, "Segoe UI", Helvetica, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
p { max-width: 46rem; }
.soft { color: var(--soft); }
figure { margin: 0; }
figure img { width: 100%; height: auto; border-radius: 8px; border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .35rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.4rem 0; }
.card { flex: 1 1 13rem; background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem; }
.card b { display: block; font-size: 2rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: #fff; width: 100%; font-size: .93rem; }
th, td { padding: .42rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
         font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr.all td { border-top: 2px solid var(--ink); font-weight: 650; }
.up { color: #1f7a3d; }
.down { color: #b3261e; }
pre { background: #1b1d20; color: #eceff2; padding: .9rem 1.1rem; border-radius: 8px; font-size: .8rem;
      white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def write_report(
    output: Path,
    manifest_path: Path,
    results: Mapping[str, Result],
    *,
    seed: int,
    quick: bool,
    seconds: Mapping[str, float],
) -> Path:
    """Write `report.html`.

    Args:
        output: folder of the demonstration.
        manifest_path: of the generated data.
        results: "supervised" and "dtc".
        seed: of everything.
        quick: whether it is the small one, whose figures mean nothing.
        seconds: "data" and "all".

    Returns:
        The page.
    """
    manifest = Manifest.load(manifest_path)
    runs = {method: result.run for method, result in results.items()}
    parts = [
        _head(manifest, results, quick),
        _table(results),
        "<h2>What they look like</h2>",
        _picture(
            side_by_side(manifest, runs, _shown(results)),
            "The test scans on which the methods differ most in favour of DTC, in the middle, and most in favour of "
            "supervised training. Soft-tissue window; the patient's right is on the left.",
        ),
        "<h2>How they learned</h2>",
        _picture(
            learning_curves(runs),
            f"Left: mean over {len(manifest.validation)} whole validation scans; the weights with the best figure are "
            "the ones that predict. Right: the two terms that both minimise on labelled patches; DTC has more.",
        ),
        _worst(results),
        _about(manifest, results, seed, seconds),
        _commands(results, seed, output, quick),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>medseg demonstration</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )
    return write_whole(output / "report.html", page)


def _head(manifest: Manifest, results: Mapping[str, Result], quick: bool) -> str:
    few, many = len(manifest.training), len(manifest.unlabeled)
    gain = results["dtc"].dice - results["supervised"].dice
    closed = gain / (1 - results["supervised"].dice)
    words = (
        f"In this run the unlabelled scans helped: {gain:.3f} more Dice, {closed:.0%} of the error that was left."
        if gain > 0
        else f"In this run the unlabelled scans did not help: {-gain:.3f} less Dice."
    )
    better, cases = _cases_better(results)
    note = '<p class="down"><b>A quick run: far too short to mean anything.</b></p>' if quick else ""
    cards = "".join(
        f'<div class="card"><span class="soft">{text}</span><b>{value:.3f}</b></div>'
        for text, value in (
            (f"supervised: {few} labelled scans", results["supervised"].dice),
            (f"DTC: the same {few} and {many} unlabelled", results["dtc"].dice),
        )
    )
    return f"""<h1>{few} labelled scans, {many} unlabelled ones</h1>
<p>The same small network was trained twice for the same number of steps on generated CT-like abdomens: once on the
{few} scans that have labels, once by <i>dual-task consistency</i> (DTC; Luo et al., AAAI 2021), which also looks at
{many} scans without any. Both then segmented {len(manifest.test)} scans that neither had seen, whose truth is
known.</p>{note}
<div class="cards">{cards}</div>
<p class="soft">Mean Dice over {len(manifest.labels) - 1} organs and {len(manifest.test)} test scans; 1 is perfect.</p>
<p>{words} DTC was better on {better} of {cases} test scans. It is one seed on few scans: differences of a few
hundredths are within what another seed would give.</p>"""


def _case_dice(result: Result) -> dict[str, float]:
    return {c["case"]: c["mean_dice"] for c in result.evaluation["cases"] if c["mean_dice"] is not None}


def _gains(results: Mapping[str, Result]) -> dict[str, float]:
    first, second = _case_dice(results["supervised"]), _case_dice(results["dtc"])
    return {name: second[name] - first[name] for name in first if name in second}


def _cases_better(results: Mapping[str, Result]) -> tuple[int, int]:
    gains = _gains(results)
    return sum(gain > 0 for gain in gains.values()), len(gains)


def _shown(results: Mapping[str, Result]) -> list[str]:
    gains = _gains(results)
    ranked = sorted(gains, key=lambda name: gains[name])
    return list(dict.fromkeys([ranked[-1], ranked[len(ranked) // 2], ranked[0]]))


def _table(results: Mapping[str, Result]) -> str:
    first, second = (results[m].evaluation for m in ("supervised", "dtc"))
    heads = ("organ", "Dice supervised", "Dice DTC", "difference", "HD95 mm supervised", "HD95 mm DTC",
             "surface Dice supervised", "surface Dice DTC")  # fmt: skip
    names = list(first["classes"])
    rows = "".join(_row(name, first["classes"][name], second["classes"][name]) for name in names)
    rows += _row("mean of organs", first["mean"], second["mean"], "all")
    head = "".join(f"<th>{text}</th>" for text in heads)
    tolerance = first["tolerance_mm"]
    return f"""<h2>By organ</h2><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>
<p class="soft">HD95: the larger of the two directed 95th percentiles, over the scans in which the organ was found at
all. Surface Dice: share of both surfaces within {tolerance:g} mm of the other. More figures, and what is missing:
<code>evaluation/metrics.md</code> in each folder of predictions.</p>"""


def _row(name: str, a: dict[str, Any], b: dict[str, Any], kind: str = "") -> str:
    dice = a["dice"]["mean"], b["dice"]["mean"]
    gain = None if None in dice else dice[1] - dice[0]
    color = "soft" if gain is None or abs(gain) < 0.0005 else "up" if gain > 0 else "down"
    cells = [
        *(_number(v, 3) for v in dice),
        f'<span class="{color}">{"" if gain is None else f"{gain:+.3f}"}</span>',
        *(_number(x["hd95_mm"]["mean"], 1) for x in (a, b)),
        *(_number(x["surface_dice"]["mean"], 3) for x in (a, b)),
    ]
    return f'<tr class="{kind}"><td>{escape(name)}</td>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _picture(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    words = escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def _worst(results: Mapping[str, Result]) -> str:
    result = results["dtc"]
    caption = "Worst, median and best test case of DTC; broad line: truth, thin line: prediction."
    return "<h2>Where DTC fails</h2>" + _picture(result.picture.read_bytes(), caption)


def _about(manifest: Manifest, results: Mapping[str, Result], seed: int, seconds: Mapping[str, float]) -> str:
    rows = "".join(
        f"<tr><td>{TITLES[method]}</td>" + "".join(f"<td>{_time(s)}</td>" for s in result.seconds.values()) + "</tr>"
        for method, result in results.items()
    )
    heads = "".join(f"<th>{text}</th>" for text in ("", *next(iter(results.values())).seconds))
    scans = sum(len(getattr(manifest, section)) for section in SECTIONS)
    return f"""<h2>What was done, and how long it took</h2>
<p>The scans are generated, seed {seed}: bodies that differ in build, contrast phase, breathing and the place and size
of every organ, with bowel, ribs, lungs and a table around them, partial volume, and noise that grows with what the
rays pass through. The truth of the unlabelled scans exists (<code>data/hidden</code>) and was used by nobody. What
works here need not work on patients.</p>
<div class="scroll"><table><tr>{heads}</tr>{rows}</table></div>
<p class="soft">Generating {scans} scans: {_time(seconds["data"])}; everything: {_time(seconds["all"])}.
{escape(machine())}.</p>"""


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def machine() -> str:
    """What this ran on, in one line."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = [line.split(":", 1)[1] for line in info.read_text().splitlines() if line.startswith("model name")]
        name = found[0].strip() if found else name
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{name}, {os.cpu_count()} cores, {device}; Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"medseg {__version__}"
    )


def _commands(results: Mapping[str, Result], seed: int, output: Path, quick: bool) -> str:
    whole = shlex.join(["medseg", "demo", "--output", str(output), "--seed", str(seed), *["--quick"] * quick])
    steps = "\n".join(escape("\n".join(result.commands)) for result in results.values())
    return f"""<h2>The same by hand</h2>
<pre>{escape(whole)}</pre>
<p>does all of it. Step by step, once the data is there; choose other folders, since no run is overwritten:</p>
<pre>{steps}</pre>"""
