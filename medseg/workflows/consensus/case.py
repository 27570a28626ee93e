"""One study from its files to its results: read, fused, written, and recognised when it is done already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import make_folder
from medseg.consensus.compare_methods import compare
from medseg.consensus.fuse import FUSERS, run
from medseg.consensus.io.annotation_files import suffix_of
from medseg.consensus.io.file_names import files_of
from medseg.consensus.io.formats import Form
from medseg.consensus.io.read_study import read_study
from medseg.consensus.io.write_results import map_suffix, write_bytes, write_labels, write_map, write_soft
from medseg.consensus.statistics.inter_rater_agreement import agreement
from medseg.consensus.statistics.rater_vs_consensus import rater_table
from medseg.consensus.statistics.report_data import rater_count, summarise
from medseg.consensus.statistics.uncertainty_maps import disagreement, soft_labels
from medseg.consensus.study import MISSING, Study
from medseg.errors import DataError
from medseg.portable.io.write import remove_leftovers
from medseg.records import RECORD, Record, digest_of, read_record
from medseg.workflows.consensus.collect_studies import Item
from medseg.workflows.consensus.earlier_results import image_digest, refuse_another, refuse_without_record, source_of
from medseg.workflows.consensus.options import ConsensusOptions
from medseg.workflows.consensus.report.csv_tables import comparison_csv, pairwise_csv, raters_csv
from medseg.workflows.consensus.result import Result

TRUTH = "reference"


def fuse_item(item: Item, folder: Path, options: ConsensusOptions) -> dict[str, Any]:
    """Fuse one study and write its results, unless they are there.

    Args:
        item: the study.
        folder: of the results.
        options: how.

    Returns:
        What to tell: `case`, `status` ("done" or "skipped"), `labels`, `warnings`, `seconds`.

    Raises:
        DataError, ConfigError: the study cannot be fused, or the folder holds the results of another.
        OutputError: the results cannot be written.
    """
    remove_leftovers(folder)
    record = _record(item, folder, options)
    notes = None if options.overwrite else record.notes()
    if notes is not None:
        return {"case": item.name, "status": "skipped", **notes}
    refuse_another(item, options.series, folder)
    refuse_without_record(folder, record.products)
    try:
        result = _fuse(item, options)
    except MemoryError as error:
        raise DataError("does not fit into memory", path=item.annotations[0], hint="use fewer --jobs") from error
    make_folder(folder)
    refuse_another(item, options.series, folder)  # again: fusing takes its time, and another command may have begun
    record.begin()
    labels = _write(folder, item, result, options)
    notes = {"labels": labels.name, "warnings": result.report["warnings"]}
    return {"case": item.name, "status": "done", **record.finish(notes)}


def finished_labels(folder: Path) -> Path | None:
    """The label map that a folder's record says is finished."""
    notes = read_record(folder / RECORD).get("notes")
    if not isinstance(notes, dict) or "labels" not in notes:  # not begun, not finished, or not ours
        return None
    labels = folder / str(notes["labels"])
    return labels if labels.is_file() else None


def _record(item: Item, folder: Path, options: ConsensusOptions) -> Record:
    """What the results of a study depend on, and which files they are.

    Raises:
        DataError: a file that is not there or cannot be read.
    """
    paths = [*item.images, *item.annotations, *dict(options.reading.get("regions", {})).values()]
    paths += [options.reference] if options.reference else []
    for path in paths:
        if not path.exists():
            raise DataError("no such file or folder", path=path, hint="check the path")
    digests = [digest_of(path) for path in paths[len(item.images) :]]
    digests += [image_digest(path, options.series) for path in item.images]
    settings = {"item": [item.name, item.raters, repr(item.reading)], "options": repr(options.of_a_result())}
    products = [folder / name for name in _products(item, options)]
    source = source_of(item, options.series)
    return Record(folder / RECORD, inputs={"files": digests}, settings=settings, products=products, source=source)


def _products(item: Item, options: ConsensusOptions) -> list[str]:
    """Names of the files that a finished study has."""
    image = item.images[0] if item.images else None
    suffix = suffix_of(files_of(item.annotations[0], image)[0], image)
    maps = [f"{name}{map_suffix(suffix)}" for name in ("confidence", "rater_count", "disagreement")]
    soft = {"uint8": ["soft.nii.gz"], "float16": ["soft.npy"]}.get(options.export_soft or "", [])
    page = ["report.html"] if options.report else []
    compared = ["comparison.csv"] if options.compare or options.reference else []
    return [f"consensus{suffix}", *maps, *soft, "raters.csv", "pairwise.csv", *compared, *page, "report.json"]


def _fuse(item: Item, options: ConsensusOptions) -> Result:
    study, form, truth = _read(item, options)
    fused = run(study, options.method, **options.method_options)
    summary = summarise(study, fused, list(form.notes))
    spacing = float(np.prod(study.spacing_mm)) / 1000
    counts = np.bincount(fused.labels.reshape(-1), minlength=MISSING + 1)
    report = {
        "case": item.name,
        "method": options.method,
        **summary,
        "inputs": {
            "image": [str(path) for path in item.images],
            "annotations": {
                e.name: [str(p) for p in files] for e, files in zip(study.raters, form.sources, strict=False)
            },
            "reference": None if truth is None else str(options.reference),
        },
        "request": options.of_a_result(),
        "label_values": [0, *(segment.value for segment in form.segments)],
        "affine": form.grid.affine.tolist(),
        "volumes_ml": {name: float(counts[c] * spacing) for c, name in enumerate(study.classes) if c},
        "undecided_voxels": int(counts[MISSING]),
        "against_consensus": rater_table(study, fused, tolerance_mm=options.tolerance_mm),
        "agreement": agreement(study),
    }
    if options.compare or truth is not None:
        methods = [options.method, *(FUSERS if options.compare else ())]
        report["comparison"] = compare(study, methods, truth, {options.method: fused})
    return Result(study, form, fused, report, disagreement(study))


def _read(item: Item, options: ConsensusOptions) -> tuple[Study, Form, np.ndarray | None]:
    """The study, and the true labels if there are any, in the same classes and on the same grid."""
    reading = {**_merged(options.reading, item.reading)}
    if options.reference is None:
        study, form = read_study(item.images or None, item.annotations, names=item.raters, **reading)
        return study, form, None
    files = [*item.annotations, options.reference]
    study, form = read_study(item.images or None, files, names=[*item.raters, TRUTH], **reading)
    truth = study.raters[-1].labels
    return Study(study.raters[:-1], study.classes, study.spacing_mm, study.image), form, truth


def _merged(asked: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """What the user asked for; what the item knows of its own files goes before."""
    return {**asked, **{key: value for key, value in known.items() if value is not None or key == "missing"}}


def _write(folder: Path, item: Item, result: Result, options: ConsensusOptions) -> Path:
    """All files; what says that they are complete comes last."""
    study, form, fused, report = result.study, result.form, result.fused, result.report
    labels = write_labels(folder, "consensus", fused.labels, form, report["method"])
    write_map(folder, "confidence", fused.confidence, form)
    write_map(folder, "rater_count", rater_count(study), form)
    write_map(folder, "disagreement", result.disagreement, form)
    if options.export_soft:
        weights = [float(facts["weight"]) for facts in fused.raters]
        write_soft(folder, soft_labels(study, weights, options.export_soft), form, options.export_soft)
    write_bytes(folder / "raters.csv", raters_csv(report))
    write_bytes(folder / "pairwise.csv", pairwise_csv(report))
    if "comparison" in report:
        write_bytes(folder / "comparison.csv", comparison_csv(report["comparison"]))
    if options.report:
        from medseg.workflows.consensus.report.report import (
            write_page,  # matplotlib takes longer to import than a small study
        )

        write_page(folder / "report.html", result, viewer=options.viewer)
    write_bytes(folder / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    return labels
