"""Numbers, durations and the computer, written as text for people."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path

from medseg import __version__
from medseg.cores import usable_cores


def format_number(value: float | None, digits: int) -> str:
    """A number with so many decimal places, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def format_percent(share: float) -> str:
    """A share in whole per cent, such as 25%."""
    return f"{share:.0%}"


def count_of(number: int, what: str) -> str:
    """A number of things, such as "1 seed" or "3 seeds"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def format_duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, such as 12.5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def describe_command(function: str) -> str:
    """The command of this process as one types it, or what a program calls instead, such as "medseg.train(...)"."""
    if Path(sys.argv[0]).name in ("medseg", "__main__.py"):
        return shlex.join(["medseg", *sys.argv[1:]])
    return function


def describe_computer() -> str:
    """The processor, its usable cores, the GPU and the versions of the software, in one line."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}, medseg {__version__}"
    return f"{_processor_name()}, {_describe_cores()}, {gpu}; {versions}"


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _describe_cores() -> str:
    usable, present = usable_cores(), os.cpu_count()
    cores = "1 core" if present == 1 else f"{present} cores"
    return cores if usable == present else f"{usable} of {cores}"
