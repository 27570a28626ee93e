"""Who is answered by a real server, and what is answered to nobody."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from conftest import BALL, PLANES, images_of, launch
from servers import STARTS, Server, free_port

from medseg.serve.access.routes import ROUTES, Kind, find

EVIL = "http://evil.example"
ADDRESSES = """
import importlib, pkgutil, sys
from medseg.serve.standins import folders
sys.path[:0] = folders()
from monailabel import endpoints
from monailabel.app import app
routes = [route for route in app.routes if getattr(route, "methods", None)]
for module in pkgutil.iter_modules(endpoints.__path__):
    found = importlib.import_module(f"monailabel.endpoints.{module.name}")
    routes += getattr(getattr(found, "router", None), "routes", [])
for route in routes:
    for method in route.methods:
        print("ADDRESS", method, route.path)
"""


def refused(answer: requests.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    for word in words:
        assert word in answer.json()["detail"]
    assert "Traceback" not in answer.text


def bare(server: Server, how: str, path: str, **arguments) -> requests.Response:
    """Without the token."""
    return requests.request(how, server.url + path, timeout=60, **arguments)


def raw(server: Server, how: str, path: str) -> tuple[int, str]:
    """A path that no client mends, such as one with `..`."""
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        line.request(how, path, headers={"Authorization": f"Bearer {server.token}"})
        answer = line.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        line.close()


def test_every_address_of_monai_label_is_in_the_table():
    done = subprocess.run([sys.executable, "-c", ADDRESSES], capture_output=True, text=True, timeout=STARTS)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ADDRESS")]
    assert len(found) > 60
    for method, path in found:
        filled = path.replace("{path:path}", "studies").replace("{", "").replace("}", "")
        if method != "HEAD" or "datastore" in path:
            assert find(method, filled), f"{method} {path}: serve it or refuse it in medseg/serve/access/routes.py"


def test_without_the_token_pages_alone_are_answered(app):
    for route in ROUTES:
        path = route.pattern.replace("{dicom}", "studies").replace("{store}", "studies")
        path = path.replace("{**}", "favicon.ico").replace("{}", BALL)
        for method in route.methods:
            for headers in ({}, {"Authorization": "Bearer 0123456789abcdef"}, {"Cookie": f"medseg-{app.port}=0"}):
                answer = bare(app, method, path, headers=headers, allow_redirects=False)
                if route.kind in (Kind.API, Kind.REFUSED):
                    assert answer.status_code == 401, (method, path)
                    assert method == "HEAD" or "token" in answer.json()["detail"]
                else:
                    assert answer.status_code != 401 or path == "/auth/token", (method, path)
    assert bare(app, "GET", "/ohif/").headers["Content-Type"].startswith("text/html")
    assert bare(app, "GET", "/auth/").json() == {"enabled": True}


def test_with_the_token_every_way(app):
    """And it is told to nobody: not to MONAI Label, not in its log."""
    token = app.token
    assert bare(app, "GET", f"/info/?token={token}").status_code == 200
    assert bare(app, "GET", f"/token/{token}/info/").status_code == 200
    assert bare(app, "GET", f"/token/{token}/info").url.endswith(f"/token/{token}/info/"), (
        "it is sent on with the token"
    )
    for header in (f"Bearer {token}", f"token {token}"):
        assert bare(app, "GET", "/info/", headers={"Authorization": header}).status_code == 200
    with requests.Session() as browser:
        assert browser.get(f"{app.url}/info/", timeout=60).status_code == 401
        page = browser.get(f"{app.url}/ohif/viewer?token={token}&StudyInstanceUIDs=1.2", timeout=60)
        assert page.url == f"{app.url}/ohif/viewer?StudyInstanceUIDs=1.2"
        cookie = page.history[0].headers["Set-Cookie"]
        assert "HttpOnly; SameSite=Strict" in cookie
        assert token not in cookie
        assert browser.get(f"{app.url}/info/", timeout=60).status_code == 200
        asked = {"params": {"image": "case0", "output": "json"}, "timeout": 300}
        assert browser.post(f"{app.url}/infer/{BALL}", headers={"Origin": app.url}, **asked).status_code == 200
        refused(browser.post(f"{app.url}/infer/{BALL}", headers={"Origin": EVIL}, **asked), 403, EVIL)
    refused(bare(app, "GET", "/ohif/?token=wrong"), 401, "token in the address")
    for file in [app.log, *app.work.rglob("*")]:
        if file.is_file():
            assert token.encode() not in file.read_bytes(), file


def test_a_login_of_monai_label(app):
    given = bare(app, "POST", "/auth/token", data={"username": "any", "password": app.token}).json()
    assert given == {"access_token": app.token, "token_type": "bearer"}
    refused(bare(app, "POST", "/auth/token", data={"username": app.token, "password": "wrong"}), 401, "password")
    refused(bare(app, "POST", "/auth/token", data=b"\xff"), 401)
    refused(bare(app, "POST", "/auth/token", data=b"0" * 2**21), 413, "more than 1 MiB")
    refused(bare(app, "POST", "/auth/token", data=iter([b"0" * 2**20, b"0"])), 413, "more than 1 MiB")
    refused(bare(app, "GET", "/auth/token/valid"), 401)


def test_other_hosts_and_origins(app):
    for path in ("/info/", "/ohif/", f"/ohif/?token={app.token}"):
        refused(app.ask("GET", path, headers={"Host": f"evil.example:{app.port}"}), 403, "evil.example", "localhost")
        for origin in (EVIL, "null", "http://127.0.0.1:1", f"https://127.0.0.1:{app.port}"):
            answer = app.ask("GET", path, headers={"Origin": origin})
            refused(answer, 403, origin)
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    assert app.ask("GET", "/info/", headers={"Host": f"localhost:{app.port}"}).status_code == 200
    assert app.ask("GET", "/info/", headers={"Host": "127.0.0.1:9", "Origin": "http://127.0.0.1:9"}).status_code == 200
    asked = {
        "Origin": EVIL,
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization",
    }
    preflight = bare(app, "OPTIONS", "/datastore/label", headers=asked)
    refused(preflight, 403, EVIL)
    assert "Access-Control-Allow-Origin" not in preflight.headers
    image = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    refused(app.ask("GET", "/datastore/image", params={"image": "case0"}, headers=image), 403, "same-site")
    told = app.ask("GET", "/info/", headers={"Origin": app.url}).headers
    assert "Access-Control-Allow-Origin" not in told
    assert told["Content-Security-Policy"] == "frame-ancestors 'self'"


def test_a_host_that_is_sent_twice_or_not_at_all(app):
    for hosts, expected in (
        ("", b"400"),
        ("Host: 127.0.0.1\r\nHost: evil.example\r\n", b"400"),
        ("Host: x\r\n", b"403"),
    ):
        with socket.create_connection(("127.0.0.1", app.port)) as line:
            line.sendall(f"GET /token/{app.token}/info/ HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
            answer = b""
            while part := line.recv(65536):
                answer += part
        status = answer.split(b" ", 2)[1]
        assert status in (expected, b"403"), answer[:300]


def test_models_are_not_taken_from_clients(app):
    before = {path: path.read_bytes() for path in app.work.parent.glob("*/bundle/models/*")}
    for method in ("PUT", "DELETE"):
        refused(app.ask(method, f"/model/{BALL}", files={"file": ("model.pt", b"other")}), 403, "--models")
    assert {path: path.read_bytes() for path in app.work.parent.glob("*/bundle/models/*")} == before
    assert len(before) >= 2
    weights = app.ask("GET", f"/model/{BALL}").content
    assert weights
    given = next((app.work / "models" / BALL).glob("given-*"))
    assert app.infer(BALL, "case0").status_code == 200
    assert not (given / "models" / "model.pt").samefile(app.work.parent / BALL / "bundle" / "models" / "model.pt")


def test_a_run_that_is_trained_again_or_damaged_is_served_as_it_was(app):
    weights = app.work.parent / PLANES / "bundle" / "models" / "model.pt"
    before, answer = weights.read_bytes(), app.infer(PLANES, "case0").content
    try:
        weights.write_bytes(b"half of a file")
        assert app.infer(PLANES, "case0").content == answer
    finally:
        weights.write_bytes(before)


@pytest.mark.parametrize("path", ["/reload", "/logs/", "/logs/gpu", "/datastore/", "/datastore/image?id=case0"])
def test_what_is_refused_to_everybody(path, app):
    how = {"/reload": "POST", "/logs/": "GET", "/logs/gpu": "GET"}.get(path, "DELETE")
    refused(app.ask(how, path), 403, "not served here: ")
    assert (app.studies / "case0.nii.gz").exists()
    assert app.json("GET", "/info/")["datastore"]["total"] == 6


def test_archives_are_not_unpacked(app, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("../../escaped", str(tmp_path / "absolute")):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
    for value in ("true", "1", "on", "yes", "True"):
        for name in ("a.tar", "a.nii.gz"):
            files = {"files": (name, packed.getvalue())}
            refused(app.ask("PUT", "/session/", params={"uncompress": value}, files=files), 403, "not unpacked")
    assert not list(tmp_path.iterdir())
    assert not list(app.temporary.parent.rglob("escaped"))


def test_images_that_are_no_study(app, data, tmp_path):
    outside = shutil.copy(data.parent / "case0.nii.gz", tmp_path / "outside.nii.gz")
    names = [
        "/etc/hostname",
        "../../etc/hostname",
        str(outside),
        "case0/../case1",
        ".",
        "work",
        f"file://{outside}",
        "\x00",
    ]
    names.append(str(app.studies / "case0.nii.gz"))
    for name in names:
        refused(app.infer(BALL, name), 400, "no study")
        told = {"params": json.dumps({"image": name})}
        refused(app.infer(BALL, "case0", data=told), 400, "no study")
        session = {"params": json.dumps({"image": name, "session": {"name": "x", "image": name}})}
        refused(app.infer(BALL, "case0", data=session), 400, "no study")
        for path in ("/datastore/image", "/datastore/image/info"):
            refused(app.ask("GET", path, params={"image": name}), 404, "there is no study")
        assert app.ask("HEAD", "/datastore/image", params={"image": name}).status_code == 404
        refused(app.ask("PUT", "/datastore/image/info", params={"image": name}, data={"info": "{}"}), 404, "no study")
        for argument, how, path in [
            ("label", "GET", ""),
            ("label", "GET", "/info"),
            ("id", "DELETE", ""),
            ("label", "PUT", "/info"),
        ]:
            for tag in ("final", "../..", "/etc"):
                answer = app.ask(how, f"/datastore/label{path}", params={argument: name, "tag": tag})
                refused(answer, 404, "there is no label of study")
    refused(app.ask("GET", "/datastore/label", params={"label": "case0", "tag": "../.."}), 404, "'../..'")


def test_sessions_that_are_none(app, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "meta.info").write_text(json.dumps({"name": "x", "image": "/nothing"}))
    for name in (str(tmp_path / "kept"), "..", "../../..", "0" * 36, "18732c4a-eb10-11f1-8459-02fc00000001"):
        asked = app.ask("POST", f"/infer/{BALL}", params={"session_id": name})
        refused(asked, 404, "there is no session")
    assert (tmp_path / "kept" / "meta.info").exists(), "which MONAI Label would have removed with its folder"
    for path in ("/session/..", "/session/.", "/session/%2e%2e", "/session/..%2f..%2fx", "/ohif/..", "/ohif/%2e%2e/x"):
        for how in ("GET", "DELETE"):
            status, words = raw(app, how, path)
            assert (status, "not served here" in words) == (404, True), (how, path, words)


@pytest.mark.parametrize(
    "name", ["..", ".", "a.txt", "a.pt", "meta.info", "datastore_v2.json", "n" * 300 + ".nii.gz", "a\x01.nii"]
)
def test_names_of_files(name, app, data):
    content = (data.parent / "case0.nii.gz").read_bytes()
    before = sorted(app.studies.parent.rglob("*.json"))
    for how, path, field in [
        ("PUT", "/session/", "files"),
        ("PUT", "/datastore/image?image=new", "file"),
        ("POST", f"/infer/{BALL}", "file"),
    ]:
        answer = app.ask(how, path, files={field: (name, content)})
        assert answer.status_code == 400, (path, answer.text)
        assert "detail" in answer.json()
    assert sorted(app.studies.parent.rglob("*.json")) == before
    app.tidied()


def test_studies_are_not_replaced(app, data):
    before = (app.studies / "case1.nii.gz").read_bytes()
    other = (data.parent / "case2.nii.gz").read_bytes()
    for name in ("a.nii.gz", "/home/somebody/../a.nii.gz", "C:\\scans\\a.nii.gz"):
        answer = app.ask("PUT", "/datastore/image", params={"image": "case1"}, files={"file": (name, other)})
        refused(answer, 400, "another study 'case1' already")
    refused(app.ask("PUT", "/datastore/?image=case1", files={"file": ("a.nii.gz", b"none")}), 400, "cannot be read")
    answer = app.ask("PUT", "/datastore/image", params={"image": "case1"}, files={"file": ("a.nii.gz", before)})
    assert answer.json() == {"image": "case1"}, "the same once more"
    assert (app.studies / "case1.nii.gz").read_bytes() == before
    app.tidied()


def test_settings_of_tasks(app):
    for path in (f"/train/{BALL}", "/scoring/disagreement", f"/batch/infer/{BALL}"):
        refused(app.ask("POST", path, json={"bundle_path": "/tmp"}), 400, "bundle_path is not taken")
        refused(app.ask("POST", path, json={"gpus": ["0"]}), 400, "gpus is ['0']")
    refused(app.ask("POST", "/train/", json={BALL: {"bundle_path": "/tmp"}}), 400, "bundle_path")


def test_an_archive_of_all_studies_leaves_no_file(app, data):
    label = data.parent / "case5_label.nii.gz"
    assert app.save("case5", label, "final").status_code == 200
    assert app.ask("GET", "/datastore/dataset").content[:2] == b"PK"
    app.tidied()
    assert app.ask("DELETE", "/datastore/label", params={"id": "case5", "tag": "final"}).status_code == 200


@pytest.fixture(scope="module")
def open_server(train, data, tmp_path_factory) -> Iterator[Server]:
    """A server that asks for no token, takes small files only, and knows one other origin."""
    place = tmp_path_factory.mktemp("open")
    server = launch(
        images_of(data, place / "studies"), [train(BALL)], place,
        "--no-token", "--max-upload-mb", "1", "--origin", "https://viewer.example",
    )  # fmt: skip
    server.studies = place / "studies"
    yield server.wait()
    server.stop(signal.SIGTERM)


def test_a_server_without_a_token_still_knows_its_own_pages(open_server):
    assert "warning: --no-token: every user and program" in open_server.log.read_text()
    assert open_server.json("GET", "/auth/") == {"enabled": False}
    assert open_server.ask("POST", "/auth/token", data={"password": "x"}).json() == {
        "access_token": None,
        "token_type": None,
    }
    assert open_server.ask("GET", "/ohif/?token=old").status_code == 200
    refused(open_server.ask("GET", "/info/", headers={"Origin": EVIL}), 403, EVIL)
    refused(open_server.ask("GET", "/info/", headers={"Host": "evil.example"}), 403, "evil.example")
    refused(open_server.ask("PUT", f"/model/{BALL}"), 403, "--models")


def test_an_origin_that_was_named(open_server):
    named = {"Origin": "https://viewer.example"}
    answer = open_server.ask("GET", "/info/", headers=named)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://viewer.example"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}
    preflight = open_server.ask("OPTIONS", "/datastore/label", headers={**named, **asked})
    assert preflight.status_code == 200
    assert "PUT" in preflight.headers["Access-Control-Allow-Methods"]
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()
    other = open_server.ask("OPTIONS", "/datastore/label", headers={"Origin": EVIL, **asked})
    assert other.status_code == 400
    assert "Access-Control-Allow-Origin" not in other.headers


def test_bodies_have_a_limit(open_server):
    """As they say of themselves, and as they are; 1 MiB where no file belongs."""
    large = b"0" * (3 * 2**20)

    def streamed() -> Iterator[bytes]:
        for start_ in range(0, len(large), 65536):
            yield large[start_ : start_ + 65536]

    multipart = {"Content-Type": "multipart/form-data; boundary=b"}
    json_ = {"Content-Type": "application/json"}
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.nii.gz"\r\n\r\n'
    for how, path, headers, first in [
        ("PUT", "/session/", multipart, head),
        ("PUT", "/datastore/label?image=case0", multipart, head.replace(b"files", b"label")),
        ("POST", f"/infer/{BALL}?image=case0", multipart, head.replace(b"files", b"file")),
        ("POST", "/scoring/disagreement", json_, b'{"a": "'),
    ]:
        whole = open_server.ask(how, path, headers=headers, data=first + large)
        refused(whole, 413, "more than 1 MiB", "--max-upload-mb")
        chunks = open_server.ask(how, path, headers=headers, data=iter([first, *streamed()]))
        refused(chunks, 413, "more than 1 MiB")
    files = {"files": ("a.nii.gz", b"0" * 2**19)}
    assert open_server.ask("PUT", "/session/", files=files).status_code == 200, "within it"
    open_server.json("GET", "/info/")


def test_a_token_that_the_server_makes(train, data, tmp_path):
    """It is printed, not kept in a file, and another one every time; clients with an older one are told so."""
    images = images_of(data, tmp_path / "studies")
    tokens = []
    for _ in range(2):
        server = launch(images, [train(BALL)], tmp_path)
        try:
            until = time.monotonic() + STARTS
            while "in a browser: " not in (printed := server.log.read_text()):
                assert server.process.poll() is None, printed
                assert time.monotonic() < until
                time.sleep(0.3)
            tokens.append(printed.partition("?token=")[2].split()[0])
            server.token = tokens[-1]
            server.wait()
            assert f"/?token={server.token}" in printed
            refused(server.ask("GET", "/info/", headers={"Authorization": f"Bearer {tokens[0]}x"}), 401, "printed")
            files = [path for path in (*server.work.rglob("*"), *server.home.rglob("*")) if path.is_file()]
            assert [path for path in files if path != server.log and server.token.encode() in path.read_bytes()] == []
        finally:
            server.stop(signal.SIGTERM)
    assert tokens[0] != tokens[1]


def test_what_cannot_be_started(train, data, tmp_path):
    images = images_of(data, tmp_path / "studies")
    for words, options, environment in [
        ("MEDSEG_TOKEN has 5 characters", [], {"MEDSEG_TOKEN": "short"}),
        ("contradict each other", ["--no-token"], {"MEDSEG_TOKEN": "0" * 20}),
        ("--origin '*' is none", ["--origin", "*"], {}),
    ]:
        server = launch(images, [train(BALL)], tmp_path, *options, **environment)
        assert server.process.wait(STARTS) == 2
        assert words in server.log.read_text()
        assert server.log.read_text().count("\n") == 1


def test_the_printed_line_starts_the_same(train, data, tmp_path):
    """With TLS, as the warning of a server for others says."""
    images, port = images_of(data, tmp_path / "studies"), free_port()
    command = [
        sys.executable,
        "-m",
        "medseg",
        "label",
        "start",
        "--print",
        "--studies",
        images,
        "--models",
        train(BALL),
    ]
    command += ["--work", tmp_path / "work", "--port", port, "--host", "localhost"]
    line = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout.strip()
    assert "MEDSEG_TOKEN" not in line
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    whole = f"exec env {line} --ssl_certfile {certificate} --ssl_keyfile {key}".replace(
        " monailabel ", f" {sys.executable} -m monailabel.main ", 1
    )
    server = Server(["bash", "-c", whole], port, tmp_path / "home", {"MEDSEG_TOKEN": "0" * 20})
    server.url, server.token = f"https://localhost:{port}", "0" * 20
    try:
        server.wait(verify=str(certificate))
        own = {"Origin": server.url}
        page = server.ask("GET", f"/?token={server.token}", verify=str(certificate), headers=own)
        assert "Secure" in page.history[0].headers["Set-Cookie"]
        assert f"serving at https://localhost:{port}/" in server.log.read_text()
    finally:
        server.stop(signal.SIGTERM)


def test_a_folder_of_pictures_is_no_place_to_go(app):
    """Files of MONAI Label's package are served, and nothing above them."""
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/ohif/%2e%2e",
        "/ohif/..%2f..%2fapp.py",
        "/static//etc/hostname",
    ):
        status, words = raw(app, "GET", path)
        assert status == 404, (path, words[:200])
    assert Path(app.work / "app" / "access.json").exists()
