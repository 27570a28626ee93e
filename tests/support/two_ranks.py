"""One of two processes that train every given life together, as torchrun would start it.

    RANK=0 ... python two_ranks.py JOB.json

The job says which lives, on what data set, where to, and a free port for each. In the folder each rank leaves a file
for each life: digests of the parameters after training, and of parameters and buffers as each step began.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

import torch
from lives import ITERATIONS, Life, every_life
from torch import Tensor

from medseg.method import Method
from medseg.workflows.train.stage import StageRun


def digest(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Name -> SHA-256 of the values."""
    return {name: hashlib.sha256(each.detach().numpy().tobytes()).hexdigest() for name, each in tensors}


def watch(method: Method, noted: list[dict[str, str]]) -> None:
    """Note the state of a method each time that a training step begins."""

    def note(module: torch.nn.Module, arguments: object) -> None:
        noted.append(digest(module.state_dict().items()))

    method.register_forward_pre_hook(note)


def live(life: Life, manifest: Path, folder: Path) -> dict[str, object]:
    """Train a life and say what the method was."""
    made: list[tuple[Method, list[dict[str, str]]]] = []
    original = StageRun._build_method

    def remembered(self: StageRun, previous: Path | None) -> Method:
        method = original(self, previous)
        noted: list[dict[str, str]] = []
        watch(method, noted)
        made.append((method, noted))
        return method

    StageRun._build_method = remembered  # type: ignore[method-assign]
    try:
        life.train(manifest, folder)
    finally:
        StageRun._build_method = original  # type: ignore[method-assign]
    method, steps = made[1 if life.is_last else 0]
    assert len(steps) == ITERATIONS
    return {"steps": steps, "end": digest(method.named_parameters())}


def main(job_file: Path) -> None:
    """Train the lives of a job one after the other; the first failure ends it."""
    job = json.loads(job_file.read_text())
    by_name = {str(life): life for life in every_life()}
    folder = Path(job["folder"])
    for name, port in job["ports"].items():
        os.environ["MASTER_PORT"] = str(port)
        out = folder / f"{name}-rank{os.environ['RANK']}.json"
        try:
            found = live(by_name[name], Path(job["manifest"]), folder / name)
        except BaseException:
            out.write_text(json.dumps({"error": traceback.format_exc()}))
            raise
        out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
