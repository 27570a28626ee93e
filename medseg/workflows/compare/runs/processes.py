"""Processes of a comparison: each on cores of its own, its output in a log, what it took measured."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.atomic import make_folder
from medseg.cores import core_numbers, pinned, usable_cores
from medseg.errors import ConfigError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in which the system counts the memory of a process that has ended."""
STOP_CODES = (130, 143, -signal.SIGTERM, -signal.SIGINT)
"""Of a process that was stopped by a signal."""
WARNING = "warning: "
"""How lines begin that tell of something that a user would want to know."""


@dataclass(frozen=True)
class Usage:
    """What a process and the processes that it waited for took.

    Args:
        cpu_seconds: user and system time of all of them.
        wall_seconds: from its start to its end.
        peak_bytes: largest resident memory of a single one of them.
    """

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_bytes: int = 0

    def plus(self, other: Usage) -> Usage:
        """Of two processes, one after the other."""
        return Usage(
            self.cpu_seconds + other.cpu_seconds,
            self.wall_seconds + other.wall_seconds,
            max(self.peak_bytes, other.peak_bytes),
        )


def share_cores(jobs: int) -> list[tuple[int, ...]]:
    """The cores that this process may use, in equal shares.

    Args:
        jobs: number of shares.

    Raises:
        ConfigError: more shares than cores.
    """
    cores = core_numbers()[: usable_cores()]  # a container may have the time of fewer cores than it may run on
    if jobs > len(cores):
        raise ConfigError(f"--jobs {jobs}: this process may use {len(cores)} cores, and each run needs one")
    size = len(cores) // jobs
    return [tuple(cores[number * size : (number + 1) * size]) for number in range(jobs)]


class Child:
    """A running process.

    Args:
        arguments: of `python`, such as ("-m", "medseg", "train").
        cores: that it may use.
        log: file that its output is added to.
        keep_open: descriptors that it inherits.
    """

    def __init__(
        self, arguments: Sequence[str], cores: tuple[int, ...], log: Path, keep_open: Sequence[int] = ()
    ) -> None:
        self.log = log
        make_folder(log.parent)
        self._begins = log.stat().st_size if log.exists() else 0
        self._began = time.monotonic()
        environment = dict(os.environ) | dict.fromkeys(THREADS, str(len(cores)))
        with log.open("ab") as stream, pinned(cores):
            # a session of its own: Ctrl-C reaches this command alone, which stops its children one by one
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=tuple(keep_open),
            )
        self.usage = Usage()
        self._peak_bytes = 0
        self._looked = 0.0

    def poll(self) -> int | None:
        """Its exit code; None while it runs. Once it has ended, `usage` is what it took."""
        process = self._process
        if process.returncode is not None:
            return process.returncode
        ended, status, taken = os.wait4(process.pid, os.WNOHANG)
        if ended == 0:
            self._look_at_memory()
            return None
        process.returncode = os.waitstatus_to_exitcode(status)
        # where a child took less than this process, the system tells what this process had when it started the child
        alone = taken.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = int(taken.ru_maxrss) * RSS_UNIT if alone or not self._peak_bytes else self._peak_bytes
        self.usage = Usage(taken.ru_utime + taken.ru_stime, time.monotonic() - self._began, peak)
        return process.returncode

    def _look_at_memory(self) -> None:
        """Note the largest memory that one of the processes had until now."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            for number in _tree(self._process.pid):
                self._peak_bytes = max(self._peak_bytes, _peak_of(number))

    def stop(self) -> None:
        """Ask it to save what it has and to end."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and the processes that it started."""
        if self.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def describe_failure(self, code: int) -> str:
        """Why it ended with this code: by a signal, or what the last line says that it wrote."""
        if code in STOP_CODES:
            return f"stopped from outside ({code})"
        written = self._lines()
        last = written[-1].removeprefix("error: ") if written else "it wrote nothing"
        if code >= 0:
            return last
        memory = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{memory}; its last line: {last}"

    def warnings(self) -> list[str]:
        """The warnings that it wrote, without the word."""
        return [line.removeprefix(WARNING) for line in self._lines() if line.startswith(WARNING)]

    def _lines(self) -> list[str]:
        with self.log.open("rb") as stream:
            stream.seek(self._begins)
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
        return [" ".join(line.split()) for line in lines if line.strip()]


def _tree(process: int) -> Iterator[int]:
    """A process and all that it started, where the system tells them (Linux)."""
    yield process
    try:
        lists = [path.read_text(encoding="ascii") for path in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:  # it has ended meanwhile
        return
    for text in lists:
        for child in text.split():
            yield from _tree(int(child))


def _peak_of(process: int) -> int:
    """Largest resident memory of a process until now, in bytes; 0 where the system does not tell it."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def end_all(children: Sequence[Child]) -> None:
    """Stop children and wait until they have saved what they have; a second interruption ends them at once."""
    for child in children:
        child.stop()
    try:
        while any(child.poll() is None for child in children):
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        for child in children:
            child.kill()
        raise
