"""The report of a prediction: a page with every case, what is odd about it, its volumes, and pictures of some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import write_whole
from medseg.config.pipeline import DataSpec
from medseg.dicom.annotation import read_annotation
from medseg.dicom.availability import is_dicom_file
from medseg.dicom.scan.series import Series, open_series
from medseg.errors import MedsegError
from medseg.options import several
from medseg.workflows.evaluate.compare_case import Scale, read_labels
from medseg.workflows.evaluate.montage import draw_cases, show_case, show_volume
from medseg.workflows.reports.formatting import describe_command, describe_computer, format_number
from medseg.workflows.reports.pages import ShownPicture, Table, data_uri, render_page
from medseg.workflows.reports.paths import without_folders

MOST_PICTURES = 12
"""Cases that are drawn, those with warnings first."""

MOST_ROWS = 500
"""Cases that the table of the page has; all are in the JSON report."""


def write_page(path: Path, report: Mapping[str, Any], data: DataSpec) -> Path:
    """Write the page of a prediction.

    Args:
        path: of the page, in the folder of the results.
        report: what `predict` returns.
        data: of the model: names of the structures.

    Raises:
        OutputError: it cannot be written.
    """
    done = [case for case in report["cases"] if case.get("status") in ("done", "skipped")]
    odd_first = sorted(done, key=lambda case: not case["warnings"])
    pictures = [shown for case in odd_first[:MOST_PICTURES] if (shown := _draw(path.parent, case, data)) is not None]
    page = render_page(
        "prediction.html",
        title="medseg: prediction",
        model=" + ".join(_name_of_run(Path(each)) for each in several(report["model"])),
        done=len(done),
        count=len(report["cases"]),
        failed=[{**case, "error": without_folders(case["error"])} for case in report["failed"]],
        odd=[_short_warnings(case) for case in done if case["warnings"]],
        cases=_case_table(done[:MOST_ROWS], data),
        more=max(0, len(done) - MOST_ROWS),
        pictures=pictures,
        command=without_folders(describe_command("medseg.predict(...)")),
        computer=describe_computer(),
    )
    return write_whole(path, page)


def _name_of_run(bundle: Path) -> str:
    return bundle.parent.name if bundle.name == "bundle" else bundle.name


def _short_warnings(case: Mapping[str, Any]) -> dict[str, Any]:
    return {"case": case["case"], "warnings": [without_folders(line) for line in case["warnings"]]}


def _case_table(cases: Sequence[Mapping[str, Any]], data: DataSpec) -> Table:
    """Sizes of the structures of each case; of cases that an earlier command did they are not known here."""
    names = list(data.structures.values())
    in_pixels = any("pixels" in case for case in cases)
    rows = []
    for case in cases:
        sizes = case.get("pixels") or case.get("volumes_ml") or {}
        digits = 0 if "pixels" in case else 1
        rows.append([case["case"], *(format_number(sizes.get(name), digits) for name in names)])
    unit = "pixels" if in_pixels else "ml"
    return Table(["case", *(f"{name}, {unit}" for name in names)], rows)


def _draw(folder: Path, case: Mapping[str, Any], data: DataSpec) -> ShownPicture | None:
    """A case with the outlines of its prediction; None where its image was moved meanwhile, which is no error here."""
    images, result = [Path(each) for each in case["images"]], folder / case["result"]
    background = data.label_values[0] if data.has_background else None
    scale = Scale(data.structures, background, members=data.members)
    ct = data.modality[0] == "CT"
    try:
        if images[0].is_dir() or is_dicom_file(images[0]):
            series = open_series(images[0])
            labels = _labels_on(series, result, scale, data.painted_values)
            shown = show_volume(series.voxels()[0], np.zeros_like(labels), labels, series.header, ct=ct)
        else:
            labels, grid = read_labels(result, scale, may_ignore=True)
            shown = show_case(images, np.zeros_like(labels), labels, grid, ct=ct)
    except MedsegError:
        return None
    words = f"{case['case']}: warned" if case["warnings"] else case["case"]
    return ShownPicture(data_uri(draw_cases({case["case"]: shown}, scale, compared=False)), words)


def _labels_on(series: Series, result: Path, scale: Scale, written: Sequence[int]) -> np.ndarray:
    """Labels `(X, Y, Z)` on the grid of a series, of a result in any format.

    Args:
        series: of the image.
        result: its file.
        scale: names the values.
        written: the values in the order in which a DICOM file has their structures.
    """
    if not result.name.endswith(".dcm"):
        return read_labels(result, scale, may_ignore=True)[0]
    values = np.array([0, *written], np.uint8)
    return values[read_annotation(result, series.header, series.frame_of_reference).labels]
