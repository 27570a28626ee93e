"""Suggestions of the command that comes next, ready to be copied."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from medseg.manifest.classification import value_of
from medseg.manifest.manifest import SECTIONS, Case, Manifest


def predict_command(run: Path, data: Path, *, held_out: bool = True) -> str:
    """The command that uses a model: on the test cases of its data set, else the validation cases, else any image.

    Args:
        run: folder of the run, or of the runs of all folds.
        data: manifest.
        held_out: whether the model was not trained on the validation cases, as those of all folds together are.
    """
    manifest = Manifest.load(data)
    inputs = ["--input", str(data)]
    if not manifest.test and manifest.validation and held_out:
        inputs += ["--section", "validation"]
    elif not manifest.test:
        inputs = ["--input", "IMAGES"]
    return _command("predict", "--model", str(run), *inputs, "--output", str(run / "predictions"))


def judging_manifest(run: Path, data: Path) -> Path:
    """What to predict and evaluate by: the data set, or the run's own manifest if that alone has no background.

    Args:
        run: folder of the run.
        data: manifest that it was given; its pipeline may have said `data.has_background: false`.
    """
    own = run / "manifest.json"
    if own.is_file() and not Manifest.load(own).has_background and Manifest.load(data).has_background:
        return own
    return data


def evaluate_command(inputs: Path, output: Path, section: str | None) -> str | None:
    """The command that evaluates predictions; None where there is no reference label.

    Args:
        inputs: what was predicted.
        output: folder of the predictions.
        section: list of the manifest, if one was given.
    """
    if inputs.suffix.lower() != ".json" or not inputs.is_file():
        return None
    manifest = Manifest.load(inputs)
    if not _has_labels(manifest, section):
        return None
    further = ["--section", section] if section else []
    return _command("evaluate", "--prediction", str(output), "--reference", str(inputs), *further)


def _has_labels(manifest: Manifest, section: str | None) -> bool:
    """Whether any case that was predicted has a reference label."""
    predicted = ["test"] if manifest.test else list(SECTIONS)
    sections = [section] if section else predicted
    cases: list[Case] = []
    for name in sections:
        cases += getattr(manifest, name)
    if any(case.label for case in cases):
        return True
    return bool(cases) and all(value_of(manifest, case) is not None for case in cases)


def start_command(encoder: Path, data: Path, overrides: Sequence[str] = ()) -> str:
    """The command that trains a segmenter which starts from an encoder; what was set of the background stays set."""
    further = []
    for override in overrides:
        if override.startswith("data.has_background="):
            further += ["--set", override]
    return _command("train", "--task", "supervised", "--data", str(data), "--init-from", str(encoder), *further)


def train_command(plan: Path, data: Path, device: str, methods: Sequence[str] = ()) -> str:
    """The command that trains a plan; methods of the user's own have to be named again."""
    further = []
    for method in methods:
        further += ["--method", method]
    if device != "auto":
        further += ["--device", device]
    return _command("train", "--task", str(plan), "--data", str(data), *further)


def check_command(manifest: Path) -> str:
    """The command that checks a manifest."""
    return _command("data", "check", str(manifest))


def _command(*words: str) -> str:
    return shlex.join(["medseg", *words])
