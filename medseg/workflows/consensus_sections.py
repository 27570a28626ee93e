"""Parts of the report after the pictures: agreement, structures, other methods, limits, and how it was made."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from matplotlib.colors import to_hex

from medseg import __version__
from medseg.consensus.study import MISSING
from medseg.workflows.consensus_pictures import hues
from medseg.workflows.consensus_result import Result
from medseg.workflows.consensus_words import NOT_TO_TRUST, about_agreement
from medseg.workflows.page import number, table


def hue_marks(result: Result) -> dict[str, str]:
    """Each expert's name beside the colour of the outlines."""
    return {
        expert.name: '<span class="name"><span class="swatch" style="background:'
        f'{to_hex(hue)}"></span>{escape(expert.name)}</span>'
        for expert, hue in zip(result.study.experts, hues(result), strict=True)
    }


def units(result: Result) -> tuple[str, float, str]:
    """Of areas or volumes: its name, how many are a millilitre, and the unit of lengths."""
    pixels = result.form.suffix in (".png", ".tif")
    return ("pixels", 1000.0, "pixels") if pixels else ("ml", 1.0, "mm")


def amount(value: float) -> str:
    """A volume with as many digits as it deserves."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def agreement(report: dict[str, Any], marks: dict[str, str]) -> str:
    """Pairwise Dice, alpha and kappa."""
    found = report["agreement"]
    if len(found["experts"]) < 2:
        return ""
    rows = [
        [marks[name], *("" if i == j else number(value, 3) for j, value in enumerate(line))]
        for i, (name, line) in enumerate(zip(found["experts"], found["pairwise_dice"]["mean"], strict=True))
    ]
    lines = []
    for key, name in (("krippendorff_alpha", "Krippendorff's alpha"), ("fleiss_kappa", "Fleiss' kappa")):
        overall = found[key]["overall"]
        value, low, high = (overall[k] for k in ("value", "low", "high"))
        interval = "" if low is None else f" (95 % interval {low:.2f} to {high:.2f})"
        lines.append(f"<li>{name}: {number(value, 3)}{interval}, {about_agreement(value)}.</li>")
    matrix = table(["Dice", *(escape(name) for name in found["experts"])], rows)
    return f"""<h2>How far the experts agree with one another</h2>{matrix}<ul>{"".join(lines)}</ul>
<p class="soft">1 is full agreement, 0 is what chance gives; words by Landis and Koch. Both grow with the background
that is looked at: here the region round all labels, {found["field_voxels"]} voxels. Kappa counts only voxels that
everybody annotated.</p>"""


def classes(result: Result) -> str:
    """Each expert against the consensus, for each structure; nothing if there is one."""
    report, (measure, factor, length) = result.report, units(result)
    if len(result.structures) < 2:
        return ""
    marks, rows = hue_marks(result), []
    for name in result.structures:
        for entry in report["against_consensus"]:
            row = entry["classes"][name]
            volumes = [f"{amount(row[key] * factor)}" for key in ("expert_ml", "consensus_ml")]
            figures = [number(row["sensitivity"], 3), number(row["precision"], 3), number(row["dice"], 3)]
            rows.append([escape(name), marks[entry["expert"]], *figures, number(row["hd95_mm"], 1), *volumes])
    heads = ("structure", "expert", "sensitivity", "precision", "Dice", f"HD95 {length}", f"expert {measure}",
             f"consensus {measure}")  # fmt: skip
    return f"<h2>Structure by structure</h2>{table(heads, rows)}"


def comparison(report: dict[str, Any]) -> str:
    """What other methods say, and how near each is to the truth where that was given."""
    rows = report.get("comparison", [])
    if not rows:
        return ""
    true = any("dice_to_reference" in row for row in rows)
    heads = [
        "method",
        "Dice with this one",
        *(["Dice with the reference"] if true else []),
        "voxels that differ",
        "seconds",
    ]
    cells = []
    for row in rows:
        if row["error"]:
            cells.append(
                [escape(row["method"]), f'<span class="soft">{escape(row["error"])}</span>', *[""] * (len(heads) - 2)]
            )
            continue
        scores = [row["dice_to_chosen"], *([row["dice_to_reference"]] if true else [])]
        numbers = [number(score["mean"], 4) for score in scores]
        cells.append([escape(row["method"]), *numbers, str(row["differing_voxels"]), number(row["seconds"], 2)])
    shown = "The reference was shown to no method. " if true else ""
    return f"""<h2>Other methods on the same annotations</h2>{table(heads, cells)}
<p class="soft">{shown}Each with its own defaults. Where methods differ little, the choice matters little.</p>"""


def limits() -> str:
    """When not to trust a consensus."""
    return "<h2>When not to trust this</h2><ul>" + "".join(f"<li>{text}</li>" for text in NOT_TO_TRUST) + "</ul>"


def made(result: Result) -> str:
    """What went in, and how."""
    report, form = result.report, result.form
    files = [*(Path(p).name for p in report["inputs"]["image"])]
    rows = [("image", ", ".join(map(escape, files)) or "none")]
    rows += [
        (escape(name), ", ".join(escape(Path(p).name) for p in paths))
        for name, paths in report["inputs"]["annotations"].items()
    ]
    size = " x ".join(map(str, result.study.shape))
    spacing = " x ".join(f"{mm:.4g}" for mm in result.study.spacing_mm)
    pixels = form.suffix in (".png", ".tif")
    rows.append(("grid", f"{size} pixels" if pixels else f"{size} voxels of {spacing} mm"))
    rows.append(("settings", escape(_settings(report))))
    gaps = [e.name for e in result.study.experts if (e.labels == MISSING).any()]
    rows.append(("not everything annotated", escape(", ".join(gaps)) or "nobody left anything out"))
    rows.append(("versions", escape(", ".join(f"{k} {v}" for k, v in report["versions"].items() if v))))
    body = "".join(f'<tr><td>{key}</td><td class="words">{value}</td></tr>' for key, value in rows)
    return f"""<h2>What was done</h2><div class="scroll"><table>{body}</table></div>
<p class="soft">medseg {__version__}. All figures are in <code>report.json</code>, <code>experts.csv</code> and
<code>pairwise.csv</code> beside this file.</p>"""


def _settings(report: dict[str, Any]) -> str:
    known = report.get("settings") or report["request"]["fusing"]
    return ", ".join([report["method"], *(f"{k} {v}" for k, v in known.items())])
