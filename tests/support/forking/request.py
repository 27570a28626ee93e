"""What a client asks of the fork server, and what both know; imports nothing that takes time."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
READ_AT_START = ("LD_", "MALLOC_", "GLIBC_", "PYTHON", "KMP_", "GOMP_", "MKL_", "TORCH", "PYTORCH", "CUDA", "MPL")
"""Variables, by their beginnings, that a process reads as it starts or imports: a copy cannot follow them later."""

FOLLOWED = (
    "MKL_NUM_THREADS", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER",
    "TORCHINDUCTOR_CACHE_DIR", "TORCHELASTIC_", "TORCH_NCCL_",
)  # fmt: skip
"""Of these, those that it can follow, by their beginnings. Torch sets the cache also in a process that runs tests, and
torchrun what follows it, which is read as processes meet."""

LIMITS = tuple(sorted(name for name in dir(resource) if name.startswith("RLIMIT_")))
_LENGTH = struct.Struct("!I")


def describe(arguments: list[str]) -> dict:
    """This process: what a copy needs to be in its place."""
    return {
        "arguments": arguments,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "cores": sorted(os.sched_getaffinity(0)),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
        "ignored": [number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN],
    }


def read_at_start(environment: dict[str, str]) -> dict[str, str]:
    """The variables that only a new process follows, and the folders whose `sitecustomize.py` it would run."""
    found = {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_START) and not name.startswith(FOLLOWED) and name != "PYTHON"  # a script's own
    }
    for path in environment.get("PYTHONPATH", "").split(os.pathsep):
        if (Path(path) / "sitecustomize.py").exists():
            found["PYTHONPATH"] = environment["PYTHONPATH"]
    return found


def send(connection: socket.socket, content: object, descriptors: tuple[int, ...] = ()) -> None:
    """Send JSON, and open files with it."""
    text = json.dumps(content).encode()
    head = _LENGTH.pack(len(text))
    if descriptors:
        socket.send_fds(connection, [head], descriptors)
    else:
        connection.sendall(head)
    connection.sendall(text)


def receive(connection: socket.socket, descriptors: int = 0) -> tuple[object, list[int]]:
    """What the other side sent; None if it is gone."""
    files: list[int] = []
    if descriptors:
        head, files, _, _ = socket.recv_fds(connection, _LENGTH.size, descriptors)
    else:
        head = connection.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(head) < _LENGTH.size:
        return None, files
    text = connection.recv(*_LENGTH.unpack(head), socket.MSG_WAITALL)
    return json.loads(text), files
