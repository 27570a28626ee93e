"""What the numbers were made on and with."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from journal import MACHINE
from pieces import __version__
from setting import Setting

PACKAGES = ("numpy", "monai", "pytorch-ignite", "nibabel", "edt", "triton")


def describe(setting: Setting) -> None:
    """One row of facts, once for each start of a part."""
    rows = setting.journal.rows(MACHINE)
    if rows and "device" in rows[-1]:
        return
    facts: dict[str, object] = {"device": "CPU"}
    if setting.device.type == "cuda":
        found = torch.cuda.get_device_properties(0)
        facts = {
            "device": found.name,
            "GPU memory, GiB": found.total_memory / 2**30,
            "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())),
        }
    facts |= {"processor": f"{platform.machine()}, {os.cpu_count()} cores", "Python": platform.python_version()}
    facts |= {"torch": torch.__version__, "medseg": f"{__version__}, commit {commit()}"}
    facts |= {package: installed(package) for package in PACKAGES}
    if setting.tiny:
        facts["remark"] = "a dry run with tiny sizes: the numbers below mean nothing"
    setting.journal.add(MACHINE, **facts)


def installed(package: str) -> str:
    """Its version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """As `COMMIT` says, else of the checkout that this file is in; "unknown" for a copy without its history."""
    here = str(Path(__file__).parent)
    return os.environ.get("COMMIT") or said("git", "-C", here, "describe", "--always", "--dirty") or "unknown"


def said(*command: str) -> str:
    """The first line that a command prints; nothing where it fails or is not there."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip().split("\n")[0] if done.returncode == 0 else ""
