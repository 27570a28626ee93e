"""The site of the documents is built without a warning, needs no network, and has every page that it links to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import medseg
from medseg.methods import METHODS, RULES

ROOT = Path(__file__).resolve().parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "object": "data"}
"""Elements for which a browser asks without a click, and the attribute that says for what."""
FROM_ELSEWHERE = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//")


class Addresses(HTMLParser):
    """What a page asks for, what it links to, and the places in it that can be linked to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.links: set[str] = set()
        self.places: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places.add(found.get("id", ""))
        if found.get(LOADED.get(tag, "")):
            self.loaded.add(found[LOADED[tag]])
        if tag == "a" and found.get("href"):
            self.links.add(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason="the site is made by the extra `docs`: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("built") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=500, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Addresses]:
    return {path: Addresses(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_no_page_asks_for_another_host(site, pages):
    assert len(pages) > 25
    asked = {address for page in pages.values() for address in page.loaded}
    assert asked, "pages ask for their styles at least"
    assert not [address for address in asked if address.startswith(("http:", "https:", "//"))]
    styles = list(site.rglob("*.css"))
    assert styles
    assert not [str(path) for path in styles if FROM_ELSEWHERE.search(path.read_text(encoding="utf-8"))]


@pytest.mark.slow
def test_every_link_leads_to_a_page_and_a_place_in_it(site, pages):
    lost = []
    for path, page in pages.items():
        if path.name == "404.html":  # a server shows it anywhere, so that its addresses begin at the root
            continue
        for address in page.links | page.loaded:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https", "data", "mailto"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[target].places | {""} if target in pages else None
            if not target.is_file() or (known is not None and unquote(parts.fragment) not in known):
                lost.append(f"{path.relative_to(site)}: {address}")
    assert not lost


@pytest.mark.slow
def test_what_python_users_call_and_every_paper_is_described(site):
    called = (site / "python.html").read_text(encoding="utf-8")
    assert not [name for name in medseg.__all__ if name[0] != "_" and f'id="medseg.{name}"' not in called]
    assert "Run, bundle or encoder whose weights to start from" in called, "options are the arguments of functions"
    papers = (site / "python_papers.html").read_text(encoding="utf-8")
    classes = {place.replace(":", ".") for place in [*METHODS.values(), *RULES.values()]}
    assert not [name for name in classes if f'id="{name}"' not in papers]
    contract = (site / "python_methods.html").read_text(encoding="utf-8")
    assert all(f'id="medseg.method.{name}"' in contract for name in ("Method", "Networks", "Clock"))


@pytest.mark.slow
def test_readme_is_the_first_page_and_the_search_knows_all_pages(site, pages):
    first = (site / "index.html").read_text(encoding="utf-8")
    assert "Segment medical images when labels are scarce" in first
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("var __index = "))
    found = {entry["location"].split("#")[0] for entry in index["docs"]}
    expected = {path.relative_to(site).as_posix() for path in pages} - {"404.html"}
    assert found == expected
    words = " ".join(entry["text"] for entry in index["docs"] if entry["location"].startswith("glossary.html"))
    assert "a person or program that annotated an image" in words
