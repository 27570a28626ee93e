"""`demo`: generated scans, trained on before and after the unlabelled ones are used, predicted, measured, shown."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import make_folder, write_whole
from medseg.errors import OutputError
from medseg.method import IGNORE
from medseg.progress import say
from medseg.stopping import Stopped, describe_stop
from medseg.workflows.demo.phantom import write_phantoms
from medseg.workflows.demo.result import Result

METHODS = ("supervised", "dmpct")
RUN = "dmpct"
"""Folder of the one training run; its teachers are the supervised baseline."""
TOLERANCE_MM = 5.0
"""Of the surface Dice: the distance of the phantoms' slices."""
MARK = "demo.json"
PARTS = ("data", RUN, "predictions", "supervised", "dtc", "report.html", MARK)
"""Everything that a demonstration, of this version or the one before, leaves in its folder."""


@dataclass(frozen=True)
class Plan:
    """What is generated and how it is trained on.

    Args:
        phantoms: keywords of `write_phantoms`.
        settings: `--set` of the training.
    """

    phantoms: dict[str, Any]
    settings: tuple[str, ...]

    def overrides(self, seed: int) -> list[str]:
        """All `--set` of the training."""
        return [f"seed={seed}", *self.settings]


NETWORK = ("stages.0.network.width=8", "stages.0.schedule.lr=0.003", "stages.0.schedule.decay=cosine")
FULL = Plan(
    phantoms={"labeled": 4, "unlabeled": 16, "validation": 2, "test": 6},
    settings=(
        *NETWORK,
        "stages.0.schedule.iterations=300",
        "stages.0.schedule.validate_every=100",
        "data.spacing_mm=[5, 5, 6]",
    ),
)
QUICK = Plan(
    phantoms={
        "labeled": 2,
        "unlabeled": 3,
        "validation": 1,
        "test": 2,
        "shape": (48, 40, 24),
        "spacing_mm": (6.4, 6.4, 8.0),
    },
    settings=(
        *NETWORK,
        "stages.0.schedule.iterations=30",
        "stages.0.schedule.validate_every=30",
        "data.spacing_mm=[8, 8, 8]",
    ),
)


def run_demo(output: Path, *, seed: int = 0, quick: bool = False) -> Path:
    """Show the whole way from scans to figures on generated data, in a few minutes.

    Args:
        output: folder to write; an earlier demonstration in it is replaced, anything else is refused.
        seed: of the data and of the training.
        quick: a much smaller one, to see that everything works; its figures mean nothing.

    Returns:
        The page, `OUTPUT/report.html`; it opens without a network and can be sent as it is.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    plan = QUICK if quick else FULL
    _claim(output)
    seconds: dict[str, float] = {}
    with _timed(seconds, "all"):
        with _step(1, "generating scans"), _timed(seconds, "data"):
            manifest = write_phantoms(output / "data", seed=seed, **plan.phantoms)
        rounds = "training: teachers on the labelled scans, then two rounds of pseudo-labels"
        with _step(2, rounds), _timed(seconds, "training"):
            command = _train(plan.overrides(seed), manifest, output / RUN)
        with _step(3, "predicting and evaluating the test scans, before and after the rounds"):
            results = {method: _one(method, manifest, output) for method in METHODS}
            labels = _pseudo_labels(output)
    with _step(4, "writing the report"):
        from medseg.workflows.demo.report import Report, write_report  # matplotlib is not needed before

        report = Report(output, manifest, results, labels, command, seconds, seed=seed, quick=quick)
        page = write_report(report)
    print(_closing(results, seconds["all"], quick=quick))
    return page


def _claim(output: Path) -> None:
    """Make room, but never in a folder that is not ours."""
    make_folder(output)
    found = {path.name for path in output.iterdir()}
    if found and MARK not in found:
        raise OutputError("is not empty and holds no demonstration", path=output, hint="choose another --output")
    for part in PARTS:
        path = output / part
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_whole(output / MARK, json.dumps({"medseg": "demo"}) + "\n")


def _train(overrides: list[str], manifest: Path, run: Path) -> str:
    """The one training; returns the command that does the same."""
    from medseg.workflows.train.run import train

    train("dmpct", manifest, run, overrides=tuple(overrides))
    sets = [part for text in overrides for part in ("--set", text)]
    return _shell("train", "--task", "dmpct", "--data", manifest, "--output", run, *sets)


def _one(method: str, manifest: Path, output: Path) -> Result:
    from medseg.workflows.evaluate.run import evaluate
    from medseg.workflows.predict.run import predict

    bundle = output / RUN / ("round0/bundle" if method == "supervised" else "bundle")
    predictions = output / "predictions" / method
    seconds: dict[str, float] = {}
    with _timed(seconds, "prediction"):
        predict((bundle,), manifest, predictions, section="test", report=False)
    with _timed(seconds, "evaluation"):
        evaluation = evaluate(predictions, manifest, tolerance_mm=TOLERANCE_MM)
    commands = [
        _shell("predict", "--model", bundle, "--input", manifest, "--section", "test", "--output", predictions),
        _shell("evaluate", "--prediction", predictions, "--reference", manifest, "--tolerance-mm", f"{TOLERANCE_MM:g}"),
    ]
    return Result(bundle, predictions, evaluation, seconds, commands)


def _pseudo_labels(output: Path) -> dict[int, float]:
    """Round -> mean Dice of its pseudo-labels with the hidden truth, which only this line opens."""
    from medseg.workflows.evaluate.run import evaluate

    found = {}
    for folder in sorted((output / RUN).glob("round*/pseudo")):
        called = _called(folder, output / "predictions" / folder.parent.name)
        report = evaluate(called, output / "data" / "hidden", pictures=False)
        found[int(folder.parent.name.removeprefix("round"))] = float(report["mean"]["dice"]["mean"] or 0.0)
    return found


def _called(pseudo: Path, place: Path) -> Path:
    """Pseudo-labels as the planes voted: what was left out of learning is background that some plane doubted."""
    from medseg.portable.io.read import read_volume
    from medseg.portable.io.write import write_labels

    make_folder(place)
    for path in sorted(pseudo.glob("*.nii.gz")):
        array, header = read_volume(path)
        voted = np.where(array[0] == IGNORE, np.uint8(0), array[0])
        write_labels(place / path.name, voted, header.affine, source=header.nifti)
    return place


def _shell(*command: object) -> str:
    return shlex.join(["medseg", *map(str, command)])


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[what] = time.monotonic() - started


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    say(f"[{number}/4] {what}")
    try:
        yield
    except KeyboardInterrupt as error:
        found = describe_stop(error, f"in step {number} of 4")
        raise Stopped(found.where, "", found.number) from error  # the next demonstration continues nothing


def _closing(results: dict[str, Result], seconds: float, *, quick: bool) -> str:
    lines = [f"{method:<12} mean Dice {result.dice:.3f}   {result.bundle}" for method, result in results.items()]
    if quick:
        lines = ["everything works; a quick run is far too short for its scores to mean anything, see medseg demo"]
    return "\n".join([*lines, f"{seconds / 60:.1f} minutes in all; the page:"])
