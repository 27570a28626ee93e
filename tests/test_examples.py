"""What we ship as an example runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_own_method(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "own_method.py", tmp_path],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "prediction").glob("*.nii.gz"))
