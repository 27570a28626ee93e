"""The queue of a comparison's runs: side by side, each trained and then judged on cores of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import IO

from medseg.stopping import describe_stop
from medseg.workflows.compare.folder import hold
from medseg.workflows.compare.runs.one_run import OneRun
from medseg.workflows.compare.runs.processes import POLL_SECONDS, Child, end_all
from medseg.workflows.compare.runs.time_left import TimeLeft
from medseg.workflows.compare.scores.rows import RunRow

LOCK = ".lock"


class _Active:
    """A run that is being made.

    Args:
        run: which.
        cores: those of its processes.
        lock: held by this command and by the processes until all of them have ended.
    """

    def __init__(self, run: OneRun, cores: tuple[int, ...], lock: IO[bytes]) -> None:
        self.run, self.cores, self._lock = run, cores, lock
        run.begin()
        self.trains = True
        self.child = self._start(run.training())

    def _start(self, arguments: Sequence[str]) -> Child:
        return Child(arguments, self.cores, self.run.log, keep_open=[self._lock.fileno()])

    def advance(self) -> RunRow | None:
        """Go on as far as can be without waiting; gives the row once the run is finished or has failed."""
        code = self.child.poll()
        if code is None:
            return None
        if self.trains:
            self.run.add_usage(self.child.usage)
        if code != 0:
            how = self.child.describe_failure(code)
            return self.run.fail(how if self.trains else f"trained, but could not be judged: {how}")
        if self.trains:
            self.trains = False
            self.child = self._start(self.run.judging())
            return None
        return self.run.finish()


class RunQueue:
    """Runs that this command makes.

    Args:
        runs: in their order.
        shares: of the cores, one for each run that is made at a time.
        ended: called with each run's row when it is finished or has failed.
        tick: called while runs are made.
        left: is told of runs that begin and end.
    """

    def __init__(
        self,
        runs: Sequence[OneRun],
        shares: Sequence[tuple[int, ...]],
        ended: Callable[[RunRow], None],
        tick: Callable[[], None],
        left: TimeLeft | None = None,
    ) -> None:
        self._left = left or TimeLeft([run.key for run in runs], len(shares))
        self._waiting = deque(runs)
        self._free = deque(shares)
        self._ended, self._tick = ended, tick
        self._active: list[_Active] = []
        self._locks: dict[int, ExitStack] = {}
        self.elsewhere: list[OneRun] = []
        """Runs that another command is making."""
        self.made_elsewhere: list[OneRun] = []
        """Runs that another command has made since this one began."""

    def run(self) -> None:
        """Make all runs; one that fails holds up no other.

        Raises:
            Stopped: by a signal; the processes have saved what they have.
        """
        try:
            while self._waiting or self._active:
                self._start_waiting()
                for active in list(self._active):
                    row = active.advance()
                    if row is not None:
                        self._remove(active)
                        self._left.end(active.run.key, failed=bool(row.message))
                        self._ended(row)
                self._tick()
                if self._active:
                    time.sleep(POLL_SECONDS)
        except BaseException as error:
            self._stop()
            if isinstance(error, KeyboardInterrupt):
                raise describe_stop(error) from error
            raise

    def _start_waiting(self) -> None:
        while self._waiting and self._free:
            run = self._waiting.popleft()
            stack = ExitStack()
            lock = stack.enter_context(hold(run.path / LOCK, wait=False))
            if lock is None:
                stack.close()
                self.elsewhere.append(run)
                self._left.leave_out(run.key)
                continue
            if run.is_made:  # by another command, which has let it go since this one began
                stack.close()
                self.made_elsewhere.append(run)
                self._left.leave_out(run.key)
                continue
            active = _Active(run, self._free.popleft(), lock)
            self._active.append(active)
            self._left.begin(run.key)
            self._locks[id(active)] = stack

    def _remove(self, active: _Active) -> None:
        self._active.remove(active)
        self._locks.pop(id(active)).close()
        self._free.append(active.cores)

    def _stop(self) -> None:
        """Let all processes save what they have, and note what they took until now."""
        try:
            end_all([active.child for active in self._active])
        finally:
            for active in list(self._active):
                if active.trains and active.child.poll() is not None:  # else nobody knows what it took
                    active.run.add_usage(active.child.usage)
                self._remove(active)
