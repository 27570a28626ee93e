"""Trainings that are stopped, alone or with their server; two that are asked for at once."""

from __future__ import annotations

import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from conftest import BALL, images_of, start
from servers import PATIENCE, Server

LONG = {"iterations": 100_000, "device": "cpu"}


@pytest.fixture
def place(train, data, tmp_path):
    """A folder with a run that may be trained further and studies, of which one is labelled."""
    shutil.copytree(train(BALL), tmp_path / BALL)
    images_of(data, tmp_path / "studies")
    (tmp_path / "studies" / "labels" / "final").mkdir(parents=True)
    shutil.copy(data.parent / "case4_label.nii.gz", tmp_path / "studies" / "labels" / "final" / "case4.nii.gz")
    return tmp_path


def processes(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def test_a_training_is_stopped_and_then_its_server(place):
    server = start(place / "studies", [place / BALL], place)
    try:
        with ThreadPoolExecutor(3) as clients:
            asked = list(clients.map(lambda _: server.ask("POST", f"/train/{BALL}", json=LONG), range(3)))
        assert sorted(answer.status_code for answer in asked) == [200, 429, 429]
        assert all("already running" in a.json()["detail"].lower() for a in asked if a.status_code == 429)
        server.stats(BALL, "training")
        training = processes(server)
        assert server.ask("DELETE", "/train/").status_code == 200
        server.stats(BALL, "stopped")
        assert not psutil.wait_procs(training, 30 * PATIENCE)[1]
        assert server.infer(BALL, "case0").status_code == 200
        server.json("POST", f"/train/{BALL}", json=LONG)  # nothing is in its way
        server.stats(BALL, "training")
        training = processes(server)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60 * PATIENCE)
        assert not psutil.wait_procs(training, 30 * PATIENCE)[1], "no training without a server"
    finally:
        server.stop(signal.SIGKILL)
    again = start(place / "studies", [place / BALL], place)
    try:
        assert again.stats(BALL, "stopped")["published"] is False
        assert again.infer(BALL, "case0").status_code == 200
        again.json("POST", f"/train/{BALL}", json={**LONG, "iterations": 1})
        assert again.stats(BALL, "done")["cases"]["training"] >= 2
        left = sorted(folder.parent.name for folder in (place / "work" / "models" / BALL).glob("*/run"))
        assert left in ([], ["0003"]), "what the stopped ones left is gone"
    finally:
        again.stop(signal.SIGTERM)
