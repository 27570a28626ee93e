"""Modules that MONAI Label imports when it starts and that cannot always be imported beside present versions of others.

Each has a folder of its own here, which is put on the path only where the real module fails: who has a torchvision that
fits the torch gets that one. `python -m medseg.serve.standins` prints what PYTHONPATH should have.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("numpymaxflow", "pydicom_seg", "torchvision")


def folders() -> list[str]:
    """Folders to put in front of the path: of the modules that do not import."""
    return [str(HERE / name) for name in NAMES if not _imports(name)]


def python_path() -> str:
    """PYTHONPATH with these folders and what is in it already."""
    before = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return os.pathsep.join(dict.fromkeys([*folders(), *before]))


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # a binary of another build raises whatever it likes
        for loaded in [m for m in sys.modules if m.partition(".")[0] == name]:
            del sys.modules[loaded]  # parts of it, which what stands in for it must not be mixed with
        return False
    return True
