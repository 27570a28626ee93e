"""The fork server: one process that has imported everything and done nothing, and becomes what it is asked for.

    python server.py SOCKET ENVIRONMENT IMPORTED      until its standard input ends

It never runs an operation of torch and starts no thread, so that its copies are as good as new. Each copy takes over
the client's folder, environment, open files, cores, limits and ignored signals, leads a session of its own, and has a
random state of its own. Where a variable of the environment works only on a process that starts, the client is told to
start one.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib
import json
import os
import random
import resource
import runpy
import selectors
import shutil
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from forking.request import ROOT, read_at_start, receive, send

IMPORTED = {
    "medseg": (
        "torch", "torch._dynamo", "monai", "deflate", "medseg.cli.app", "medseg.bundle.runner",
        "medseg.methods.supervised", "medseg.workflows.compare.run", "medseg.workflows.compare.scores.judge",
        "medseg.workflows.consensus.run", "medseg.workflows.data.check", "medseg.workflows.data.init",
        "medseg.workflows.demo.run", "medseg.workflows.evaluate.run", "medseg.workflows.predict.run",
        "medseg.workflows.train.run", "medseg.workflows.train.plan",
    ),
    "monai": ("torch", "torch._dynamo", "monai", "monai.bundle", "ignite.metrics", "nibabel", "scipy.ndimage", "fire"),
}  # fmt: skip
"""What copies have imported, by a word for it."""


def serve(address: str, environment: dict[str, str]) -> dict:
    """Answer clients until standard input ends; returns in the copies alone, with what was asked of them."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    children = _Children()
    with selectors.DefaultSelector() as selector:
        children.selector = selector
        selector.register(sys.stdin, selectors.EVENT_READ, "end")
        selector.register(listener, selectors.EVENT_READ, "new")
        while True:
            events = selector.select()
            events.sort(key=lambda event: event[0].data == "new")  # who comes next finds what was killed before dead
            for key, _ in events:
                if key.data == "end":
                    children.end()
                    shutil.rmtree(Path(address).parent, ignore_errors=True)
                    sys.exit(0)
                if key.data != "new":
                    children.look(*key.data)
                    continue
                connection, _ = listener.accept()
                request, files = receive(connection, 3)
                if request is None or read_at_start(request["environment"]) != read_at_start(environment):
                    _refuse(connection, files)
                    continue
                process = os.fork()
                if process == 0:
                    children.forget()
                    connection.close()
                    listener.close()
                    selector.close()
                    return {**request, "files": files}
                for file in files:
                    os.close(file)
                children.add(process, connection)


def _refuse(connection: socket.socket, files: list[int]) -> None:
    for file in files:
        os.close(file)
    with connection:
        send(connection, "start a process")


class _Children:
    """The copies that run, and the clients that wait for them."""

    selector: selectors.BaseSelector

    def __init__(self) -> None:
        self._running: dict[int, tuple[int, socket.socket]] = {}

    def add(self, process: int, connection: socket.socket) -> None:
        handle = os.pidfd_open(process)
        self._running[process] = handle, connection
        self.selector.register(handle, selectors.EVENT_READ, ("ended", process))
        self.selector.register(connection, selectors.EVENT_READ, ("left", process))
        send(connection, process)

    def look(self, what: str, process: int) -> None:
        """A copy has ended, or its client is gone without waiting for it."""
        if process not in self._running:
            return
        if what == "left":
            _kill(process)
        handle, connection = self._running.pop(process)
        self.selector.unregister(handle)
        self.selector.unregister(connection)
        os.close(handle)
        _, status = os.waitpid(process, 0)
        with connection:
            if what == "ended":
                try:
                    send(connection, status)
                except OSError:  # it was killed meanwhile
                    _kill(process)

    def end(self) -> None:
        for process in self._running:
            _kill(process)

    def forget(self) -> None:
        """In a copy: these are not its own."""
        for handle, connection in self._running.values():
            os.close(handle)
            connection.close()


def _kill(process: int) -> None:
    """A copy and all that it started in its group."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def become(request: dict) -> NoReturn:
    """Be the process that was asked for, run it, and end as a process that runs it ends."""
    os.setsid()
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, encoding=sys.stdin.encoding, closefd=False)  # noqa: SIM115 - open until the end
    os.chdir(request["folder"])
    os.sched_setaffinity(0, request["cores"])
    for name, (soft, hard) in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, _as_at_start(number, number in request["ignored"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    _follow_environment(request)
    _renew_random_state()
    _end(_exit_code(request["arguments"]))


def _as_at_start(number: int, ignored: bool) -> signal.Handlers | object:
    if ignored or number in (signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)):
        return signal.SIG_IGN
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def _follow_environment(request: dict) -> None:
    """What torch and Python have taken from the environment already, where it can be changed."""
    import torch

    threads = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS")
    wanted = int(threads) if threads else len(request["cores"])
    if torch.get_num_threads() != wanted:  # setting it, even to what it is, may start a thread
        torch.set_num_threads(wanted)
    own = [path for path in sys.path[1:] if path not in (str(ROOT), str(Path(__file__).parents[1]))]
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[1:] = [*given, *own]
    sys.executable = str(Path(sys.argv[1]).with_name("python"))  # for what it starts in turn
    if os.environ.get("PYTHONUNBUFFERED"):
        _write_at_once()
    if os.environ.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()


def _write_at_once() -> None:
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]


def _renew_random_state() -> None:
    import numpy as np
    import torch
    from monai.transforms import Randomizable

    random.seed()
    np.random.seed()
    Randomizable.R.seed()
    torch.seed()


def _run(words: list[str]) -> None:
    """Run `python WORDS`."""
    first, *rest = words[1:]
    if first == "-u":  # as torchrun starts its processes
        _write_at_once()
        first, *rest = rest
    sys.orig_argv = list(words)
    if first == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = ["-m", *rest[1:]]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *rest[1:]]
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [first, *rest]
        sys.path[0] = str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


def _exit_code(words: list[str]) -> int:
    """Of the program, or minus the number of the signal that ends it; what the interpreter says of it is said."""
    try:
        _run(words)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, _own_frames_cut(error))
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _own_frames_cut(error: BaseException) -> TracebackType | None:
    """The traceback without this file's frames and those of runpy."""
    traceback = error.__traceback__
    while traceback and traceback.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        traceback = traceback.tb_next
    return traceback


def _end(code: int) -> NoReturn:
    """What the interpreter does at its end, but for clearing all modules: that would copy the memory of all of them."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, and for pools of them
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    for name in IMPORTED[sys.argv[3]]:
        importlib.import_module(name)
    os.fsync = os.fstat  # as in tests/conftest.py
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would not be copied"
    gc.collect()
    gc.freeze()  # what all copies share is not looked through by each of them
    become(serve(sys.argv[1], json.loads(sys.argv[2])))
