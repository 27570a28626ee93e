"""The report of one fused study for those who have to decide whether to use it: one HTML file, nothing beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medseg import __version__
from medseg.consensus.io.write_results import write_bytes
from medseg.workflows.consensus.report import page_data
from medseg.workflows.consensus.report.crop import Scene, scene_of
from medseg.workflows.consensus.report.descriptions import describe_method
from medseg.workflows.consensus.report.figures import draw_worst_slices
from medseg.workflows.consensus.report.viewer import make_viewer
from medseg.workflows.consensus.result import Result
from medseg.workflows.reports.formatting import count_of
from medseg.workflows.reports.pages import data_uri, render_page


@dataclass(frozen=True)
class SliceFigure:
    """The slices of largest disagreement.

    Args:
        image: address that holds the PNG.
        caption: what it shows.
    """

    image: str
    caption: str


def write_page(path: Path, result: Result, *, viewer: bool = True) -> Path:
    """Write the report.

    Args:
        path: HTML file.
        result: of one study.
        viewer: with the interactive viewer, for volumes.

    Raises:
        OutputError: it cannot be written.
    """
    return write_bytes(path, render_report(result, viewer=viewer))


def render_report(result: Result, *, viewer: bool = True) -> str:
    """The page as HTML; see `write_page`."""
    report, scene = result.report, scene_of(result)
    raters = page_data.rater_rows(result)
    is_volume = not result.form.flat and not scene.photograph
    return render_page(
        "consensus.html",
        title=f"Consensus of {count_of(len(raters), 'annotation')}: {report['case']}",
        cards=page_data.cards(result),
        method=report["method"],
        method_description=describe_method(report["method"]),
        structures=result.structures,
        oddities=page_data.oddities(result),
        findings=page_data.findings(result),
        warnings=report["warnings"],
        raters=raters,
        self_consistency_known=any(rater.self_consistency is not None for rater in raters),
        chance=1 / max(len(result.study.classes), 2),
        tolerance=report["request"]["tolerance_mm"],
        units=page_data.units(result),
        slices=_slice_figure(result, scene),
        viewer=make_viewer(result, scene) if viewer and is_volume else None,
        agreement=page_data.agreement(result),
        structure_rows=page_data.structure_rows(result),
        comparison=page_data.comparison(report),
        inputs=page_data.inputs(result),
        version=__version__,
    )


def _slice_figure(result: Result, scene: Scene) -> SliceFigure | None:
    """None where the raters nowhere disagree."""
    figure = draw_worst_slices(result, scene)
    if figure is None:
        return None
    png, sentences = figure
    caption = [
        "Left: the raters' outlines. Middle: the consensus. Right: the share of the votes that won; "
        "dark red is low confidence, without colour all agree.",
        *sentences,
    ]
    if not scene.photograph:
        caption.append("The patient's right is on the left.")
    return SliceFigure(data_uri(png), " ".join(caption))
