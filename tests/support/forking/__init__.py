"""Python that starts at once: a copy of a process that has imported torch, MONAI and medseg already.

`python()` is a program that tests call in place of `sys.executable`, by `subprocess` as ever. It asks the fork server
of this test process (`server.py`) for a copy that runs the command, passes on its signals and ends as it does. What has
to be a process from its first instruction is called by `sys.executable`: start-up and what is imported then, memory
settings of the C library, torchrun, servers, groups of processes, use of time and memory as the system counts them, and
what is killed and must be gone at once: the server ends the copy a moment later, though before it makes another.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from forking.request import ROOT

HERE = Path(__file__).parent
CLIENT = """#!{python} -IS
import sys
sys.path.insert(0, {support!r})
from forking.client import main
main({real!r}, {address!r})
"""
SOCKET = "socket"
PATIENCE_SECONDS = 120
_running: list[subprocess.Popen[bytes]] = []


@cache
def folder(imported: str = "medseg", modules: str = str(ROOT)) -> Path:
    """Has the programs `python`, `medseg` and `torchrun`; the server behind them runs until this process ends.

    Where the system cannot do that (it needs Linux) they are those of this environment.

    Args:
        imported: what copies have imported already, as in `server.IMPORTED`.
        modules: folder that is `PYTHONPATH` as the server starts; a `sitecustomize.py` in it is run by then.
    """
    if not hasattr(os, "pidfd_open"):
        return Path(sys.executable).parent
    place = Path(tempfile.mkdtemp(prefix="medseg-fork-"))
    real = {
        "python": [sys.executable],
        "medseg": [sys.executable, str(Path(sys.executable).with_name("medseg"))],
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
    }
    for name, words in real.items():
        client = place / name
        text = CLIENT.format(python=sys.executable, support=str(HERE.parent), real=words, address=str(place / SOCKET))
        client.write_text(text)
        client.chmod(0o755)
    _start_server(place, imported, modules)
    return place


def python() -> str:
    """The program to call in place of `sys.executable`."""
    return str(folder() / "python") if hasattr(os, "pidfd_open") else sys.executable


def _start_server(place: Path, imported: str, modules: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([modules, str(HERE.parent)])
    of_callers = json.dumps(dict(os.environ) | {"PYTHONPATH": modules})
    server = subprocess.Popen(
        [sys.executable, str(HERE / "server.py"), str(place / SOCKET), of_callers, imported],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert server.stdout is not None
    if server.stdout.readline() != b"ready\n":
        raise RuntimeError(f"the fork server did not start: exit code {server.wait(PATIENCE_SECONDS)}")
    _running.append(server)
    atexit.register(server.communicate)  # it ends with its standard input
