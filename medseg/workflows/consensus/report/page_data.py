"""Numbers and words of the report page, as its template takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from medseg.consensus.study import MISSING
from medseg.workflows.consensus.report.crop import is_photograph
from medseg.workflows.consensus.report.descriptions import describe_rater, size_difference
from medseg.workflows.consensus.report.figures import rater_colors
from medseg.workflows.consensus.result import Result
from medseg.workflows.reports.formatting import format_number

COEFFICIENTS = {"krippendorff_alpha": "Krippendorff's alpha", "fleiss_kappa": "Fleiss' kappa"}


@dataclass(frozen=True)
class Units:
    """In which sizes and lengths are shown.

    Args:
        size: unit of areas or volumes.
        per_ml: how many of it are a millilitre.
        length: unit of lengths.
    """

    size: str
    per_ml: float
    length: str


@dataclass(frozen=True)
class Mark:
    """A rater's name and the colour of the outlines, as CSS has it."""

    name: str
    color: str


@dataclass(frozen=True)
class RaterRow:
    """What is shown of a rater; numbers are None where they cannot be computed.

    Args:
        mark: name and colour.
        weight: share of all weights.
        self_consistency: how well the outlines follow the image, in [0, 1].
        dice: with the consensus, like the next two.
        hd95: 95th percentile of the Hausdorff distance.
        surface_dice: share of both surfaces within the tolerance.
        size_difference: per cent by which the structures are larger than the consensus.
        annotated: share of the region that the rater annotated.
        description: the same in words.
    """

    mark: Mark
    weight: float
    self_consistency: float | None
    dice: float | None
    hd95: float | None
    surface_dice: float | None
    size_difference: float | None
    annotated: float
    description: str


@dataclass(frozen=True)
class Agreement:
    """Agreement between raters.

    Args:
        marks: of the raters.
        dice: a row for each rater with the Dice of each other one; empty text for oneself.
        coefficients: a sentence for each.
        region_voxels: voxels that were looked at.
    """

    marks: Sequence[Mark]
    dice: Sequence[Sequence[str]]
    coefficients: Sequence[str]
    region_voxels: int


@dataclass(frozen=True)
class StructureRow:
    """One structure: its size in the consensus, and the Dice of each rater with the consensus, as text."""

    structure: str
    size: str
    cells: Sequence[str]


@dataclass(frozen=True)
class ComparedMethod:
    """Another method on the same annotations: its metrics as text, or why there are none."""

    method: str
    cells: Sequence[str]
    error: str | None


@dataclass(frozen=True)
class Comparison:
    """All methods on the same annotations.

    Args:
        rows: one for each method.
        with_reference: whether a reference was given, so that each has a Dice with it.
    """

    rows: Sequence[ComparedMethod]
    with_reference: bool


def units(result: Result) -> Units:
    """Pixels for photographs, millilitres and millimetres for all else."""
    if is_photograph(result):
        return Units("pixels", 1000.0, "pixels")
    return Units("ml", 1.0, "mm")


def format_size(value: float) -> str:
    """An area or volume with three significant digits, or all before the decimal point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def marks(result: Result) -> dict[str, Mark]:
    """Each rater's name and colour."""
    found = {}
    for rater, color in zip(result.study.raters, rater_colors(result), strict=True):
        found[rater.name] = Mark(rater.name, to_hex(color))
    return found


def cards(result: Result) -> list[tuple[str, str]]:
    """Words and value of each number that is shown first."""
    shown = units(result)
    volumes = result.report["volumes_ml"]
    largest = sorted(volumes, key=lambda name: -volumes[name])[:2]
    found = [("raters", str(len(result.study.raters)))]
    for name in largest:
        found.append((f"{name}, {shown.size}", format_size(volumes[name] * shown.per_ml)))
    found.append((f"contradicted, {shown.size}", format_size(_contradicted_ml(result) * shown.per_ml)))
    found.append(("mean Dice between raters", format_number(result.mean_pairwise_dice, 2)))
    return found


def _contradicted_ml(result: Result) -> float:
    voxel_ml = np.prod(result.study.spacing_mm) / 1000
    return float(np.count_nonzero(result.disagreement) * voxel_ml)


def findings(result: Result) -> list[str]:
    """Sentences on the size of the whole consensus, and whether the image told the raters apart."""
    shown = units(result)
    consensus = sum(result.report["volumes_ml"].values()) * shown.per_ml
    sentences = []
    if len(result.structures) > 1 and consensus:
        sentences.append(f"All structures of the consensus together have {format_size(consensus)} {shown.size}.")
    if consensus and not _contradicted_ml(result):
        sentences.append("They nowhere contradict one another, so that there was nothing to decide.")
    rho = result.report.get("rho")
    if rho is not None and rho < 0.3:
        sentences.append("The image hardly tells the raters apart and has next to no say in their weights.")
    return sentences


def oddities(result: Result) -> list[str]:
    """What the consensus lacks, and sentences on what is odd about raters; that there are two only is odd enough."""
    sentences = [f"{clause[0].upper()}{clause[1:]}." for clause in result.lacking]
    sentences += [entry["text"] for entry in result.report["oddities"]]
    if len(result.study.raters) == 2:
        decides = "the image decides" if result.report["method"] == "gcssl" else "nothing tells who is right"
        sentences.append(
            f"There are two raters only: where they contradict one another there is no majority, and {decides}."
        )
    return sentences


def rater_rows(result: Result) -> list[RaterRow]:
    """Each rater's weight, and what it is compared with the consensus."""
    report, mark_of = result.report, marks(result)
    weights = [float(rater["weight"]) for rater in report["raters"]]
    total = sum(weights) or 1
    rows = []
    for rater, metrics in zip(report["raters"], report["against_consensus"], strict=True):
        overall, annotated = metrics["overall"], metrics["coverage"]
        row = RaterRow(
            mark=mark_of[rater["name"]],
            weight=float(rater["weight"]) / total,
            self_consistency=rater.get("self_consistency"),
            dice=overall["dice"],
            hd95=overall["hd95_mm"],
            surface_dice=overall["surface_dice"],
            size_difference=size_difference(overall),
            annotated=annotated,
            description=describe_rater(rater, weights, annotated),
        )
        rows.append(row)
    return rows


def agreement(result: Result) -> Agreement | None:
    """Pairwise Dice, alpha and kappa; None for a single rater."""
    found, mark_of = result.report["agreement"], marks(result)
    if len(found["raters"]) < 2:
        return None
    rows = []
    for first, row in enumerate(found["pairwise_dice"]["mean"]):
        cells = [format_number(dice, 3) for dice in row]
        cells[first] = ""
        rows.append(cells)
    sentences = [_describe_coefficient(name, found[key]["overall"]) for key, name in COEFFICIENTS.items()]
    return Agreement([mark_of[name] for name in found["raters"]], rows, sentences, found["box_voxels"])


def _describe_coefficient(name: str, overall: dict[str, Any]) -> str:
    value, low, high = overall["value"], overall["low"], overall["high"]
    interval = "" if low is None else f" (95 % interval {low:.2f} to {high:.2f})"
    return f"{name}: {format_number(value, 3)}{interval}."


def structure_rows(result: Result) -> list[StructureRow]:
    """Dice of each rater with the consensus, structure by structure, those of most disagreement first."""
    per_ml, entries = units(result).per_ml, result.report["against_consensus"]
    rows = []
    for structure in result.structures:
        metrics = [entry["classes"][structure] for entry in entries]
        known = [row["dice"] for row in metrics if row["dice"] is not None]
        mean = float(np.mean(known)) if known else 1.0
        size = format_size(result.report["volumes_ml"][structure] * per_ml)
        rows.append((mean, StructureRow(structure, size, [format_number(row["dice"], 3) for row in metrics])))
    rows.sort(key=lambda entry: entry[0])
    return [row for _, row in rows]


def comparison(report: dict[str, Any]) -> Comparison | None:
    """All methods beside the one that was used; None where they were not compared."""
    entries = report.get("comparison", [])
    if not entries:
        return None
    with_reference = any("dice_to_reference" in entry for entry in entries)
    keys = ["dice_to_chosen", "dice_to_reference"] if with_reference else ["dice_to_chosen"]
    rows = []
    for entry in entries:
        cells = []
        if not entry["error"]:
            cells = [format_number(entry[key]["mean"], 4) for key in keys]
            cells += [str(entry["differing_voxels"]), format_number(entry["seconds"], 2)]
        rows.append(ComparedMethod(entry["method"], cells, entry["error"]))
    return Comparison(rows, with_reference)


def inputs(result: Result) -> list[tuple[str, str]]:
    """Files, grid, settings and versions: what the consensus was made from, name and value."""
    report = result.report
    rows = [("image", _file_names(report["inputs"]["image"]) or "none")]
    for rater, paths in report["inputs"]["annotations"].items():
        rows.append((rater, _file_names(paths)))
    rows.append(("grid", _describe_grid(result)))
    rows.append(("settings", _describe_settings(report)))
    partial = [rater.name for rater in result.study.raters if (rater.labels == MISSING).any()]
    rows.append(("not everything annotated", ", ".join(partial) or "nobody left anything out"))
    versions = [f"{name} {version}" for name, version in report["versions"].items() if version]
    rows.append(("versions", ", ".join(versions)))
    return rows


def _file_names(paths: Sequence[str]) -> str:
    return ", ".join(Path(path).name for path in paths)


def _describe_grid(result: Result) -> str:
    size = " x ".join(str(voxels) for voxels in result.study.shape)
    if is_photograph(result):
        return f"{size} pixels"
    spacing = " x ".join(f"{mm:.4g}" for mm in result.study.spacing_mm)
    return f"{size} voxels of {spacing} mm"


def _describe_settings(report: dict[str, Any]) -> str:
    settings = [f"{name} {value}" for name, value in report["settings"].items()]
    return ", ".join([report["method"], *settings])
