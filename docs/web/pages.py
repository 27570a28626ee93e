"""Tells MkDocs which files of the repository are pages of the site, and under their own paths.

So a link between README, docs and sources is the same one on a code host and in the site. What is linked and is no
page, such as a YAML or a notebook, is copied.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
HERE = "docs/web"
PAGES = ("*.md", "docs/*.md", "docs/methods/*.md", "docs/results/*.md")
FOLDERS = ("pipelines/*.md", "comparisons/*.md", "data_manifests/*.md")
BENCHMARKS = ("benchmarks/*.md", "benchmarks/gpu/*.md")
OF_THE_SITE = ("*.md", "*.css", "*.js")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the repository's pages in the place of what MkDocs found in its folder."""
    kept = [file for file in files if file.src_dir != config.docs_dir]  # of the theme
    own = [path for pattern in OF_THE_SITE for path in sorted((ROOT / HERE).glob(pattern))]
    kept += [_file(path.name, ROOT / HERE, config) for path in own]
    pages = [path for pattern in (*PAGES, *FOLDERS, *BENCHMARKS) for path in sorted(ROOT.glob(pattern))]
    copied = {target for page in pages for target in _linked(page)} - set(pages)
    kept += [_file(path.relative_to(ROOT).as_posix(), ROOT, config) for path in [*pages, *sorted(copied)]]
    return Files(kept)


def _file(name: str, folder: Path, config: MkDocsConfig) -> File:
    place = "search/iframe-worker.js" if name == "search_from_disk.js" else None  # the name that the plugin looks for
    return File(name, str(folder), config.site_dir, use_directory_urls=False, dest_uri=place)


def _linked(page: Path) -> set[Path]:
    """The files of the repository that a page links to."""
    found = set()
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / link).resolve()
        if "://" not in link and target.is_file() and target.is_relative_to(ROOT):
            found.add(target)
    return found
