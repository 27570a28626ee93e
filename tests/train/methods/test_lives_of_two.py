"""Every method trained by two processes together, after or before another stage."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from forking import python
from lives import Life, assert_same, of_every_life, selected, write_everything

pytestmark = pytest.mark.slow  # a second for each method, a minute for all


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_everything(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def ranks(request, manifest, tmp_path_factory) -> Callable[[Life], list[dict]]:
    """What two processes that trained the selected lives together say of each."""
    folder = tmp_path_factory.mktemp("ranks")
    names = [str(life) for life in selected(request, "ranks")]
    job = {
        "folder": str(folder),
        "manifest": str(manifest),
        "ports": dict(zip(names, free_ports(len(names)), strict=True)),
    }
    (folder / "job.json").write_text(json.dumps(job))
    script = Path(__file__).parents[2] / "support" / "two_ranks.py"
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in ("0", "1"):
        environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}
        with (folder / f"said{rank}.txt").open("w") as said:
            command = [python(), str(script), str(folder / "job.json")]
            processes.append(subprocess.Popen(command, env=environment, stdout=said, stderr=said))
    try:
        for process in processes:
            process.wait(120 + 60 * len(names))
    finally:
        for process in processes:
            process.kill()

    def found(life: Life) -> list[dict]:
        files = [folder / f"{life}-rank{rank}.json" for rank in (0, 1)]
        if not all(file.exists() for file in files):
            pytest.fail("\n".join((folder / f"said{rank}.txt").read_text()[-3000:] for rank in (0, 1)))
        return [json.loads(file.read_text()) for file in files]

    return found


def free_ports(count: int) -> list[int]:
    """As many ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@of_every_life
def test_two_processes_that_start_from_a_network_before_are_one_method(life, ranks):
    """Parameters are equal throughout; buffers when a step begins, for each step starts from those of rank 0."""
    first, second = ranks(life)
    assert "error" not in first, first["error"]
    assert "error" not in second, second["error"]
    assert_same(first, second)
