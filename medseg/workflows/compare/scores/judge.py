"""How good a finished run is: its test cases predicted and evaluated, in a process of its own.

python -m medseg.workflows.compare.scores.judge RUN_FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import make_folder, write_whole
from medseg.errors import DataError, MedsegError
from medseg.manifest.manifest import Case, Manifest
from medseg.manifest.splits import subject_of
from medseg.metrics import METRICS
from medseg.portable.io.header import Header
from medseg.records import read_record
from medseg.workflows.compare.scores.rows import CaseRow, RunKey
from medseg.workflows.compare.scores.rows_csv import CASES, write_cases
from medseg.workflows.evaluate.compare_case import IGNORE, Compared, Pairing, Scale, nothing_like, onto, read_labels
from medseg.workflows.evaluate.options import EvaluateOptions
from medseg.workflows.evaluate.run import run_evaluation
from medseg.workflows.predict.options import PredictOptions
from medseg.workflows.predict.run import run_prediction

TRAINING, PREDICTIONS, WORST = "training", "predictions", "worst.png"
"""Names in the folder of a run."""
REQUEST, ANSWER = "judge.json", "judged.json"


def write_request(run: Path, key: RunKey, judged: Path, device: str, tolerance_mm: float) -> None:
    """Write down how a run is to be judged.

    Args:
        run: its folder.
        key: which run.
        judged: manifest of labelled test cases.
        device: that predicts.
        tolerance_mm: of the surface Dice.
    """
    content = {"key": asdict(key), "judged": str(judged), "device": device, "tolerance_mm": tolerance_mm}
    write_whole(make_folder(run) / REQUEST, json.dumps(content, indent=1) + "\n")


def judge(run: Path) -> None:
    """Predict and evaluate the test cases; writes `cases.csv`, `worst.png` and `judged.json` into the run's folder.

    Args:
        run: its folder, with the training and the request.

    Raises:
        MedsegError: nothing can be predicted or compared.
    """
    request = read_record(run / REQUEST)
    reference, predictions = Path(request["judged"]), run / PREDICTIONS
    run_prediction(
        PredictOptions(
            (run / TRAINING,), reference, predictions, section="test", device=request["device"], report=False
        )
    )
    report = run_evaluation(
        EvaluateOptions(
            predictions,
            reference,
            run / "evaluation",
            section="test",
            tolerance_mm=request["tolerance_mm"],
            pictures=False,
        )
    )
    manifest = Manifest.load(reference)
    if report.get("target") == "images":
        write_whole(run / ANSWER, json.dumps({"worst": None, "planar": False}, indent=1) + "\n")
        write_cases(run / CASES, class_rows(report, manifest, RunKey(**request["key"])))
        return
    counter = _Counter(manifest, RunKey(**request["key"]), request["tolerance_mm"])
    rows = [row for found in report["cases"] for row in counter.rows(found)]
    worst = counter.draw_worst(report["cases"], run / WORST)
    write_whole(run / ANSWER, json.dumps({"worst": worst, "planar": counter.planar}, indent=1) + "\n")
    write_cases(run / CASES, rows)


def class_rows(report: Mapping[str, Any], manifest: Manifest, key: RunKey) -> list[CaseRow]:
    """Rows of classified images: a row of the true class, and one of the class that a wrong vote is of.

    The mean of `recall` over the rows of a class is its recall, that of `precision` its precision. Classes come in the
    order of the manifest, by which tables list them.

    Args:
        report: of the evaluation.
        manifest: of the test cases.
        key: which run.
    """
    subjects = {case.name: subject_of(case) for case in manifest.test}
    rows = []
    for found in report["cases"]:
        name, true, given = found["case"], found["true"], found["given"]
        of_case = key, name, subjects[name]
        if given == true:
            rows.append(CaseRow(*of_case, true, {"recall": 1.0, "precision": 1.0}, 1, 1, 1))
            continue
        rows.append(CaseRow(*of_case, true, {"recall": 0.0}, 0, 0, 1))
        if given in report["classes"]:
            rows.append(CaseRow(*of_case, given, {"precision": 0.0}, 0, 1, 0))
    in_order = list(manifest.labels.values())
    return sorted(rows, key=lambda row: in_order.index(row.structure))


class _Counter:
    """Rows of cases: metrics of the evaluation, and voxels of each structure.

    Args:
        manifest: of the labelled test cases.
        key: which run.
        tolerance_mm: of the surface Dice.
    """

    def __init__(self, manifest: Manifest, key: RunKey, tolerance_mm: float) -> None:
        self.manifest, self.key = manifest, key
        self.scale = Scale.of_manifest(manifest, tolerance_mm)
        self.cases = {case.name: case for case in manifest.test}
        self.planar = True

    def rows(self, found: dict[str, Any]) -> list[CaseRow]:
        """The rows of one case of an evaluation's report.

        Raises:
            DataError: its reference cannot be used, so that nobody knows how good the prediction is.
        """
        if found["status"] == "unusable reference":
            raise DataError(found["message"])
        case = self.cases[found["case"]]
        reference, grid = read_labels(Path(found["reference"]), self.scale, may_ignore=True)
        self.planar = self.planar and 1 in grid.shape
        prediction = self._prediction(found, reference, grid)
        known = reference != IGNORE
        rows = []
        for value in self.manifest.label_values:
            name = self.manifest.labels[value]
            metrics = found["classes"].get(name)
            is_background = value == self.scale.background
            if is_background and case.classes is not None:
                continue  # other structures are background in this reference
            if not is_background and metrics is None:
                continue  # the reference does not tell it apart
            predicted, true = self.scale.mask_of(prediction, value) & known, self.scale.mask_of(reference, value)
            row = CaseRow(
                self.key,
                case.name,
                subject_of(case),
                name,
                {} if is_background else _numbers(metrics),
                int(np.count_nonzero(predicted & true)),
                int(np.count_nonzero(predicted)),
                int(np.count_nonzero(true)),
            )
            rows.append(row)
        return rows

    def _prediction(self, found: dict[str, Any], reference: np.ndarray, grid: Header) -> np.ndarray:
        if found["status"] != "compared":
            return nothing_like(reference, self.scale)  # as the metrics have it
        labels, header = read_labels(Path(found["prediction"]), self.scale, may_ignore=False)
        return onto(grid, labels, header)[0]

    def draw_worst(self, cases: list[dict[str, Any]], path: Path) -> dict[str, Any] | None:
        """Draw the case with the least mean Dice; its name and Dice, or None where there is none to draw."""
        from medseg.workflows.evaluate.montage import draw_montage  # matplotlib takes seconds to import

        scored = [found for found in cases if found["mean_dice"] is not None]
        if not scored:
            return None
        worst = min(scored, key=lambda found: found["mean_dice"])
        values = {name: value for value, name in self.scale.labels.items()}
        metrics = {values[name]: of_structure for name, of_structure in worst["classes"].items()}
        draw_montage(path, [Compared(self._pairing(worst), "compared", metrics=metrics)], self.scale)
        return {"case": worst["case"], "dice": worst["mean_dice"]}

    def _pairing(self, found: dict[str, Any]) -> Pairing:
        case: Case = self.cases[found["case"]]
        ct = self.manifest.modalities[0] == "CT"
        return Pairing(case.name, Path(found["reference"]), Path(found["prediction"]), self.manifest.images(case), ct)


def _numbers(metrics: dict[str, Any]) -> dict[str, float | None]:
    """The metrics of which a mean says something."""
    found: dict[str, float | None] = {}
    for name, entry in METRICS.items():
        if entry.averaged and name in metrics:
            found[name] = None if metrics[name] is None else float(metrics[name])
    return found


if __name__ == "__main__":
    try:
        judge(Path(sys.argv[1]))
    except MedsegError as problem:
        sys.exit(f"error: {problem}")
