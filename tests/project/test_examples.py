"""What we ship as an example runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from forking import folder as folder_of_programs
from forking import python
from notebook import cells_of

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


NOTEBOOK = ROOT / "examples" / "first_hour.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    """Its network finds the balls, of which a Dice of 0.7 needs most voxels; the shifted rater has the least weight."""
    path = os.pathsep.join([str(folder_of_programs()), os.environ["PATH"]])
    done = subprocess.run(
        [python(), ROOT / "tests" / "support" / "notebook.py", NOTEBOOK], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PATH": path}, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (dice,) = re.findall(r"mean Dice ([0-9.]+)", done.stdout)
    assert float(dice) > 0.7
    weights = dict(re.findall(r"'(careful|shifted|half)': ([0-9.]+)", done.stdout))
    assert min(weights, key=lambda name: float(weights[name])) == "shifted"


def test_the_notebook_is_stored_without_outputs():
    cells = cells_of(NOTEBOOK)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len(cells) - len(code) >= 7, "each step is told in words"
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert max(len(cell["source"]) for cell in code) < 32
