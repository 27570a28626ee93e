"""Chromium without a window, driven over pipes by its own protocol (DevTools)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from servers import PATIENCE

PROGRAM = shutil.which("chromium")


class Browser:
    """One tab; its profile, and with it its cookies, are new.

    Args:
        home: for the profile.
        names: that stand for this machine, as an attacker's name server could have it.
    """

    def __init__(self, home: Path, names: str = "evil.example") -> None:
        reads, self._writes = os.pipe()
        self._reads, writes = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--no-first-run"]
        options += [
            f"--host-resolver-rules=MAP {names} 127.0.0.1",
            "--remote-debugging-pipe",
            f"--user-data-dir={home}",
            "--window-size=1400,900",
        ]
        # Chromium reads file 3 and writes file 4
        script = f'exec "$0" "$@" 3<&{reads} 4>&{writes}'
        command = ["bash", "-c", script, str(PROGRAM), *options, "about:blank"]
        with (home.parent / "chromium.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=(reads, writes))
        os.close(reads)
        os.close(writes)
        self._number, self._left, self._session = 0, b"", None
        pages = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as if a person looked at it

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What Chromium answers to a command of its protocol."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": params}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._writes, json.dumps(order).encode() + b"\0")
        until = time.monotonic() + 60 * PATIENCE
        while True:
            answer = self._next(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            assert select.select([self._reads], [], [], until - time.monotonic())[0], "Chromium does not answer"
            self._left += os.read(self._reads, 65536)
        message, self._left = self._left.split(b"\0", 1)
        return json.loads(message)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of a script; of a promise, what comes of it."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> None:
        """Wait until something is true."""
        until = time.monotonic() + seconds * PATIENCE
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < until, f"{script}: not on the page:\n{self.text()[:2000]}"
            time.sleep(0.2)

    def shows(self, words: str) -> None:
        """Wait until a page has words."""
        self.wait(f"document.body && document.body.innerText.includes({json.dumps(words)})")

    def text(self) -> str:
        return str(self.run("document.body ? document.body.innerText : ''"))

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        os.close(self._writes)
        os.close(self._reads)
