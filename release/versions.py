"""Which version this is: `medseg.__version__`, `CITATION.cff`, `CHANGELOG.md` and the tags must agree."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
UNRELEASED = "Unreleased"
SECTION = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\d{4}-\d{2}-\d{2}))?\s*$", re.MULTILINE)


class ReleaseError(Exception):
    """What stands in the way of a release, in one line."""


@dataclass(frozen=True)
class Section:
    """A part of the changelog.

    Attributes:
        name: version, or `UNRELEASED`.
        date: of the release, such as 2026-11-29; None where it is missing.
        text: below the heading.
    """

    name: str
    date: str | None
    text: str


@dataclass(frozen=True)
class Sources:
    """Everything that says which version this is.

    Attributes:
        version: `medseg.__version__`, which sdist and wheel take.
        citation: version of `CITATION.cff`.
        sections: of `CHANGELOG.md`, the newest first.
        tags: of this commit that begin with v and a digit.
        earlier_tags: of other commits, likewise.
        changed: whether files differ from the commit.
    """

    version: str
    citation: str
    sections: tuple[Section, ...]
    tags: frozenset[str] = frozenset()
    earlier_tags: frozenset[str] = frozenset()
    changed: bool = False


def read_sections(text: str) -> tuple[Section, ...]:
    """The sections of a changelog, in their order."""
    headings = list(SECTION.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    sections = []
    for heading, end in zip(headings, ends, strict=True):
        sections.append(Section(heading["name"], heading["date"], text[heading.end() : end].strip()))
    return tuple(sections)


def read_sources(root: Path = ROOT) -> Sources:
    """Read them from a checkout."""
    package = (root / "medseg" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', package, re.MULTILINE)
    if found is None:
        raise ReleaseError('medseg/__init__.py has no line __version__ = "..."')
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    sections = read_sections((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    here = frozenset(git(root, "tag", "--points-at", "HEAD", "--list", "v[0-9]*"))
    others = frozenset(git(root, "tag", "--list", "v[0-9]*")) - here
    changed = bool(git(root, "status", "--porcelain"))
    return Sources(found[1], str(citation["version"]), sections, here, others, changed)


def git(root: Path, *words: str) -> list[str]:
    """Lines of what git says; none in a folder that is no checkout, such as an unpacked sdist."""
    if not (root / ".git").exists():
        return []
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def contradictions(sources: Sources) -> list[str]:
    """What is wrong at any time, tagged or not."""
    version = sources.version
    found = []
    if version != str(Version(version)):
        found.append(f"__version__ is {version}; written in full it is {Version(version)}")
    if sources.citation != version:
        found.append(f"CITATION.cff has the version {sources.citation}, medseg.__version__ is {version}")
    for section in sources.sections:
        if section.name != UNRELEASED and Version(section.name) > Version(version):
            found.append(f"CHANGELOG.md has a section {section.name}, newer than medseg.__version__, {version}")
    for tag in sorted(sources.tags - {f"v{version}"}):
        found.append(f"this commit has the tag {tag}, medseg.__version__ is {version}")
    for tag in sorted(sources.earlier_tags):
        if Version(tag) >= Version(version):
            found.append(f"{tag} is the tag of another commit; medseg.__version__, {version}, must be above it")
    return found


def missing_for_release(sources: Sources) -> list[str]:
    """What a commit must have before it is tagged; wrong where it has a tag already."""
    version = sources.version
    found = []
    if Version(version).is_devrelease:
        found.append(f"{version} is a version between releases")
    released = [section for section in sources.sections if section.name != UNRELEASED]
    if not released or released[0].name != version:
        found.append(f"the newest section of CHANGELOG.md is not {version}")
    elif released[0].date is None:
        found.append(f"the section {version} of CHANGELOG.md has no date")
    if any(section.name == UNRELEASED and section.text for section in sources.sections):
        found.append(f"CHANGELOG.md has entries under {UNRELEASED}")
    if sources.changed:
        found.append("files differ from the commit")
    return found
