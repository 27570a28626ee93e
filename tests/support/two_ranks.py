"""One of two processes that train every given life together, as torchrun would start it.

    RANK=0 ... python two_ranks.py JOB.json

The job says which lives, on what data set, where to, and a free port for each. In the folder each rank leaves a file
for each life: digests of parameters and buffers as each step began, and of the parameters as it ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from lives import ITERATIONS, Life, every_life
from torch import Tensor

from medseg.method import Clock, Method
from medseg.workflows.train.stages.stage import StageRun


def digest(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Name -> SHA-256 of the values."""
    return {name: hashlib.sha256(each.detach().numpy().tobytes()).hexdigest() for name, each in tensors}


@dataclass
class Notes:
    """What a method was: the digests of its state as steps began, and of its parameters as they ended."""

    begun: list[dict[str, str]] = field(default_factory=list)
    ended: list[dict[str, str]] = field(default_factory=list)


def watch(method: Method) -> Notes:
    """Take notes of each training step."""
    notes = Notes()
    after_step = method.after_step

    def note_begin(module: torch.nn.Module, arguments: object) -> None:
        notes.begun.append(digest(module.state_dict().items()))

    def note_end(clock: Clock) -> None:
        after_step(clock)
        notes.ended.append(digest(method.named_parameters()))

    method.register_forward_pre_hook(note_begin)
    method.after_step = note_end  # type: ignore[method-assign]
    return notes


def live(life: Life, manifest: Path, folder: Path) -> Notes:
    """Train a life and say what the method was."""
    notes: list[Notes] = []
    original = StageRun._build_method

    def watched(self: StageRun, previous: Path | None) -> Method:
        method = original(self, previous)
        notes.append(watch(method))
        return method

    StageRun._build_method = watched  # type: ignore[method-assign]
    try:
        life.train(manifest, folder)
    finally:
        StageRun._build_method = original  # type: ignore[method-assign]
    of_method = notes[1 if life.is_last else 0]
    assert len(of_method.begun) == len(of_method.ended) == ITERATIONS
    return of_method


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
        out.write_text(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
