"""Parts of the report after the pictures: agreement, structures, other methods, limits, and how it was made."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from matplotlib.colors import to_hex

from medseg import __version__
from medseg.consensus.study import MISSING
from medseg.workflows.consensus.report.figures import hues
from medseg.workflows.consensus.result import Result
from medseg.workflows.reports.formatting import format_number as number
from medseg.workflows.reports.html import table


def hue_marks(result: Result) -> dict[str, str]:
    """Each rater's name beside the colour of the outlines."""
    return {
        rater.name: '<span class="name"><span class="swatch" style="background:'
        f'{to_hex(hue)}"></span>{escape(rater.name)}</span>'
        for rater, hue in zip(result.study.raters, hues(result), strict=True)
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
    if len(found["raters"]) < 2:
        return ""
    rows = [
        [marks[name], *("" if i == j else number(value, 3) for j, value in enumerate(line))]
        for i, (name, line) in enumerate(zip(found["raters"], found["pairwise_dice"]["mean"], strict=True))
    ]
    lines = []
    for key, name in (("krippendorff_alpha", "Krippendorff's alpha"), ("fleiss_kappa", "Fleiss' kappa")):
        overall = found[key]["overall"]
        value, low, high = (overall[k] for k in ("value", "low", "high"))
        interval = "" if low is None else f" (95 % interval {low:.2f} to {high:.2f})"
        lines.append(f"<li>{name}: {number(value, 3)}{interval}, {about_agreement(value)}.</li>")
    matrix = table(["Dice", *(escape(name) for name in found["raters"])], rows)
    return f"""<h2>How far the raters agree with one another</h2>{matrix}<ul>{"".join(lines)}</ul>
<p class="soft">1 is full agreement, 0 is what chance gives; words by Landis and Koch. Both grow with the background
that is looked at: here the region round all labels, {found["box_voxels"]} voxels. Kappa counts only voxels that
everybody annotated.</p>"""


def classes(result: Result) -> str:
    """Each rater against the consensus, for each structure; nothing if there is one."""
    report, (measure, factor, length) = result.report, units(result)
    if len(result.structures) < 2:
        return ""
    marks, rows = hue_marks(result), []
    for name in result.structures:
        for entry in report["against_consensus"]:
            row = entry["classes"][name]
            volumes = [f"{amount(row[key] * factor)}" for key in ("rater_ml", "consensus_ml")]
            figures = [number(row["sensitivity"], 3), number(row["precision"], 3), number(row["dice"], 3)]
            rows.append([escape(name), marks[entry["rater"]], *figures, number(row["hd95_mm"], 1), *volumes])
    heads = ("structure", "rater", "sensitivity", "precision", "Dice", f"HD95 {length}", f"rater {measure}",
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
    gaps = [e.name for e in result.study.raters if (e.labels == MISSING).any()]
    rows.append(("not everything annotated", escape(", ".join(gaps)) or "nobody left anything out"))
    rows.append(("versions", escape(", ".join(f"{k} {v}" for k, v in report["versions"].items() if v))))
    body = "".join(f'<tr><td>{key}</td><td class="words">{value}</td></tr>' for key, value in rows)
    return f"""<h2>What was done</h2><div class="scroll"><table>{body}</table></div>
<p class="soft">medseg {__version__}. All figures are in <code>report.json</code>, <code>raters.csv</code> and
<code>pairwise.csv</code> beside this file.</p>"""


def _settings(report: dict[str, Any]) -> str:
    known = report.get("settings") or report["request"]["fusing"]
    return ", ".join([report["method"], *(f"{k} {v}" for k, v in known.items())])


METHODS = {
    "gcssl": (
        "Raters count by how consistently their outlines follow the image. Where a rater left something out, what "
        "the same rater drew on similar tissue stands in. Voxels on which all agree are kept; the contradicted ones "
        "are decided together, so that boundaries are short and prefer edges of the image."
    ),
    "majority": "Each voxel got the label that most raters who annotated it gave; nobody counts more than another.",
    "staple": "Raters count by an estimate of their sensitivity and specificity, found together with the answer.",
    "ml-staple": "Raters count by an estimate of how they confuse classes, found together with the answer.",
    "simple": "Raters who differ much from the current estimate are dropped, round by round; the others vote.",
    "sba": "The outlines were averaged as distances to the boundary; nobody counts more than another.",
}

SAME_SIZE = 3.0
"""Per cent by which a volume may differ and still count as the same."""

NOT_TO_TRUST = (
    "<b>Shared mistakes.</b> If most raters are wrong in the same way, every method follows them.",
    "<b>No contrast.</b> Where the image shows no edge, nothing tells raters apart; the result is close to a vote.",
    "<b>Consistent bias.</b> Somebody who always draws two millimetres too wide is consistent, and hardly punished.",
    "<b>Fine structures.</b> Short boundaries are preferred, less so where structures are thin; what is a voxel or two "
    "wide can still be lost. A lower smoothness keeps more of it.",
    "<b>Two raters.</b> With two there is no majority; where they contradict one another the image decides alone.",
    "<b>Confidence is not probability.</b> It is the share of the votes that the label won, not the chance of its "
    "being right.",
)


def about_method(method: str) -> str:
    """One or two sentences on how a method decides; empty for one that is not known here."""
    return METHODS.get(method, "")


def about_rater(row: dict[str, Any], table: dict[str, Any], rivals: list[float], region: float) -> str:
    """What is known of one rater.

    Args:
        row: of `raters` in the report.
        table: of `against_consensus` in the report.
        rivals: weights of all raters.
        region: share of the labelled region that the rater annotated.
    """
    words = [_trust(float(row["weight"]), rivals)]
    if row.get("kappa") is not None:
        words.append(_consistency(float(row["kappa"])))
    bias = size_against_consensus(table["overall"])
    if row.get("empty"):
        words.append("found nothing, which counts as a vote against every structure")
    elif bias is not None:
        words.append(_size(bias))
    if region < 0.995:
        words.append(f"annotated {region:.0%} of the region")
    return "; ".join(w for w in words if w) + "."


def size_against_consensus(overall: dict[str, Any]) -> float | None:
    """By how many per cent a rater's structures together are larger than the consensus."""
    whole = overall["consensus_ml"]
    return 100 * (overall["rater_ml"] / whole - 1) if whole else None


def _trust(weight: float, rivals: list[float]) -> str:
    if max(rivals) - min(rivals) <= 0.02 * sum(rivals) / len(rivals):
        return "counts like the others"
    if weight <= 0.05 * max(rivals):
        return "hardly counts"
    if weight == max(rivals):
        return "counts most"
    return "counts least" if weight == min(rivals) else "counts in between"


def _consistency(kappa: float) -> str:
    if kappa >= 0.8:
        return "the outlines follow the image very consistently"
    if kappa >= 0.5:
        return "the outlines follow the image fairly consistently"
    if kappa >= 0.2:
        return "the outlines follow the image only loosely"
    return "the outlines have little to do with what the image shows"


def _size(bias: float) -> str:
    if abs(bias) <= SAME_SIZE:
        return "draws as much as the consensus"
    return f"draws {abs(bias):.0f} % {'more' if bias > 0 else 'less'} than the consensus"


def about_agreement(value: float | None) -> str:
    """The usual words for kappa and alpha (Landis and Koch), which are a convention and no more."""
    if value is None:
        return "cannot be computed"
    steps = ((0.0, "no better than chance"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
    return next((word for limit, word in steps if value <= limit), "almost perfect")
