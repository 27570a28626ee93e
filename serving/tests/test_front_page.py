"""The page at the address of the server, as a browser without any other host would show it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import requests
from conftest import BALL, PLANES
from pages import Page, shown


def browse(app, address: str) -> str:
    answer = requests.get(app.url + address, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    return answer.text


def test_without_the_token_the_page_says_how_to_get_in_and_nothing_else(app):
    html = browse(app, "/")
    page = Page(html)
    assert shown(page, f"In a browser open {app.url}/?token=TOKEN once.")
    assert shown(page, f"give {app.url} as server")
    for hidden in (BALL, PLANES, app.token, "Models"):
        assert hidden not in html


@pytest.mark.parametrize("prefix", ["/?token={}", "/token/{}/"])
def test_with_the_token_it_has_models_studies_and_how_to_point_viewers_at_it(app, prefix):
    with requests.Session() as browser:
        answer = browser.get(app.url + prefix.format(app.token), timeout=60)
    page = Page(answer.text)
    told = app.json("GET", "/info/")
    assert set(told["models"]) > {BALL, PLANES}
    for name in (BALL, PLANES):
        assert name in page.words
        assert shown(page, ", ".join(told["models"][name]["labels"]))
    status = told["datastore"]
    assert shown(page, f"studies {status['total']} with a final label {status['completed']}")
    assert shown(page, f"give {app.url} as server")
    assert shown(page, "OHIF reads studies from a DICOMweb server, and this server has a folder.")
    assert app.token not in answer.text
    assert set(page.links) == {"info/", "openapi.json"}, "nothing is asked of another host"
    assert not re.search(r"<script|@import|url\(|src=", answer.text)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_it(app, tmp_path):
    picture = tmp_path / "page.png"
    words = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--screenshot={picture}",
        "--window-size=900,1100",
    ]
    address = f"{app.url}/?token={app.token}"
    subprocess.run(
        [*words, f"--user-data-dir={tmp_path}/profile", address], check=True, timeout=200, capture_output=True
    )
    assert picture.stat().st_size > 10_000, "a blank page of this size has half of that"
