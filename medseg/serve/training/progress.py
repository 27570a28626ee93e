"""How far a training is: read from its log while it runs, kept in a file that every process of the server can read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medseg.atomic import write_whole
from medseg.errors import MedsegError

STATUS = "training.json"
EVERY = 1.0  # seconds between two looks

Say = Callable[[dict[str, Any]], None]


def reporter(folder: Path) -> Say:
    """Says where a training is: one line of JSON on standard output, and the same in the model's folder."""

    def say(facts: dict[str, Any]) -> None:
        line = json.dumps(facts)
        write_whole(folder / STATUS, line + "\n")  # first: there may be nobody any more who reads the output
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    return say


def status(folder: Path) -> dict[str, Any]:
    """The newest status of a model's training; empty where there is none."""
    try:
        found = json.loads((folder / STATUS).read_text("utf-8"))
    except (OSError, ValueError):  # nobody trained, or the disk was full
        return {}
    return dict(found) if isinstance(found, dict) else {}


def run_training(arguments: Sequence[str], run: Path, iterations: int, say: Say) -> None:
    """Run `medseg train` in a process of its own and say how far it is.

    Args:
        arguments: after `medseg train`.
        run: its run folder.
        iterations: of each network.
        say: gets what is to be told.

    Raises:
        MedsegError: it failed; the words are its own. Or the server ended.
    """
    log = run.parent / "train.log"
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "medseg", "train", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        records = 0
        # MONAI Label's task process, whose main thread this is, ends with the server; its own thread does anyway
        server = os.getppid() if threading.current_thread() is threading.main_thread() else None
        try:
            while child.poll() is None:
                time.sleep(EVERY)
                if server is not None and os.getppid() != server:
                    raise MedsegError("the server ended, and its training with it")
                records = _report_newest(run, records, iterations, say)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    _report_newest(run, records, iterations, say)
    if child.returncode:
        raise MedsegError(_last_words(log, child.returncode))


def _report_newest(run: Path, before: int, iterations: int, say: Say) -> int:
    """Say what the newest record of the training's logs says, if there are more than before; returns how many."""
    lines: list[str] = []
    for log in sorted(run.rglob("metrics.jsonl")):
        lines += _whole_lines(log)
    if len(lines) > before:
        say({"status": "training", "iterations": iterations, **json.loads(lines[-1])})
    return len(lines)


def _whole_lines(log: Path) -> list[str]:
    """The lines that are written to their end."""
    text = log.read_text("utf-8")
    lines = text.splitlines()
    return lines if text.endswith("\n") else lines[:-1]


def _last_words(log: Path, code: int) -> str:
    """The last error that a training has written, or its last line."""
    last_line, last_error = "no words", ""
    for line in log.read_text("utf-8", "replace").splitlines():
        if line.startswith("error: "):
            last_error = line.removeprefix("error: ")
        if line.strip():
            last_line = line
    return last_error or f"training ended with code {code}: {last_line} (see {log})"
