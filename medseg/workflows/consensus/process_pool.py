"""Many studies, one process per core: a study that fails, or kills its process, does not stop the others.

Each worker has its own pipe and gets one study at a time. When the command is killed the pipes end and so do the
workers, after the study that they are at; when a worker is killed its study is listed as failed and another worker
takes its place. A worker's numeric libraries use one thread, or the cores would be shared by too many.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, cast

from medseg.consensus.io.file_names import is_series
from medseg.cores import usable_cores
from medseg.dicom.scan.series import open_series
from medseg.errors import MedsegError
from medseg.portable.io.read import read_header
from medseg.stopping import shield_from_interrupts
from medseg.workflows.consensus.collect_studies import Item

BYTES_PER_VOXEL = 48
"""That fusing takes at its peak, about: measured on five raters and two classes."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


Work = Callable[[Item], dict[str, Any]]
"""What is done with one study, in whichever process; returns what to tell of it."""


class Worker(NamedTuple):
    """A process and our end of its pipe."""

    process: Any
    pipe: Connection


def run_all(items: Sequence[Item], work: Work, jobs: int) -> Generator[dict[str, Any], None, None]:
    """Do the work for all studies; yields what to tell of each as it ends.

    Args:
        items: the studies.
        work: what is done with each; it can be pickled.
        jobs: processes; 1: this one.

    Raises:
        Exception: what `work` raises; what is done by then stays.
    """
    if min(jobs, len(items)) <= 1:
        yield from map(work, items)
        return
    waiting = list(reversed(items))
    busy: dict[Connection, tuple[Worker, Item]] = {}
    with _one_thread():
        try:
            for _ in range(min(jobs, len(items))):
                _give(_hire(work), waiting, busy)
            while busy:
                for pipe in wait(list(busy)):
                    worker, item = busy.pop(cast("Connection", pipe))
                    try:
                        answer = worker.pipe.recv()
                    except (EOFError, OSError):  # the latter if it ended before it took the study
                        yield _report_dead_worker(worker, item)
                        worker = _hire(work) if waiting else worker
                    else:
                        if isinstance(answer, BaseException):
                            raise answer
                        yield answer
                    _give(worker, waiting, busy)
        finally:
            for worker, _ in busy.values():
                worker.process.terminate()
                worker.process.join()


def _give(worker: Worker, waiting: list[Item], busy: dict[Connection, tuple[Worker, Item]]) -> None:
    """Give a worker the next study, or let it end."""
    if not waiting:
        worker.pipe.close()
        return
    item = waiting.pop()
    with suppress(OSError):  # it has ended; that is told where its answer is waited for
        worker.pipe.send(item)
    busy[worker.pipe] = (worker, item)


def _hire(work: Work) -> Worker:
    """A new worker process."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, work), daemon=True)
    with shield_from_interrupts():
        process.start()
    theirs.close()
    return Worker(process, ours)


def _work(pipe: Connection, work: Work) -> None:
    """The loop of a worker process: one study after another, until its pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command stops, and tells
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            answer: Any = work(item)
        except Exception as error:  # raised again by the command
            answer = error
        try:
            pipe.send(answer)
        except OSError:  # the command is gone
            return


def _report_dead_worker(worker: Worker, item: Item) -> dict[str, Any]:
    worker.process.join()
    why = f"its process ended with {worker.process.exitcode}; out of memory? Try fewer --jobs"
    return {"case": item.name, "status": "failed", "error": f"{item.annotations[0]}: {why}"}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let the numeric libraries of processes that are started meanwhile use one thread each."""
    before = {name: os.environ[name] for name in THREADS if name in os.environ}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name in THREADS:
            del os.environ[name]
        os.environ.update(before)


def fitting_jobs(items: Sequence[Item]) -> int:
    """Processes for all cores, or as many as the memory holds of the first study."""
    cores = usable_cores()
    first = (*items[0].images, *items[0].annotations)[0]
    try:
        shape = (open_series(first).header if is_series(first) else read_header(first)).shape
    except MedsegError:  # told when its turn comes
        return cores
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    each = BYTES_PER_VOXEL
    for n in shape:
        each *= n
    return max(1, min(cores, memory // 2 // each))
