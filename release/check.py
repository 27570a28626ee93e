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
import shlex
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.metadata import ExceptionGroup, Metadata
from versions import ROOT, ReleaseError, contradictions, git, missing_for_release, read_sources

PACKED = {"medseg": "medseg", "pipelines": "medseg/pipelines", "data_manifests": "medseg/data_manifests"}
"""Folder of the checkout -> folder of the wheel."""

SCANS = """
import sys
from pathlib import Path
sys.path.insert(0, {support!r})
from tiny import write_dataset
write_dataset(Path("scans"))
"""
"""Program that writes a few small volumes with labels and their manifest; it needs the installed packages alone."""

SMALL = (
    "--set", "stages.0.network.width=4", "--set", "stages.0.schedule.iterations=6",
    "--set", "stages.0.schedule.batch.labeled=2", "--set", "data.patch=[16,16,16]",
)  # fmt: skip
COMMANDS = (
    ("--version",),
    ("doctor",),
    ("list",),
    ("data", "check", "scans/m.json"),
    ("train", "--task", "dtc", "--data", "scans/m.json", "--output", "run", *SMALL),
    ("predict", "--model", "run", "--input", "scans/m.json", "--section", "test", "--output", "predictions"),
    ("evaluate", "--prediction", "predictions", "--reference", "scans/m.json", "--section", "test"),
)
"""Of `medseg`, in an empty folder of the new environment."""


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
    try:
        metadata = Metadata.from_email(raw, validate=True)
    except ExceptionGroup as problems:
        raise ReleaseError(f"{wheel.name}: {'; '.join(map(str, problems.exceptions))}") from problems
    if str(metadata.version) != version or not metadata.description:
        raise ReleaseError(f"{wheel.name}: version {metadata.version} and a README are wanted")
    packed = {name for name in names if not name.startswith(f"medseg-{version}.dist-info/")}
    _compare(wheel.name, packed, expected_in_wheel())
    if ours := git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard"):
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
    python, constraints = str(programs / "python"), ROOT / "constraints.txt"
    # torch goes first and pinned: an unpinned search may end at a build for another device
    (torch,) = re.findall(r"^torch==.*$", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    _run([python, "-m", "pip", "install", "--quiet", torch])
    _run([python, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), str(wheel)])
    _run([python, "-m", "pip", "check"])
    work = folder / "work"
    work.mkdir()
    _run([python, "-c", f"import medseg; assert medseg.__file__.startswith({str(environment)!r})"], work)
    _run([python, "-c", SCANS.format(support=str(ROOT / "tests" / "support"))], work)
    for words in COMMANDS:
        _run([str(programs / "medseg"), *words], work)


def _run(command: list[str], folder: Path | None = None, *, quiet: bool = False) -> None:
    """Run a command without this environment's variables for Python.

    Raises:
        ReleaseError: it ended with an error.
    """
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    shown = shlex.join(command)
    print(f"$ {shown}", flush=True)
    output = subprocess.PIPE if quiet else None
    done = subprocess.run(command, cwd=folder, env=variables, text=True, check=False, stdout=output, stderr=output)
    if done.returncode:
        raise ReleaseError(f"exit code {done.returncode} of {shown}\n{done.stdout or ''}{done.stderr or ''}".rstrip())


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
    parser = argparse.ArgumentParser(description="Check version, sdist and wheel, and the wheel at work.")
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
