"""Python as it is where medseg is not installed, for bundles that stock MONAI runs."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from forking import folder

BLOCK_MEDSEG = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "medseg":
            raise ImportError("medseg is not to be imported here")

sys.meta_path.insert(0, Blocked())
"""


@cache
def _blocker() -> Path:
    """A folder that blocks medseg in each process that has it as its `PYTHONPATH`."""
    made = Path(tempfile.mkdtemp(prefix="medseg-blocker-"))
    (made / "sitecustomize.py").write_text(BLOCK_MEDSEG)
    atexit.register(shutil.rmtree, made)
    return made


def ask_elsewhere(place: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python in a folder where `import medseg` fails, as a copy of a process that has imported MONAI."""
    blocker = str(_blocker())
    return subprocess.run(
        [folder("monai", blocker) / "python", *arguments], cwd=place, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": blocker, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def elsewhere(place: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The same, which must end well."""
    done = ask_elsewhere(place, *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done
