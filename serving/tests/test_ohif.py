"""OHIF in Chromium: from the link with the token to a segmentation; and pages of others in the same browser."""

from __future__ import annotations

import functools
import http.server
import signal
import threading
from collections.abc import Iterator

import nibabel as nib
import pytest
from archives import upload, write_series
from browser import PROGRAM, Browser
from conftest import BALL, serve
from servers import Server

CONNECT = """
const field = document.getElementById("monailabelServerURL");
field.focus(); field.value = "%s/"; field.blur();
setTimeout(() => document.querySelector(".settingsTable button").click(), 500);
"""
RUN = """document.querySelector("button[title='Run Segmentation']")"""
FOREIGN = """
(async () => {
  const found = [];
  const ask = (path, options) => fetch("%s" + path, {credentials: "include", ...options});
  for (const [path, options] of [
    ["/info/", {}],
    ["/datastore/?output=all", {}],
    ["/datastore/label?id=%s&tag=final", {method: "DELETE"}],
    ["/infer/%s", {method: "POST"}],
  ]) {
    try { found.push((await ask(path, options)).status) } catch (error) { found.push(error.name) }
  }
  await ask("/train/%s", {method: "POST", mode: "no-cors"});
  return found;
})()
"""


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    (tmp_path / "browser").mkdir()
    found = Browser(tmp_path / "browser" / "profile")
    yield found
    found.close()


@pytest.fixture
def foreign(tmp_path) -> Iterator[str]:
    """The address of a page on another port of this machine, whose cookies a browser does not keep apart."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "index.html").write_text("<title>foreign</title>")
    handler = functools.partial(Quiet, directory=str(tmp_path / "foreign"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_from_the_link_to_a_segmentation(orthanc, train, data, browser, foreign, tmp_path):
    series = write_series(nib.load(data.parent / "case5.nii.gz"), tmp_path / "series")
    upload(orthanc, tmp_path / "series")
    server = serve(orthanc, train(BALL), tmp_path)
    try:
        assert server.save(series, data.parent / "case5_label.nii.gz", "final").status_code == 200
        segmented(browser, server)
        others_may_not(browser, server, foreign, series)
    finally:
        server.stop(signal.SIGTERM)


def segmented(browser: Browser, server: Server) -> None:
    browser.open(f"{server.url}/ohif/?token={server.token}")
    browser.shows("Doe, Jane")
    assert browser.run("location.href") == f"{server.url}/ohif/"
    assert "medseg" not in browser.run("document.cookie")
    study = server.json("GET", "/proxy/dicom/qido/studies")[0]["0020000D"]["Value"][0]
    browser.open(f"{server.url}/ohif/monai-label?StudyInstanceUIDs={study}")
    browser.wait("document.getElementById('monailabelServerURL')")
    browser.run(CONNECT % server.url)
    browser.wait(RUN)
    browser.run(f"{RUN}.click()")
    browser.shows("Running Segmentation - Successful")


def others_may_not(browser: Browser, server: Server, foreign: str, series: str) -> None:
    """In the browser that has the cookie."""
    browser.open(foreign)
    browser.wait("document.title == 'foreign'")
    assert browser.run(FOREIGN % (server.url, series, BALL, BALL)) == ["TypeError"] * 4, "nothing is read"
    assert server.ask("GET", "/train/").status_code == 404, "nor done"
    assert server.json("GET", "/datastore/")["label_tags"] == {"final": 1}
    browser.open(f"http://evil.example:{server.port}/info/?token={server.token}")
    browser.shows("no name of this server")
