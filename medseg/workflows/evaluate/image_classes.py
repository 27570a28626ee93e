"""Predictions against the only tag of each image: one vote for each, accuracy, and recall of each class."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg import __version__
from medseg.atomic import make_folder, write_whole
from medseg.errors import DataError, ManifestError
from medseg.manifest.classification import HINT, describe_problem, value_of
from medseg.manifest.manifest import Manifest
from medseg.metrics.classification import scores_of_table
from medseg.progress import show_progress
from medseg.workflows.evaluate.compare_case import Scale, read_labels
from medseg.workflows.evaluate.pair_files import TABLES, by_reference
from medseg.workflows.reports.cells import csv_cell, markdown_cell
from medseg.workflows.reports.paths import without_folders

DEFINITIONS = {
    "accuracy": "share of the images whose class is found",
    "recall": "share of the images of a class that are given it",
    "precision": "share of the images given a class that are of it",
    "balanced_accuracy": "mean of the recalls over the classes that occur among the true ones",
}


@dataclass(frozen=True)
class Vote:
    """What an image was given.

    Args:
        case: its name.
        true: name of its class.
        given: name of the class of most of its voxels; None: there is no usable prediction.
        share: of its voxels that have this class.
        status: "compared", "no prediction" or "unusable prediction".
        message: what is wrong.
        prediction: the file.
    """

    case: str
    true: str
    given: str | None = None
    share: float | None = None
    status: str = "compared"
    message: str = ""
    prediction: Path | None = None


def evaluate_classes(
    manifest: Manifest, section: str, files: Mapping[str, Path], source: Mapping[str, Any]
) -> dict[str, Any]:
    """What `metrics.json` holds of a set whose images have a class each.

    Args:
        manifest: of the reference tags.
        section: whose cases are compared.
        files: name -> prediction.
        source: what is compared, for the record.

    Returns:
        `accuracy`, `balanced_accuracy`, `classes` (name -> `images`, `predicted`, `recall`, `precision`), `cases` with
        the vote of each, `failed` (names of those without a usable prediction, which count as wrong), `unmatched`.

    Raises:
        ManifestError: a case with several tags or none.
        DataError: not one case has a usable prediction.
    """
    votes = read_votes(manifest, section, files)
    if all(vote.status != "compared" for vote in votes):
        bad = next((vote for vote in votes if vote.status != "no prediction"), votes[0])
        raise DataError(f"not one case can be compared; the first: {bad.message}")
    names = list(manifest.structures.values())
    table = np.zeros((len(names), len(names) + 1), np.int64)
    for vote in votes:
        column = len(names) if vote.given not in names else names.index(vote.given)
        table[names.index(vote.true), column] += 1
    found = scores_of_table(table)
    classes = {}
    for number, name in enumerate(names):
        classes[name] = {
            "images": found.images[number],
            "predicted": found.predicted[number],
            "recall": found.recalls[number],
            "precision": found.precisions[number],
        }
    used = {vote.prediction for vote in votes}
    return {
        "medseg": __version__,
        "target": "images",
        **{key: source[key] for key in ("prediction", "reference", "section")},
        "input": dict(source),
        "accuracy": found.accuracy,
        "balanced_accuracy": found.balanced_accuracy,
        "definitions": DEFINITIONS,
        "classes": classes,
        "cases": [{**vars(vote), "prediction": str(vote.prediction or "") or None} for vote in votes],
        "failed": [vote.case for vote in votes if vote.status != "compared"],
        "unmatched": sorted(path.name for path in files.values() if path not in used),
    }


def read_votes(manifest: Manifest, section: str, files: Mapping[str, Path]) -> list[Vote]:
    """The votes of the cases of a section, in their order.

    Raises:
        ManifestError: a case with several tags or none.
    """
    cases = getattr(manifest, section)
    for number, case in enumerate(cases):
        problem = describe_problem(manifest, case)
        if problem:
            hint = HINT.format(next(iter(manifest.structures.values())))
            raise ManifestError(f"{section}[{number}]: {case.name} {problem}", path=manifest.path, hint=hint)
    by_name = by_reference(files, [case.name for case in cases])
    scale = Scale.of_manifest(manifest)
    votes: list[Vote] = []
    with show_progress("comparing", kept="nothing is written") as progress:
        for case in cases:
            progress(len(votes), len(cases))
            true = manifest.labels[value_of(manifest, case) or 0]
            votes.append(_read_vote(case.name, true, by_name.get(case.name), scale))
    return votes


def _read_vote(case: str, true: str, path: Path | None, scale: Scale) -> Vote:
    if path is None:
        return Vote(case, true, status="no prediction", message=f"no prediction: {case}.nii.gz is not there")
    try:
        labels, _ = read_labels(path, scale, may_ignore=False)
    except DataError as error:
        return Vote(case, true, status="unusable prediction", message=str(error), prediction=path)
    counts = np.bincount(labels.ravel())
    value = int(counts.argmax())
    given = scale.labels.get(value, scale.background_name)
    return Vote(case, true, given, float(counts[value] / labels.size), prediction=path)


def write_class_tables(folder: Path, report: Mapping[str, Any]) -> None:
    """Write metrics.csv (a row for each image), metrics.json and metrics.md.

    Raises:
        OutputError: one of them cannot be written.
    """
    make_folder(folder)
    name_csv, name_json, name_md = TABLES[1], TABLES[0], TABLES[2]
    write_whole(folder / name_csv, _as_csv(report))
    write_whole(folder / name_json, json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_whole(folder / name_md, _as_markdown(report))


def class_table(report: Mapping[str, Any]) -> str:
    """The scores as plain text: a row for each class, then those of all images."""
    width = max(len(name) for name in (*report["classes"], "class"))
    lines = [f"{'class':<{width}}  images  recall  precision"]
    for name, found in report["classes"].items():
        cells = f"{found['images']:>6}  {number(found['recall']):>6}  {number(found['precision']):>9}"
        lines.append(f"{name:<{width}}  {cells}")
    lines += ["", *_sentences(report)]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """A score with three digits."""
    return "-" if value is None else f"{value:.3f}"


def _sentences(report: Mapping[str, Any]) -> list[str]:
    occurring = sum(1 for found in report["classes"].values() if found["images"])
    failed = len(report["failed"])
    lines = [
        f"Balanced accuracy {number(report['balanced_accuracy'])}, the mean of the recalls of {occurring} classes; "
        f"accuracy {number(report['accuracy'])} of {len(report['cases'])} images, one vote for each.",
    ]
    if failed:
        lines.append(f"Images without a usable prediction, which count as not found: {failed}.")
    mixed = sum(1 for case in report["cases"] if case["share"] is not None and case["share"] < 1)
    if mixed:
        lines.append(f"Predictions that hold several classes, of which that of most voxels is the vote: {mixed}.")
    return lines


def _as_csv(report: Mapping[str, Any]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = ("case", "true", "given", "share", "status", "message")
    writer.writerow(columns)
    for case in report["cases"]:
        writer.writerow(["" if case[column] is None else csv_cell(case[column]) for column in columns])
    return stream.getvalue()


def _as_markdown(report: Mapping[str, Any]) -> str:
    rows = []
    for name, found in report["classes"].items():
        counts = f"{found['images']} | {found['predicted']}"
        rows.append(f"| {markdown_cell(name)} | {counts} | {number(found['recall'])} | {number(found['precision'])} |")
    bad = []
    for case in report["cases"]:
        if case["status"] != "compared":
            bad.append(f"- {markdown_cell(case['case'])}: {markdown_cell(without_folders(case['message']))}")
    lines = [
        "# Evaluation",
        "",
        f"Predictions `{report['prediction']}` against the tags of `{report['reference']}`, "
        f"section `{report['section']}`.",
        "",
        *_sentences(report),
        "",
        "| class | images | predicted | recall | precision |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        *_confusion(report),
        "",
    ]
    if bad:
        lines += [f"## Not compared: {len(bad)} of {len(report['cases'])} images", "", *bad, ""]
    lines += ["## Definitions", "", *(f"- `{name}`: {text}" for name, text in report["definitions"].items()), ""]
    return "\n".join(lines)


def _confusion(report: Mapping[str, Any]) -> Sequence[str]:
    """How many images of each class (rows) are given each class (columns)."""
    given = [case["given"] for case in report["cases"]]
    columns = [name for name in report["classes"] if name in given]
    lines = [
        "## Which class is given",
        "",
        "| true | " + " | ".join([*map(markdown_cell, columns), "other or none"]) + " |",
    ]
    lines.append("| --- |" + " --- |" * (len(columns) + 1))
    for name in report["classes"]:
        of_class = [case["given"] for case in report["cases"] if case["true"] == name]
        counts = [of_class.count(column) for column in columns]
        cells = [*counts, len(of_class) - sum(counts)]
        lines.append(f"| {markdown_cell(name)} | " + " | ".join(map(str, cells)) + " |")
    return lines
