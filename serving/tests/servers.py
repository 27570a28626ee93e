"""A server process: started, waited for, asked, stopped by its own number."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

PATIENCE = float(os.environ.get("MEDSEG_PATIENCE", "1"))  # of a machine that is busy with other things, 5 perhaps
STARTS = 300 * PATIENCE  # seconds; everything is imported from the disk


FONTS = str(Path(tempfile.gettempdir()) / "medseg-fonts")  # whose list takes a while to make, once for all servers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A command that serves HTTP on a port of 127.0.0.1; its caches and logs stay in `home`.

    Attributes:
        token: that requests are sent with; empty where none is wanted.
    """

    token = ""
    work: Path
    studies: Path
    temporary: Path
    own: set[Path]

    def __init__(self, command: list[str], port: int, home: Path, environment: Mapping[str, str] | None = None) -> None:
        self.url, self.home, self.log = f"http://127.0.0.1:{port}", home, home / "server.log"
        home.mkdir(parents=True, exist_ok=True)
        own = {**os.environ, "HOME": str(home), "PYTHONUNBUFFERED": "1", "MPLCONFIGDIR": FONTS, **(environment or {})}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=own
            )

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait(self, path: str = "/info/", **arguments: Any) -> Server:
        until = time.monotonic() + STARTS
        while time.monotonic() < until:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.words()}"
            try:
                if self.ask("GET", path, **arguments).status_code == 200:
                    return self
            except requests.ConnectionError:
                time.sleep(0.3)
        self.stop(signal.SIGKILL)
        raise AssertionError(f"did not start:\n{self.words()}")

    def words(self) -> str:
        return self.log.read_text("utf-8", "replace")[-4000:]

    def ask(self, how: str, path: str, **arguments: Any) -> requests.Response:
        own = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers = {**own, **arguments.pop("headers", {})}
        return requests.request(how, self.url + path, timeout=300 * PATIENCE, headers=headers, **arguments)

    def json(self, how: str, path: str, **arguments: Any) -> Any:
        answer = self.ask(how, path, **arguments)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:500]}\n{self.words()}"
        return answer.json()

    def infer(self, model: str, image: str, **options: Any) -> requests.Response:
        return self.ask("POST", f"/infer/{model}", params={"image": image, "output": "image"}, **options)

    def save(self, image: str, label: Path, tag: str) -> requests.Response:
        with label.open("rb") as stream:
            return self.ask("PUT", "/datastore/label", params={"image": image, "tag": tag}, files={"label": stream})

    def lists(self, study: str, there: bool) -> None:
        """Wait until the server's watch of the folder has noticed a study, or that it is gone."""
        until = time.monotonic() + 60 * PATIENCE
        while (study in self.json("GET", "/datastore/", params={"output": "all"})["objects"]) != there:
            assert time.monotonic() < until
            time.sleep(0.2)

    def watches(self, temporary: Path) -> None:
        """What is in its temporary folder by now is the server's own, such as the settings of its log."""
        self.temporary, self.own = temporary, set(temporary.iterdir())

    def tidied(self) -> None:
        """Wait until no file of a request is left; they are removed after the answer."""
        until = time.monotonic() + 20 * PATIENCE
        while left := set(self.temporary.iterdir()) - self.own:
            assert time.monotonic() < until, left
            time.sleep(0.1)

    def stats(self, model: str, *statuses: str) -> dict[str, Any]:
        """Wait until a model's training is there, and what is told of it."""
        until = time.monotonic() + 120 * PATIENCE
        while (told := self.json("GET", "/info/")["train_stats"][model]).get("status") not in statuses:
            assert time.monotonic() < until, f"{told}\n{self.words()}"
            time.sleep(0.3)
        return told

    def stop(self, how: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
