"""One study from its files to its results: read, fused, written, and recognised when it is done already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import make_folder
from medseg.consensus.compare_methods import compare
from medseg.consensus.fuse import FUSERS, run_fuser
from medseg.consensus.io.annotations.files import suffix_of
from medseg.consensus.io.file_names import DICOM, files_of
from medseg.consensus.io.formats import Form
from medseg.consensus.io.read_study import read_study
from medseg.consensus.io.write_results import (
    check_dicom_seg,
    map_suffix,
    write_bytes,
    write_labels,
    write_map,
    write_soft,
)
from medseg.consensus.statistics.inter_rater_agreement import agreement
from medseg.consensus.statistics.rater_vs_consensus import rater_table
from medseg.consensus.statistics.report_data import rater_count, summarise
from medseg.consensus.statistics.uncertainty_maps import disagreement, soft_labels
from medseg.consensus.study import MISSING, Study
from medseg.errors import ConfigError, DataError, FormatError, MedsegError, OutputError
from medseg.portable.io.write import cannot_be_written, remove_leftovers
from medseg.records import RECORD, Record, digest_of, read_record
from medseg.workflows.consensus.collect_studies import Item
from medseg.workflows.consensus.earlier_results import image_digest, refuse_another, refuse_without_record, source_of
from medseg.workflows.consensus.options import FORMATS, ConsensusOptions
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
    before = finished_labels(folder)
    record.begin()
    if before is not None:  # in another format, it may be
        before.unlink(missing_ok=True)
    labels = _write(folder, item, result, options)
    _, *others = record.products  # the first are the labels
    record.products = (labels, *others)
    notes = {"labels": labels.name, "warnings": result.report["warnings"], **_summarise(result)}
    return {"case": item.name, "status": "done", **record.finish(notes)}


def _summarise(result: Result) -> dict[str, Any]:
    """In a few words what the consensus lacks, how far the raters agree and who is odd; `amiss` without agreement."""
    odd = [f"{', '.join(entry['raters'])} ({entry['kind']})" for entry in result.report["oddities"]]
    told = [f"odd: {'; '.join(odd)}"] if odd else []
    dice = result.mean_pairwise_dice
    if dice is None:
        agree = ["no two raters can be compared"]
    else:
        agree = [f"mean Dice between raters {dice:.2f}"]
        told = told or ["nobody is odd"]
    summary = "; ".join([*result.lacking, *agree, *told])
    return {"summary": summary, "amiss": [*result.lacking, *(told if odd else [])]}


def fuse_one_of_many(item: Item, options: ConsensusOptions) -> dict[str, Any]:
    """Fuse one of many studies into a folder of its name; what is wrong with its files becomes its status.

    Raises:
        ConfigError, OutputError: what concerns every study.
    """
    try:
        return fuse_item(item, options.output / item.name, options)
    except (ConfigError, OutputError):
        raise
    except MedsegError as error:
        return {"case": item.name, "status": "failed", "error": str(error)}


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
    others = [*item.annotations, *dict(options.reading.get("regions", {})).values()]
    if options.reference is not None:
        others.append(options.reference)
    for path in (*item.images, *others):
        if not path.exists():
            raise DataError("no such file or folder", path=path, hint="check the path")
    digests = [digest_of(path) for path in others]
    digests += [image_digest(path, options.series) for path in item.images]
    settings = {"item": [item.name, item.raters, repr(item.reading)], "options": repr(options.of_a_result())}
    products = [folder / name for name in _products(item, options)]
    source = source_of(item, options.series)
    return Record(folder / RECORD, inputs={"files": digests}, settings=settings, products=products, source=source)


def _products(item: Item, options: ConsensusOptions) -> list[str]:
    """Names of the files that a finished study has."""
    suffix = _suffix(item, options)
    names = [f"consensus{suffix}"]
    names += [f"{name}{map_suffix(suffix)}" for name in ("confidence", "rater_count", "disagreement")]
    if options.export_soft is not None:
        names.append({"uint8": "soft.nii.gz", "float16": "soft.npy"}[options.export_soft])
    names += ["raters.csv", "pairwise.csv"]
    if options.compare or options.reference:
        names.append("comparison.csv")
    if options.report:
        names.append("report.html")
    return [*names, "report.json"]


def _suffix(item: Item, options: ConsensusOptions) -> str:
    """Ending of the consensus: of the format that was asked for, or of the raters' files.

    Raises:
        ConfigError: DICOM SEG of an image that is none.
    """
    image = item.images[0] if item.images else None
    suffix = suffix_of(files_of(item.annotations[0], image)[0], image)
    if options.format is None:
        return suffix
    wanted = FORMATS[options.format]
    if wanted.endswith(DICOM) and suffix != DICOM:
        problem = f"--format {options.format} refers to the DICOM images that were annotated, and this is no DICOM"
        raise ConfigError(problem, path=image or item.annotations[0], hint="give the series as --image FOLDER")
    return wanted


def _in_format(form: Form, suffix: str) -> Form:
    """The form of the results, in the format of an ending."""
    if suffix == form.suffix:
        return form
    if suffix.endswith(DICOM):
        return replace(form, suffix=suffix)
    return replace(form, suffix=suffix, series=None, flat=form.flat and suffix != FORMATS["nrrd"])


def _fuse(item: Item, options: ConsensusOptions) -> Result:
    study, form, truth = _read(item, options)
    form = _in_format(form, _suffix(item, options))
    check_dicom_seg(form, options.method)
    fused = run_fuser(study, options.method, options.method_options)
    summary = summarise(study, fused, list(form.notes), form.ends_of_axes)
    voxel_ml = float(np.prod(study.spacing_mm)) / 1000
    counts = np.bincount(fused.labels.reshape(-1), minlength=MISSING + 1)
    report = {
        "case": item.name,
        "method": options.method,
        "unit": "pixels" if form.without_spacing else "mm",
        **summary,
        "inputs": _inputs(item, study, form, options),
        "request": options.of_a_result(),
        "label_values": [0, *(segment.value for segment in form.segments)],
        "affine": form.grid.affine.tolist(),
        "volumes_ml": {name: float(counts[c] * voxel_ml) for c, name in enumerate(study.classes) if c},
        "undecided_voxels": int(counts[MISSING]),
        "against_consensus": rater_table(study, fused, tolerance_mm=options.tolerance_mm),
        "agreement": agreement(study),
    }
    if options.compare or truth is not None:
        methods = [options.method, *(FUSERS if options.compare else ())]
        report["comparison"] = compare(study, methods, truth, {options.method: fused})
    return Result(study, form, fused, report, disagreement(study))


def _inputs(item: Item, study: Study, form: Form, options: ConsensusOptions) -> dict[str, Any]:
    """The files that a study was read from, for the report."""
    annotations: dict[str, list[str]] = {}
    for rater, files in zip(study.raters, form.sources, strict=False):
        annotations[rater.name] = [str(path) for path in files]
    return {
        "image": [str(path) for path in item.images],
        "annotations": annotations,
        "reference": None if options.reference is None else str(options.reference),
    }


def _read(item: Item, options: ConsensusOptions) -> tuple[Study, Form, np.ndarray | None]:
    """The study, and the true labels if there are any, in the same classes and on the same grid."""
    reading = _merge_reading(options.reading, item.reading)
    images = item.images or None
    if options.reference is None:
        study, form = read_study(images, item.annotations, names=item.raters, **reading)
        return study, form, None
    files = [*item.annotations, options.reference]
    study, form = read_study(images, files, names=[*item.raters, TRUTH], references=1, **reading)
    truth = study.raters[-1].labels
    return Study(study.raters[:-1], study.classes, study.spacing_mm, study.image), form, truth


def _merge_reading(of_options: Mapping[str, Any], of_item: Mapping[str, Any]) -> dict[str, Any]:
    """How to read the files: as the user said, but for what the item says of its own files."""
    merged = dict(of_options)
    for name, value in of_item.items():
        if name == "partial":
            merged[name] = (*of_options[name], *value)
        elif value is not None or name == "missing":
            merged[name] = value
    return merged


def _write(folder: Path, item: Item, result: Result, options: ConsensusOptions) -> Path:
    """Write all files of a result; the report, which says that they are complete, comes last."""
    study, form, fused, report = result.study, result.form, result.fused, result.report
    labels = _write_labels(folder, result)
    write_map(folder, "confidence", fused.confidence, form)
    write_map(folder, "rater_count", rater_count(study), form)
    write_map(folder, "disagreement", result.disagreement, form)
    if options.export_soft:
        weights = [float(facts["weight"]) for facts in fused.raters]
        write_soft(folder, soft_labels(study, weights, options.export_soft), form, options.export_soft)
    write_bytes(folder / "raters.csv", raters_csv(report))
    write_bytes(folder / "pairwise.csv", pairwise_csv(report))
    if "comparison" in report:
        write_bytes(folder / "comparison.csv", comparison_csv(report["comparison"], report["unit"]))
    if options.report:
        # matplotlib takes longer to import than a small study
        from medseg.workflows.consensus.report.report import write_page

        write_page(folder / "report.html", result, viewer=options.viewer)
    write_bytes(folder / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    return labels


def _write_labels(folder: Path, result: Result) -> Path:
    """Write the consensus, as NIfTI with a warning where another format fails now that it has been made."""
    labels, form, report = result.fused.labels, result.form, result.report
    try:
        return write_labels(folder, "consensus", labels, form, report["method"])
    except (FormatError, OutputError, OSError, MemoryError) as error:
        path = folder / f"consensus{form.suffix}"
        reason = error if isinstance(error, FormatError) else cannot_be_written(path, error)
        if form.suffix == FORMATS["nifti"]:
            raise reason from error
        try:
            written = write_labels(folder, "consensus", labels, _in_format(form, FORMATS["nifti"]))
        except (OutputError, OSError, MemoryError):
            raise reason from error  # what was asked for is what is told
    report["warnings"].append(f"{reason}; the consensus is in {written.name}")
    return written
