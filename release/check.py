"""What `make release-check` does: version, sdist and wheel, and the wheel at work in an environment of its own.

    python release/check.py [--output dist] [--only-build]

1. The version in `medseg/__init__.py`, `CITATION.cff`, `CHANGELOG.md` and the tag of this commit agree.
2. The sdist is built, and the wheel from the sdist; their metadata are valid, and no file is missing or too many.
3. The wheel is installed into a new environment outside the checkout with the versions of `constraints.txt`, and works.

Exit code 0: all passed; the last line says whether that was a release or a rehearsal. 1: something is wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from packaging.metadata import Metadata
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
UNRELEASED = "Unreleased"
SECTION = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\d{4}-\d{2}-\d{2}))?\s*$", re.MULTILINE)
PACKED = {"medseg": "medseg", "pipelines": "medseg/pipelines", "data_manifests": "medseg/data_manifests"}
"""Folder of the checkout -> folder of the wheel."""

COMMANDS = (("--version",), ("doctor",), ("list",), ("demo", "--quick", "--output", "demo"))
"""Of `medseg`, in an empty folder of the new environment."""


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
    here = frozenset(_git(root, "tag", "--points-at", "HEAD", "--list", "v[0-9]*"))
    others = frozenset(_git(root, "tag", "--list", "v[0-9]*")) - here
    changed = bool(_git(root, "status", "--porcelain"))
    return Sources(found[1], str(citation["version"]), sections, here, others, changed)


def _git(root: Path, *words: str) -> list[str]:
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


def build(output: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it; returns both."""
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(ROOT)], quiet=True)
    (sdist,), (wheel,) = output.glob("medseg-*.tar.gz"), output.glob("medseg-*.whl")
    return sdist, wheel


def check_files(sdist: Path, wheel: Path, version: str) -> None:
    """See that metadata are valid and that sdist and wheel hold what they should, and nothing else.

    Raises:
        ReleaseError: they do not.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        raw = archive.read(f"medseg-{version}.dist-info/METADATA")
    metadata = Metadata.from_email(raw, validate=True)  # an ExceptionGroup lists everything that is not valid
    if str(metadata.version) != version or not metadata.description:
        raise ReleaseError(f"{wheel.name}: version {metadata.version} and a README are wanted")
    packed = {name for name in names if not name.startswith(f"medseg-{version}.dist-info/")}
    _compare(wheel.name, packed, expected_in_wheel())
    ours = _git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard")
    if not ours:
        return
    with tarfile.open(sdist) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    _compare(sdist.name, held, {name for name in ours if (ROOT / name).is_file()} | {"PKG-INFO"})


def expected_in_wheel() -> set[str]:
    """Files of the package, and of the folders that are packed into it."""
    expected = set()
    for source, target in PACKED.items():
        for path in (ROOT / source).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(f"{target}/{path.relative_to(ROOT / source).as_posix()}")
    return expected


def _compare(archive: str, found: Iterable[str], expected: Iterable[str]) -> None:
    missing, surplus = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise ReleaseError(f"{archive} lacks {len(missing)} files, such as {missing[0]}")
    if surplus:
        raise ReleaseError(f"{archive} has {len(surplus)} files that are not of the checkout, such as {surplus[0]}")


def try_out(wheel: Path, folder: Path) -> None:
    """Install the wheel into a new environment and do real work with it, far from the checkout.

    Args:
        wheel: that was built.
        folder: empty, for the environment and what the commands write.
    """
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    python = str(programs / "python")
    constraints = ROOT / "constraints.txt"
    # torch goes first and pinned: an unpinned search may end at a build for another device
    (torch,) = re.findall(r"^torch==.*$", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    _run([python, "-m", "pip", "install", "--quiet", torch])
    _run([python, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), str(wheel)])
    _run([python, "-m", "pip", "check"])
    work = folder / "work"
    work.mkdir()
    _run([python, "-c", f"import medseg; assert medseg.__file__.startswith({str(environment)!r})"], work)
    for words in COMMANDS:
        _run([str(programs / "medseg"), *words], work)


def _run(command: list[str], folder: Path | None = None, *, quiet: bool = False) -> None:
    """Run a command without this environment's variables for Python.

    Raises:
        ReleaseError: it ended with an error.
    """
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    shown = " ".join(command)
    print(f"$ {shown}", flush=True)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if quiet else {}
    done = subprocess.run(command, cwd=folder, env=variables, text=True, check=False, **streams)
    if done.returncode:
        raise ReleaseError(f"exit code {done.returncode} of {shown}\n{done.stdout or ''}".rstrip())


def check(output: Path, *, only_build: bool) -> str:
    """Do everything; returns what it was, a release or a rehearsal.

    Raises:
        ReleaseError: something stands in the way.
    """
    sources = read_sources()
    missing = missing_for_release(sources)
    problems = contradictions(sources)
    if sources.tags:
        problems += missing
    if problems:
        raise ReleaseError("\n".join(problems))
    with tempfile.TemporaryDirectory(prefix="medseg-release-") as scratch:
        sdist, wheel = build(Path(scratch))
        check_files(sdist, wheel, sources.version)
        if not only_build:
            (Path(scratch) / "install").mkdir()
            try_out(wheel, Path(scratch) / "install")
        output.mkdir(parents=True, exist_ok=True)
        for path in (sdist, wheel):
            (output / path.name).write_bytes(path.read_bytes())
            print(output / path.name)
    if sources.tags and not only_build:
        return f"release {sources.version}: everything passed"
    missing = [*missing, *([] if sources.tags else [f"this commit has no tag v{sources.version}"])]
    return (
        f"rehearsal of {sources.version}: what was tried passed; for a release: {'; '.join(missing) or 'run it whole'}"
    )


def main() -> int:
    """Read the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Check a release: version, sdist and wheel, and the wheel at work.")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder for sdist and wheel")
    parser.add_argument("--only-build", action="store_true", help="do not install the wheel")
    options = parser.parse_args()
    try:
        print(check(options.output, only_build=options.only_build))
    except ReleaseError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
