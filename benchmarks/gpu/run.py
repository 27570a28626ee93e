"""Runs the steps of a part one after the other, each in a process of its own with a time limit.

Started by `run.sh`. After every step the tables so far are printed; whatever happens to a step, the next one follows.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from journal import MACHINE, Journal
from setting import Setting

GRACE_SECONDS = 8
"""Between the signal that asks a step to end and the one that ends it."""
WORTH_STARTING = 12
"""Seconds below which a step is not begun: importing alone takes most of that."""
NOTED = 3
"""Exit code of a step whose failure is in the results already."""
INTERRUPTED = 130


@dataclass(frozen=True)
class Step:
    """One process.

    Args:
        module: with the work.
        functions: called one after the other with a `Setting`; one that fails does not keep the next from running.
        seconds: at most; less where the part's time ends before.
        share: at most, of what is left of the part's time.
    """

    module: str
    functions: tuple[str, ...]
    seconds: float = math.inf
    share: float = 1.0

    @property
    def name(self) -> str:
        """As in `ONLY` and in the notes."""
        return f"{self.module}:{'+'.join(self.functions)}"


PARTS = {
    "part1": (
        Step("steps", ("volume",), 75),
        Step("loading", ("together", "alone"), 60),
        Step("checks", ("resumed", "repeatable", "nccl"), 60),
        Step("windows", ("sliding",), 75),
        Step("steps", ("planar",), 30),
        Step("steps", ("compiled",), 120),
    ),
    "part2": (
        Step("trainings", ("plan",), 60),
        Step("trainings", ("dtc",), share=0.55),
        Step("trainings", ("supervised", "compare")),
    ),
}
"""What no longer fits is left out, and said."""


def main() -> int:
    """Run a part, or as a child one step of it."""
    chosen = arguments()
    setting = Setting(
        part=chosen.part,
        out=chosen.out.resolve(),
        work=(chosen.work / chosen.part).resolve(),
        until=chosen.until or chosen.deadline,
        deadline=chosen.deadline,
        tiny=chosen.tiny,
    )
    signal.signal(signal.SIGTERM, interrupt)
    known = {step.name: step for step in PARTS[chosen.part]}
    try:
        return child(setting, known[chosen.step]) if chosen.step else parent(setting, chosen.only)
    except KeyboardInterrupt:
        return INTERRUPTED


def interrupt(number: int, frame: FrameType | None) -> None:
    """Let a TERM unwind like Ctrl-C."""
    raise KeyboardInterrupt


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, required=True, help="folder of everything else")
    parser.add_argument("--deadline", type=float, required=True, help="when the part ends, in seconds since 1970")
    parser.add_argument("--tiny", action="store_true", help="a dry run with tiny sizes")
    parser.add_argument(
        "--only", nargs="*", default=[], help="steps to run, such as steps:compiled; the rows are added"
    )
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def parent(setting: Setting, only: list[str]) -> int:
    """All steps, or some; 1 if one of them failed or was left out, 2 for one that there is not."""
    steps = {step.name: step for step in PARTS[setting.part]}
    unknown = [name for name in only if name not in steps]
    if unknown:
        print(f"error: no step {unknown[0]!r} in {setting.part}; accepted are {', '.join(steps)}", file=sys.stderr)
        return 2
    journal = Journal(setting.out, setting.part)
    command = os.environ.get("GPU_COMMAND", shlex.join(sys.argv))
    begun = {"command": command, "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}
    if only and journal.rows():
        journal.add(MACHINE, **begun)
    else:
        journal.start(begun)
    setting.work.mkdir(parents=True, exist_ok=True)
    good = True
    for step in steps.values():
        if not only or step.name in only:
            good &= run(step, setting, journal)
            shutil.copy(journal.rows_file, setting.work.parent)  # part 2 looks for the paces of part 1 there too
            print(f"\n{journal.markdown()}", flush=True)
    print(f"results: {journal.tables_file} and {journal.rows_file}")
    return int(not good)


def run(step: Step, setting: Setting, journal: Journal) -> bool:
    """One step in its own process; whether all of it went well. What did not is in the notes."""
    now = time.time()
    left = setting.deadline - GRACE_SECONDS - now
    seconds = min(step.seconds * (10 if setting.tiny else 1), step.share * left)
    if seconds < WORTH_STARTING:
        journal.note(step.name, f"left out: {max(0.0, left):.0f} s left")
        return False
    print(f"\n--- {step.name}, at most {seconds:.0f} s", flush=True)
    command = [sys.executable, *sys.argv, "--step", step.name, "--until", str(now + seconds)]
    # a group of its own, so that its loader workers can be ended with it
    process = subprocess.Popen(command, preexec_fn=os.setpgrp)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        end(process)
        journal.note(step.name, f"cut off after {seconds:.0f} s")
        return False
    except KeyboardInterrupt:
        end(process)
        journal.note(step.name, "interrupted")
        raise
    if code not in (0, NOTED):
        journal.note(step.name, f"ended with exit code {code}; the log tells more")
    return code == 0


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the step to save and stop; end it and all that it started if it does not."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_with(parent: int) -> None:
    """End this process and all that it started once its parent is gone, killed perhaps."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def child(setting: Setting, step: Step) -> int:
    """One step; a failure is one line in the results and a traceback in the log."""
    faulthandler.enable()
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    # whatever hangs, in C too, ends here
    faulthandler.dump_traceback_later(max(1.0, setting.until - time.time()) + GRACE_SECONDS, exit=True)
    code = 0
    for function in ("machine:describe", *(f"{step.module}:{name}" for name in step.functions)):
        module, name = function.split(":")
        try:
            getattr(importlib.import_module(module), name)(setting)
        except Exception as error:
            traceback.print_exc()
            first = str(error).strip().split("\n")[0][:200]
            setting.journal.note(function, f"{type(error).__name__}: {first}")
            code = NOTED
    return code


if __name__ == "__main__":
    sys.exit(main())
