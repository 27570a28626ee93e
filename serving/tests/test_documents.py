"""What README and docs/serving.md say of servers, run as it is written; the rest of them: `tests/test_documents.py`."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import requests
from conftest import BALL, PLANES, images_of
from documents import DOCUMENTS, ELSEWHERE, Block, Terminal, blocks_of, commands_of, is_fair, replace, told
from servers import STARTS

STORE = "http://127.0.0.1:8042/dicom-web"
SERVES = ("medseg serve", "monailabel start_server")
BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document) if block.test == ELSEWHERE]


@pytest.fixture(scope="module")
def desk(train, data, tmp_path_factory) -> Path:
    """A reader's folder with two trained runs and a folder of studies."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(train(BALL), folder / "runs" / "first")
    shutil.copytree(train(PLANES), folder / "runs" / "planes")
    images_of(data, folder / "scans")
    return folder


@pytest.fixture
def table(request) -> dict[str, str]:
    """What is replaced: the address of the DICOM store, by that of the one that the tests start."""
    if STORE not in request.getfixturevalue("block").text:
        return {}
    orthanc = request.getfixturevalue("orthanc")
    return {STORE: f"{orthanc.url}/dicom-web"}


def serve(terminal: Terminal, command: str, block: Block) -> None:
    """Start a server as a reader would, wait until it answers and stop it by Ctrl-C."""
    port = int(match[1]) if (match := re.search(r"--port (\d+)", command)) else 8000
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            pytest.skip(f"{block}: port {port} of this machine is taken by another program")
    log = terminal.folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=terminal.folder, env=terminal.environment,
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        until = time.monotonic() + STARTS
        while not answers(port):
            assert process.poll() is None, f"{block}: ended with {process.returncode}\n{log.read_text()[-3000:]}"
            assert time.monotonic() < until, f"{block}: does not answer\n{log.read_text()[-3000:]}"
            time.sleep(0.5)
        assert process.poll() is None, f"{block}: another program answers at port {port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, -signal.SIGINT, 128 + signal.SIGINT), log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Whether the web application is up, be it that it asks who is there."""
    try:
        return requests.get(f"http://127.0.0.1:{port}/info/", timeout=30).status_code < 500
    except requests.ConnectionError:
        return False


def test_the_blocks_are_there():
    assert sum(any(serves in block.text for serves in SERVES) for block in BLOCKS) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_runs_as_it_is_written(block, table, desk, tmp_path, capsys):
    assert all(is_fair(old, new) for old, new in table.items())
    with capsys.disabled():
        print(told(table))
    # caches and settings stay in the test's folder, as those of the other servers here
    terminal = Terminal(desk, {"HOME": str(tmp_path)})
    for command in commands_of(replace(block.text, table)):
        if command.startswith(SERVES):
            serve(terminal, command, block)
        else:
            terminal.command(command, block)


def test_errors_have_the_codes_that_the_page_tells(app):
    """400 for what the client can mend, an unknown study, model or strategy included; 404 for what is not there."""
    codes = {
        "unknown study": app.infer(BALL, "never-there"),
        "unknown model": app.infer("never-there", "case0"),
        "unknown strategy": app.ask("POST", "/activelearning/never-there"),
        "image": app.ask("GET", "/datastore/image", params={"image": "never-there"}),
        "label": app.ask("GET", "/datastore/label", params={"label": "case0", "tag": "never-there"}),
        "session": app.ask("GET", "/session/never-there"),
        "address": app.ask("GET", "/never-there"),
        "no token": requests.get(f"{app.url}/info/", timeout=60),
        "not for anybody": app.ask("GET", "/logs/"),
        "too large": app.ask("POST", "/activelearning/disagreement", data=b" " * 2**21),
    }
    found = {what: answer.status_code for what, answer in codes.items()}
    assert found == {
        "unknown study": 400,
        "unknown model": 400,
        "unknown strategy": 400,
        "image": 404,
        "label": 404,
        "session": 404,
        "address": 404,
        "no token": 401,
        "not for anybody": 403,
        "too large": 413,
    }
    assert all(answer.json()["detail"] for answer in codes.values())
