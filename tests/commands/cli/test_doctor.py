"""`medseg doctor`: what is missing is told with its remedy."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from types import SimpleNamespace

import pytest
from forking import python

from medseg.cli import doctor


def told(what: str) -> list[doctor.Finding]:
    return [finding for finding in doctor.examine() if finding.what == what]


def test_here_all_is_well():
    run = subprocess.run([python(), "-m", "medseg", "doctor"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "wrong" not in run.stdout
    assert f"torch {metadata.version('torch')}" in run.stdout
    for what in ("medseg", "packages", "extra dicom", "device", "cores", "this folder"):
        assert any(line.startswith(what) for line in run.stdout.splitlines()), what


def test_missing_and_old_packages_are_named(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "edt":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name in ("monai", "pydicom") else real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = {finding.found: finding for finding in told("packages")}
    assert found["edt is not installed"].serious
    assert found["monai is 1.0, wanted is >=1.5.2"].serious
    (extra,) = told("extra dicom")
    assert (extra.found, extra.remedy) == ("pydicom is 1.0, wanted is >=3", 'pip install "medseg[dicom]"')
    assert not extra.serious


@pytest.mark.parametrize(("gib", "remedy"), [(0.06, "docker run --shm-size 4g, or --ipc host"), (2, "")])
def test_little_shared_memory_of_a_container(monkeypatch, gib, remedy):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=gib * 2**30, free=2**40))
    (finding,) = told("shared memory")
    assert finding.remedy == remedy


def test_remedies_stand_below_what_they_are_for():
    findings = [doctor.Finding("a", "bad", "mend it", serious=True), doctor.Finding("long", "good")]
    assert doctor.as_text(findings).splitlines() == ["a     bad", "      wrong: mend it", "long  good"]
