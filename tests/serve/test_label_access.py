"""Who may use the label server, decided without a server; real ones are asked in `serving/tests`."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import socket

import pytest
from models import data_spec, make_bundle

from medseg.bundle.bundle import open_bundle
from medseg.errors import BundleError, ConfigError, OutputError
from medseg.serve.access import settings as who
from medseg.serve.access.admission import (
    Refusal,
    RequestInfo,
    TokenRedirect,
    cookies_in,
    decide,
    tokens_in,
    without_token,
)
from medseg.serve.access.routes import ROUTES, Kind, Route, find
from medseg.serve.access.settings import Access
from medseg.serve.models import Model, keep, read_list, write_list

TOKEN = "0123456789abcdef"
COOKIE = hmac.new(TOKEN.encode(), b"medseg label cookie", hashlib.sha256).hexdigest()
HERE = "127.0.0.1:8000"


def ask(where: str = "GET /info/", access: Access | None = None, token: str | None = TOKEN, **headers: str):
    """What is decided; names of headers with '_' for '-', several values of one with a line break between."""
    method, _, address = where.partition(" ")
    path, _, query = address.partition("?")
    given = {"host": HERE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    split = {name: tuple(value.split("\n")) for name, value in given.items() if value}
    return decide(access or Access(), token, RequestInfo(method, path, query, split))


def status(decided) -> int:
    return decided.status if isinstance(decided, Refusal) else 200


BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("headers", "where"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, "GET /info/"),
        ({"authorization": f"bearer {TOKEN}"}, "GET /info/"),
        ({"authorization": f"token {TOKEN}"}, "GET /info/"),
        ({}, f"GET /info/?token={TOKEN}"),
        ({}, f"GET /token/{TOKEN}/info/"),
        ({"cookie": f"a=b; medseg-8000={COOKIE}"}, "GET /info/"),
        ({"cookie": "medseg-8000=of an earlier start", **BEARER}, "GET /info/"),
    ],
)
def test_the_token_is_taken_in_every_way(headers, where):
    assert isinstance(ask(where, **headers), Route)


@pytest.mark.parametrize(
    ("headers", "where"),
    [
        ({}, "GET /info/"),
        ({"authorization": "Bearer "}, "GET /info/"),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, "GET /info/"),
        ({"authorization": f"Bearer {TOKEN}0"}, "GET /info/"),
        ({"authorization": f"Basic {TOKEN}"}, "GET /info/"),
        ({"authorization": f"Bearer {TOKEN}\nBearer other"}, "GET /info/"),
        ({"authorization": f"Bearer {COOKIE}"}, "GET /info/"),
        ({}, "GET /info/?token="),
        ({}, "GET /info/?token=wrong"),
        ({}, f"GET /info/?tokens={TOKEN}"),
        ({}, "GET /token/wrong/info/"),
        ({}, f"GET /info/token/{TOKEN}"),
        ({"cookie": f"medseg-8010={COOKIE}"}, "GET /info/"),
        ({"cookie": f"medseg-8000={TOKEN}"}, "GET /info/"),
        ({"cookie": f"xmedseg-8000={COOKIE}"}, "GET /info/"),
        ({}, "GET /no/such/address"),
        ({}, "PUT /model/any"),
    ],
)
def test_nothing_else_is_a_token(headers, where):
    refused = ask(where, **headers)
    assert status(refused) == 401
    assert TOKEN not in refused.words


def test_pages_and_login_need_none_and_everything_else_does():
    for route in ROUTES:
        path = route.pattern.replace("{**}", "a/b").replace("{}", "x")
        path = path.replace("{dicom}", "studies/1.2/series").replace("{store}", "studies")
        for method in route.methods:
            assert find(method, path) == find(method, path.rstrip("/") + "/") == route
            expected = 200 if route.kind in (Kind.PAGE, Kind.LOGIN) else 401
            assert status(ask(f"{method} {path}")) == expected, path
            assert status(ask(f"{method} {path}", **BEARER)) == (403 if route.kind is Kind.REFUSED else 200), path


def test_a_page_that_is_opened_with_the_token_gives_a_cookie():
    found = ask(f"GET /ohif/viewer?a=1%2F2&token={TOKEN}&b=")
    assert found == TokenRedirect("/ohif/viewer?a=1%2F2&b=", f"medseg-8000={COOKIE}; Path=/; HttpOnly; SameSite=Strict")
    assert status(ask("GET /ohif/?token=wrong")) == 401
    assert ask("GET /ohif/?token=any", token=None) == TokenRedirect("/ohif/", "")
    assert isinstance(ask(f"GET /info/?token={TOKEN}"), Route), "no page"
    secure = decide(Access(), TOKEN, RequestInfo("GET", "/ohif/", f"token={TOKEN}", {"host": (HERE,)}, scheme="https"))
    assert secure.cookie.endswith("; Secure")
    assert without_token("a=%20&token=x&a=2") == "a=+&a=2"
    assert without_token("a=%20&b=~%7E") == "a=%20&b=~%7E"
    asked = RequestInfo("GET", "/token/abc/info", "token=d", {"authorization": ("Token  e",), "host": (HERE,)})
    assert (asked.prefix, asked.place, tokens_in(asked), cookies_in(asked)) == (
        "/token/abc",
        "/info",
        ["abc", "e", "d"],
        [],
    )


@pytest.mark.parametrize("host", [HERE, "127.0.0.1", "localhost:8000", "LOCALHOST:9", "[::1]:8000", "localhost.:80"])
def test_names_of_this_machine(host):
    assert status(ask(host=host, **BEARER)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost:80:80",
        "127.0.0.1\n127.0.0.1",
        "a b",
        "[::1",
        "10.0.0.1",
    ],
)
def test_other_names_are_refused(host):
    for where in ("GET /info/", "GET /ohif/", "POST /auth/token"):
        assert status(ask(where, host=host, **BEARER)) == 403
        assert status(ask(where, host=host, token=None)) == 403


def test_names_of_a_server_for_others():
    name = socket.gethostname()

    def taken(access: Access, host: str, address: str = "192.0.2.7") -> bool:
        headers = {"host": (host,), "authorization": (f"Bearer {TOKEN}",)}
        return isinstance(decide(access, TOKEN, RequestInfo("GET", "/info", "", headers, address=address)), Route)

    for everywhere in ("0.0.0.0", "::"):
        assert taken(Access(everywhere), "192.0.2.7:8000")
        assert taken(Access(everywhere), f"{name}:8000")
        assert taken(Access(everywhere), "127.0.0.1:8000")
        assert not taken(Access(everywhere), "192.0.2.8:8000")
        assert not taken(Access(everywhere), everywhere if everywhere != "::" else "[::]")
        assert not taken(Access(everywhere), "evil.example")
    assert taken(Access("::"), "192.0.2.7", "::ffff:192.0.2.7")
    assert taken(Access("::"), "[fe80::1]:8000", "fe80::1%eth0")
    assert taken(Access("label.hospital.org"), "LABEL.hospital.org:8000")
    assert taken(Access("127.0.0.2"), "127.0.0.2:8000", "127.0.0.2")
    assert taken(Access(origins=("https://label.hospital.org",)), "label.hospital.org", "127.0.0.1")
    assert not taken(Access(), name if name != "localhost" else "other", "127.0.0.1")


def test_origins():
    named = Access(origins=("https://viewer.example", "http://localhost:3000"))
    for origin, access, expected in [
        (f"http://{HERE}", Access(), 200),
        ("http://127.0.0.1:8001", Access(), 403),
        (f"https://{HERE}", Access(), 403),
        ("http://localhost:8000", Access(), 403),
        ("http://evil.example", Access(), 403),
        ("null", Access(), 403),
        (f"http://{HERE}\nhttp://evil.example", Access(), 403),
        ("https://viewer.example", named, 200),
        ("HTTP://localhost:3000", named, 200),
        ("http://viewer.example", named, 403),
        ("https://viewer.example.evil.example", named, 403),
    ]:
        assert status(ask(origin=origin, access=access, **BEARER)) == expected, origin
        assert status(ask("GET /ohif/", origin=origin, access=access)) == expected, origin
        assert status(ask(origin=origin, access=access, token=None)) == expected, "without a token most of all"


def test_requests_of_pages_that_name_no_origin():
    def found(site: str, mode: str = "no-cors", dest: str = "image", where: str = "GET /info/") -> int:
        return status(ask(where, token=None, sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest))

    assert found("same-origin") == found("none", "navigate", "document") == 200
    assert found("cross-site") == found("same-site") == 403, "another port of this machine is the same site"
    assert found("cross-site", "navigate", "document") == 200, "a link"
    assert found("cross-site", "navigate", "iframe") == 403
    assert found("cross-site", "navigate", "document", "POST /train/x") == 403


SERVED = [
    "GET /",
    "GET /ohif/viewer/x",
    "GET /proxy/dicom/qido/studies",
    "GET /proxy/dicom/wado/studies/1.2/series/3/instances/4/frames/1,2",
    "POST /proxy/dicom/wado/studies/1.2",
]
NOT_SERVED = [
    *("GET //", "GET /info//", "GET /info\n", "OPTIONS /info", "TRACE /info", "PATCH /datastore", "GET /new/in/0.9"),
    *("GET /ohif/..", "GET /ohif/a/../b", "GET /static/../x"),
    *("GET /session/..", "GET /session/a/b", "DELETE /session/.", "GET /model/a\\b", "GET /model/a\nb"),
    *("GET /proxy/dicom/studies/..", "GET /proxy/dicom/studies/../../instances", "GET /proxy/dicom/studies/%2e%2e/x"),
    *("GET /proxy/dicom/studies/a?b", "GET /proxy/dicom/studies/a;b", "GET /proxy/dicom/http://other/"),
    *("GET /proxy/dicom/tools/shutdown", "POST /proxy/dicom/instances", "POST /proxy/dicom/wado/studies/1/series"),
]


@pytest.mark.parametrize(("expected", "requests"), [(200, SERVED), (404, NOT_SERVED)])
def test_what_is_not_in_the_table_is_not_served(expected, requests):
    headers = {"host": (HERE,), "authorization": (f"Bearer {TOKEN}",)}
    for method, path in (request.split(" ", 1) for request in requests):
        assert status(decide(Access(), TOKEN, RequestInfo(method, path, "", headers))) == expected, path


def test_a_refused_address_says_what_to_do():
    assert "medseg serve --models" in ask("PUT /model/x", **BEARER).words
    assert "app.log" in ask("GET /logs/", **BEARER).words


def test_the_token_of_a_service():
    assert who.resolve_token(Access(), {"MEDSEG_TOKEN": TOKEN}) == TOKEN
    assert who.resolve_token(Access(needs_token=False), {}) is None
    one, other = (who.resolve_token(Access(), {}) for _ in range(2))
    assert one != other
    assert len(one) == 48
    for wrong in ("", "short", "0123456789 abcdef", "0123456789abcde/", "ü" * 20, "a" * 600):
        with pytest.raises(ConfigError, match=r"MEDSEG_TOKEN has \d+ characters; 16 to 512") as told:
            who.resolve_token(Access(), {"MEDSEG_TOKEN": wrong})
        assert not wrong or wrong not in str(told.value)
    with pytest.raises(ConfigError, match="two ways"):
        who.resolve_token(Access(), {"MONAI_LABEL_AUTH_ENABLE": "True"})
    assert who.resolve_token(Access(needs_token=False), {"MONAI_LABEL_AUTH_ENABLE": "True"}) is None


def test_the_command_line():
    found = who.check_access(
        "0.0.0.0", ["HTTPS://Viewer.Example:443/", "http://[::1]:3000"], True, 5, {"MEDSEG_TOKEN": TOKEN}
    )
    assert found == Access("0.0.0.0", ("https://viewer.example", "http://[::1]:3000"), True, 5)
    for origin in (
        "*",
        "null",
        "viewer.example",
        "ftp://a",
        "http://",
        "http://a/path",
        "http://u@a",
        "http://a:x",
        "http://*.a",
    ):
        with pytest.raises(ConfigError, match=r"--origin '.*' is none.*scheme, name and port"):
            who.check_access("127.0.0.1", [origin], True, 5, {})
    with pytest.raises(ConfigError, match="--max-upload-mb 0"):
        who.check_access("127.0.0.1", [], True, 0, {})
    with pytest.raises(ConfigError, match="contradict each other"):
        who.check_access("127.0.0.1", [], False, 5, {"MEDSEG_TOKEN": TOKEN})


def test_what_whoever_starts_it_is_told():
    assert who.warnings_of(Access()) == who.warnings_of(Access("localhost")) == who.warnings_of(Access("::1")) == []
    assert "TLS" in " ".join(who.warnings_of(Access("0.0.0.0")))
    assert "every user and program of this machine" in " ".join(who.warnings_of(Access(needs_token=False)))
    assert "every machine" in who.warnings_of(Access("192.0.2.7", needs_token=False))[1]
    shown = " ".join(who.greeting("http://127.0.0.1:8000", "/ohif/", TOKEN, shown=True))
    assert f"http://127.0.0.1:8000/ohif/?token={TOKEN}" in shown
    assert TOKEN not in " ".join(who.greeting("http://127.0.0.1:8000", "/", TOKEN, shown=False))
    assert "no token" in " ".join(who.greeting("http://127.0.0.1:8000", "/", None, shown=False))
    assert Access("::").reached_by == Access("0.0.0.0").reached_by == socket.gethostname().lower()
    assert Access("::1").reached_by == "[::1]"


def test_the_file_for_the_server(tmp_path):
    access = Access("::1", ("http://a:1",), False, 7)
    who.write_access(tmp_path, access)
    assert who.read_access(tmp_path) == access
    for damaged in ("", "[]", "{}", json.dumps({"origins": 3}), json.dumps({"origins": [], "other": 1})):
        (tmp_path / who.FILE).write_text(damaged)
        with pytest.raises(ConfigError, match=r"access\.json.*start it anew"):
            who.read_access(tmp_path)


def test_models_are_served_from_copies(tmp_path):
    run = make_bundle(tmp_path / "run" / "bundle", data_spec()).parent
    folder = tmp_path / "work" / "models" / "run"
    kept = keep(open_bundle(run), folder)
    digest = open_bundle(run).digest
    assert open_bundle(kept).digest == digest
    for file in (path for path in kept.rglob("*") if path.is_file()):
        there = run / "bundle" / file.relative_to(kept)
        assert file.read_bytes() == there.read_bytes()
        assert not file.samefile(there), "no link"
    before = (kept / "models" / "model.pt").stat().st_mtime_ns
    assert keep(open_bundle(run), folder) == kept
    assert (kept / "models" / "model.pt").stat().st_mtime_ns == before, "not copied twice"
    write_list(tmp_path, [Model("run", run, kept, folder)], folder.parent)
    model = read_list(tmp_path)["run"]
    assert (model.place, model.run) == (kept, run)
    # what becomes of one is not seen in the other
    (kept / "models" / "model.pt").write_bytes(b"damaged")
    assert open_bundle(run).digest == digest
    assert open_bundle(keep(open_bundle(run), folder)).digest == digest
    shutil.rmtree(run / "bundle")
    make_bundle(run / "bundle", data_spec(), name="vnet")
    assert open_bundle(model.place).digest == digest
    other = keep(open_bundle(run), folder)
    assert sorted(path.name for path in folder.iterdir()) == [other.name], "the old copy is of no use"


def test_a_bundle_that_changes_while_it_is_copied(tmp_path):
    run = make_bundle(tmp_path / "run", data_spec())
    opened = open_bundle(run)
    shutil.rmtree(run)
    with pytest.raises(OutputError, match="cannot be copied"):
        keep(opened, tmp_path / "models")
    make_bundle(run, data_spec(), name="vnet")
    with pytest.raises(BundleError, match="was changed while"):
        keep(opened, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
