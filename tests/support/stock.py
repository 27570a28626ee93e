"""Python as it is where medseg is not installed, for bundles that stock MONAI runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BLOCK_MEDSEG = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "medseg":
            raise ImportError("medseg is not to be imported here")

sys.meta_path.insert(0, Blocked())
"""


def elsewhere(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python in a folder where `import medseg` fails."""
    blocker = folder.parent / "blocker"
    blocker.mkdir(exist_ok=True)
    (blocker / "sitecustomize.py").write_text(BLOCK_MEDSEG)
    environment = {**os.environ, "PYTHONPATH": str(blocker), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done
