"""What `medseg.serve.access.middleware` passes on, seen by an application in MONAI Label's place."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

from conftest import BALL
from servers import PATIENCE

from medseg.serve.access.middleware import Guard
from medseg.serve.access.settings import Access
from medseg.serve.standins import python_path

TOKEN = "0123456789abcdef"
IN_A_TASK = """
import sys
from monailabel.config import settings
settings.MONAI_LABEL_SERVER_PORT = int(sys.argv[1])
from medseg.serve.app import MedSegApp
print("ANSWER", MedSegApp._local_request(None, "/scoring/dice?run_sync=true", {"y": "final"}, "Scoring"))
"""


class Behind:
    """Remembers what it is asked, and answers like a DICOMweb server that thinks of browsers."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        headers = [(b"Access-Control-Allow-Origin", b"*"), (b"x-content-type-options", b"no"), (b"etag", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def ask(guard: Guard, path: str, query: bytes = b"", headers: tuple = (), kind: str = "http") -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    scope = {"type": kind, "method": "GET", "path": path, "query_string": query, "scheme": "http"}
    scope["headers"] = [(b"host", b"127.0.0.1:8000"), *headers]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(guard({**scope, "server": ("127.0.0.1", 8000)}, receive, send))
    return sent


def test_the_token_is_not_passed_on():
    """MONAI Label would send a client's headers to the DICOMweb server."""
    behind = Behind()
    guard = Guard(behind, Access(), TOKEN)
    accept = (b"accept", b"application/dicom+json")
    ask(guard, "/info/", headers=((b"Authorization", f"Bearer {TOKEN}".encode()), (b"Cookie", b"a=b"), accept))
    ask(guard, "/info/", query=f"a=1&token={TOKEN}&b=%20".encode(), headers=(accept,))
    ask(guard, f"/token/{TOKEN}/info/", headers=(accept,))
    assert len(behind.scopes) == 3
    for scope in behind.scopes:
        assert scope["headers"] == [(b"host", b"127.0.0.1:8000"), accept]
        assert TOKEN.encode() not in scope["query_string"]
    assert behind.scopes[1]["query_string"] == b"a=1&b=+"
    assert behind.scopes[2]["root_path"] == f"/token/{TOKEN}", (
        "of which the application knows that it is no path of its"
    )
    ask(guard, "/info/", query=f"token={TOKEN}x".encode())
    ask(guard, "/reload", headers=((b"Authorization", f"Bearer {TOKEN}".encode()),))
    assert len(behind.scopes) == 3


def test_a_login_of_monai_labels_own_is_left_to_it():
    """With its Keycloak, and so without our token."""
    behind = Behind()
    guard = Guard(behind, Access(needs_token=False), None, foreign_login=True)
    theirs = (b"authorization", b"Bearer of Keycloak")
    ask(guard, "/auth/", headers=(theirs,))
    ask(guard, "/info/", headers=(theirs,))
    assert [scope["headers"][1] for scope in behind.scopes] == [theirs, theirs]


def test_answers_are_for_no_other_page():
    answer = ask(Guard(Behind(), Access(), None), "/info/")[0]
    headers = dict(answer["headers"])
    assert headers[b"etag"] == b"1"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert len(headers) == len(answer["headers"])
    assert not [name for name in headers if name.lower().startswith(b"access-control")]


def test_there_is_no_websocket():
    behind = Behind()
    assert ask(Guard(behind, Access(), None), "/info/", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert behind.scopes == []


def test_tasks_of_the_server_ask_it_with_its_token(app):
    """After a training, if scoring is to follow by itself (MONAI_LABEL_AUTO_UPDATE_SCORING)."""
    for token, expected in ((app.token, "ANSWER {"), ("", "ANSWER None")):
        done = subprocess.run(
            [sys.executable, "-c", IN_A_TASK, str(app.port)],
            env={"PYTHONPATH": python_path(), "MEDSEG_TOKEN": token, "HOME": str(app.home), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200 * PATIENCE,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert expected in done.stdout
    assert app.infer(BALL, "case0").status_code == 200
