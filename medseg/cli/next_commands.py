"""The command that comes next, ready to be copied."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from medseg.manifest.manifest import SECTIONS, Manifest


def predict_command(run: Path, data: Path) -> str:
    """The command that uses a model: on the test cases of its data set, else on validation cases, else on any image."""
    manifest = Manifest.load(data)
    inputs = ["--input", str(data)]
    if not manifest.test and manifest.validation:
        inputs += ["--section", "validation"]
    elif not manifest.test:
        inputs = ["--input", "IMAGES"]
    return _command("predict", "--model", str(run), *inputs, "--output", str(run / "predictions"))


def evaluate_command(inputs: Path, output: Path, section: str | None) -> str | None:
    """The command that measures predictions; None where nothing is known to measure them against.

    Args:
        inputs: what was predicted.
        output: folder of the predictions.
        section: list of the manifest, if one was given.
    """
    if inputs.suffix.lower() != ".json" or not inputs.is_file():
        return None
    manifest = Manifest.load(inputs)
    predicted = ["test"] if manifest.test else list(SECTIONS)
    sections = [section] if section else predicted
    if not any(case.label for name in sections for case in getattr(manifest, name)):
        return None
    chosen = ["--section", section] if section else []
    return _command("evaluate", "--prediction", str(output), "--reference", str(inputs), *chosen)


def train_command(plan: Path, data: Path, device: str, methods: Sequence[str] = ()) -> str:
    """The command that trains a plan; methods of the user's own have to be named again."""
    own = [word for method in methods for word in ("--method", method)]
    chosen = [] if device == "auto" else ["--device", device]
    return _command("train", "--task", str(plan), "--data", str(data), *own, *chosen)


def check_command(manifest: Path) -> str:
    """The command that checks a manifest."""
    return _command("data", "check", str(manifest))


def _command(*words: str) -> str:
    return shlex.join(["medseg", *words])
