"""What we ship as an example runs as it stands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from forking import python

ROOT = Path(__file__).parents[2]


def run(name: str, folder: Path) -> str:
    done = subprocess.run(
        [python(), ROOT / "examples" / name, folder],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_method(tmp_path):
    run("own_method.py", tmp_path)
    assert list((tmp_path / "prediction").glob("*.nii.gz"))


def test_tags_only(tmp_path):
    run("tags_only.py", tmp_path)
    assert (tmp_path / "run" / "bundle" / "models" / "model.pt").exists()
    assert len(list((tmp_path / "run" / "stage0" / "labels" / "pseudo").glob("*.nii.gz"))) == 6


def test_consensus(tmp_path):
    told = run("consensus.py", tmp_path)
    dice = {line.split()[0]: float(line.split()[-1]) for line in told.splitlines() if "truth" in line}
    assert dice["gcssl"] > max(dice["majority"], dice["staple"]) + 0.005
    assert (tmp_path / "consensus.nii.gz").exists()
