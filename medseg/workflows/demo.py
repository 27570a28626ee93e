"""`demo`: generated scans, trained on with and without the unlabelled ones, predicted, measured, shown."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.data.phantom import write_phantoms
from medseg.errors import OutputError
from medseg.files import make_folder, write_whole

METHODS = ("supervised", "dtc")
TOLERANCE_MM = 5.0
"""Of the surface Dice: the distance of the phantoms' slices."""
MARK = "demo.json"
PARTS = ("data", *METHODS, "report.html", MARK)


@dataclass(frozen=True)
class Plan:
    """Everything that both methods share.

    Args:
        phantoms: keywords of `write_phantoms`.
        settings: `--set` of both trainings.
        own: further `--set` of one method.
    """

    phantoms: dict[str, Any]
    settings: tuple[str, ...]
    own: dict[str, tuple[str, ...]]

    def overrides(self, method: str, seed: int) -> list[str]:
        """All `--set` of one training."""
        return [f"seed={seed}", *self.settings, *self.own.get(method, ())]


NETWORK = (
    "stages.0.network.name=unet",
    "stages.0.network.width=8",
    "stages.0.schedule.optimizer=adamw",
    "stages.0.schedule.lr=0.003",
    "stages.0.schedule.decay=cosine",
)
OWN = {
    "supervised": ("stages.0.schedule.batch={labeled: 2}",),
    # With the cross-entropy that the baseline has, what is left between the two is the paper's idea. Divided by the
    # largest distance of a patch, the map of a small organ is nearly flat at its edge, and a short training never
    # finds the zero: the clip makes it steep.
    "dtc": (
        "stages.0.schedule.batch={labeled: 2, unlabeled: 2}",
        "stages.0.method.options.cross_entropy=1.0",
        "stages.0.method.options.clip=4.0",
    ),
}
FULL = Plan(
    phantoms={"labeled": 4, "unlabeled": 16, "validation": 2, "test": 6},
    settings=(
        *NETWORK,
        "stages.0.schedule.iterations=400",
        "stages.0.schedule.validate_every=80",
        "data.spacing_mm=[5, 5, 6]",
        "data.patch=[48, 40, 32]",
    ),
    own=OWN,
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
        "stages.0.schedule.iterations=40",
        "stages.0.schedule.validate_every=20",
        "data.spacing_mm=[8, 8, 8]",
        "data.patch=[32, 24, 24]",
    ),
    own=OWN,
)


@dataclass
class Result:
    """What one method came to.

    Args:
        run: its run folder.
        evaluation: what `evaluate` returned.
        picture: the montage.
        seconds: of each step.
        commands: that do the same from a shell.
    """

    run: Path
    evaluation: dict[str, Any]
    picture: Path
    seconds: dict[str, float]
    commands: list[str]

    @property
    def dice(self) -> float:
        """Mean over the organs, of the mean over the test cases."""
        return float(self.evaluation["mean"]["dice"]["mean"] or 0.0)


def run_demo(output: Path, *, seed: int = 0, quick: bool = False) -> Path:
    """Show the whole way from scans to figures on generated data, in a few minutes.

    Args:
        output: folder to write; an earlier demonstration in it is replaced, anything else is refused.
        seed: of the data and of both trainings.
        quick: a much smaller one, to see that everything works; its figures mean nothing.

    Returns:
        The page, `OUTPUT/report.html`; it opens without a network and can be sent as it is.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    plan = QUICK if quick else FULL
    _claim(output)
    started = time.monotonic()
    _say(1, "generating scans")
    manifest = write_phantoms(output / "data", seed=seed, **plan.phantoms)
    generated = time.monotonic() - started
    results = {}
    for step, method in enumerate(METHODS, start=2):
        _say(step, f"{method}: training, predicting, evaluating")
        results[method] = _one(method, plan, manifest, output, seed)
    _say(4, "writing the report")
    from medseg.workflows.demo_report import write_report  # matplotlib is not needed before

    seconds = {"data": generated, "all": time.monotonic() - started}
    report = write_report(output, manifest, results, seed=seed, quick=quick, seconds=seconds)
    print(_closing(results, seconds["all"]))
    return report


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


def _one(method: str, plan: Plan, manifest: Path, output: Path, seed: int) -> Result:
    from medseg.workflows.evaluate import evaluate
    from medseg.workflows.predict import predict
    from medseg.workflows.train import train

    run, predictions = output / method, output / method / "predictions"
    overrides = plan.overrides(method, seed)
    seconds: dict[str, float] = {}
    with _timed(seconds, "training"):
        train(method, manifest, run, overrides=overrides)
    with _timed(seconds, "prediction"):
        predict(run, manifest, predictions, section="test")
    with _timed(seconds, "evaluation"):
        evaluation = evaluate(predictions, manifest, tolerance_mm=TOLERANCE_MM)
    sets = [part for text in overrides for part in ("--set", text)]
    commands: list[list[object]] = [
        ["train", "--task", method, "--data", manifest, "--output", run, *sets],
        ["predict", "--model", run, "--input", manifest, "--section", "test", "--output", predictions],
        ["evaluate", "--prediction", predictions, "--reference", manifest, "--tolerance-mm", f"{TOLERANCE_MM:g}"],
    ]
    written = [shlex.join(["medseg", *map(str, command)]) for command in commands]
    return Result(run, evaluation, predictions / "evaluation" / "montage.png", seconds, written)


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[what] = time.monotonic() - started


def _say(step: int, what: str) -> None:
    print(f"[{step}/4] {what}", file=sys.stderr, flush=True)


def _closing(results: dict[str, Result], seconds: float) -> str:
    lines = [
        f"{method:<12} mean Dice {result.dice:.3f}   {result.run / 'bundle'}" for method, result in results.items()
    ]
    return "\n".join([*lines, f"{seconds / 60:.1f} minutes in all; the page:"])
