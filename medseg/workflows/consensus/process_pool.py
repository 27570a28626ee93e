"""Many studies, one process per core: a study that fails, or kills its process, does not stop the others.

Each worker has its own pipe and gets one study at a time. When the command is killed the pipes end and so do the
workers, after the study that they are at; when a worker is killed its study is listed as failed and another worker
takes its place. A worker's numeric libraries use one thread, or the cores would be shared by too many.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, cast

from medseg.consensus.io.file_names import is_series
from medseg.cores import usable_cores
from medseg.dicom.series import open_series
from medseg.errors import ConfigError, MedsegError, OutputError
from medseg.portable.io.read import read_header
from medseg.stopping import shield_from_interrupts
from medseg.workflows.consensus.case import fuse_item
from medseg.workflows.consensus.collect_studies import Item
from medseg.workflows.consensus.options import ConsensusOptions

BYTES_PER_VOXEL = 48
"""That fusing takes at its peak, about: measured on five raters and two classes."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


class Task(NamedTuple):
    """One study and where its results go."""

    item: Item
    folder: Path
    options: ConsensusOptions


class Worker(NamedTuple):
    """A process and our end of its pipe."""

    process: Any
    pipe: Connection


def done_or_failed(task: Task) -> dict[str, Any]:
    """Fuse one study; what is wrong with its files becomes its status.

    Raises:
        ConfigError, OutputError: what concerns every study.
    """
    try:
        return fuse_item(task.item, task.folder, task.options)
    except (ConfigError, OutputError):
        raise
    except MedsegError as error:
        return {"case": task.item.name, "status": "failed", "error": str(error)}


def run_all(tasks: Sequence[Task], jobs: int) -> Generator[dict[str, Any], None, None]:
    """Fuse all studies; yields what to tell of each as it ends.

    Args:
        tasks: the studies.
        jobs: processes; 1: this one.

    Raises:
        ConfigError, OutputError: what concerns every study; what is done by then stays.
    """
    if min(jobs, len(tasks)) <= 1:
        yield from map(done_or_failed, tasks)
        return
    waiting = list(reversed(tasks))
    busy: dict[Connection, tuple[Worker, Task]] = {}
    with _one_thread():
        try:
            for _ in range(min(jobs, len(tasks))):
                _give(_hire(), waiting, busy)
            while busy:
                for pipe in wait(list(busy)):
                    worker, task = busy.pop(cast("Connection", pipe))
                    try:
                        answer = worker.pipe.recv()
                    except EOFError:
                        yield _died(worker, task)
                        worker = _hire() if waiting else worker
                    else:
                        if isinstance(answer, BaseException):
                            raise answer
                        yield answer
                    _give(worker, waiting, busy)
        finally:
            for worker, _ in busy.values():
                worker.process.terminate()
                worker.process.join()


def _give(worker: Worker, waiting: list[Task], busy: dict[Connection, tuple[Worker, Task]]) -> None:
    """The next study, or leave to go."""
    if not waiting:
        worker.pipe.close()
        return
    task = waiting.pop()
    worker.pipe.send(task)
    busy[worker.pipe] = (worker, task)


def _hire() -> Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    with shield_from_interrupts():
        process.start()
    theirs.close()
    return Worker(process, ours)


def _work(pipe: Connection) -> None:
    """What a worker does until its pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command stops, and tells
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            answer: Any = done_or_failed(task)
        except Exception as error:  # raised again by the command
            answer = error
        try:
            pipe.send(answer)
        except OSError:  # the command is gone
            return


def _died(worker: Worker, task: Task) -> dict[str, Any]:
    worker.process.join()
    why = f"its process ended with {worker.process.exitcode}; out of memory? Try fewer --jobs"
    return {"case": task.item.name, "status": "failed", "error": f"{task.item.annotations[0]}: {why}"}


@contextmanager
def _one_thread() -> Iterator[None]:
    """For processes that are started meanwhile."""
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
