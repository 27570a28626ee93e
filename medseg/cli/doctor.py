"""`medseg doctor`: what this machine and this environment have, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from medseg import __version__
from medseg.cores import machine_cores, usable_cores

GIB = 2**30
LEAST_SHARED = 1 * GIB
"""Shared memory by which loader processes hand over batches; containers often have 64 MiB."""

LEAST_DISK = 10 * GIB
"""Of a run: preprocessed cases, checkpoints and a bundle."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - no file is made there
EXTRAS = ("dicom", "onnx")
"""Extras that users may want; `dev` is for those who change medseg."""


@dataclass(frozen=True)
class Finding:
    """One line.

    Args:
        what: was looked at.
        found: in words.
        remedy: what to do; empty where all is well.
        serious: whether medseg cannot do its work without.
    """

    what: str
    found: str
    remedy: str = ""
    serious: bool = False


def examine() -> list[Finding]:
    """Everything that is worth a line, in the order in which it is shown."""
    return [
        Finding("medseg", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        *_packages(),
        *_extras(),
        _device(),
        _cores(),
        *_memory(),
        _disk(Path.cwd()),
    ]


def _requirements(extra: str = "") -> Iterator[Requirement]:
    """What medseg asks for in any case, or for an extra alone."""
    for text in metadata.requires("medseg") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        wanted_always = marker is None or marker.evaluate({"extra": ""})
        wanted_by_extra = marker is not None and marker.evaluate({"extra": extra})
        is_asked_for = (wanted_by_extra and not wanted_always) if extra else wanted_always
        if is_asked_for:
            yield requirement


def _lacking(requirement: Requirement) -> str:
    """What is wrong with an installed package, in words; empty: nothing."""
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{requirement.name} is {found}, wanted is {requirement.specifier}"


def _packages() -> list[Finding]:
    requirements = list(_requirements())
    problems = [problem for requirement in requirements if (problem := _lacking(requirement))]
    names = ("torch", "monai", "numpy", "nibabel", "SimpleITK")
    shown = ", ".join(f"{name} {_version(name)}" for name in names)
    findings = [Finding("packages", f"{shown}; {len(requirements) - len(problems)} of {len(requirements)} as wanted")]
    findings += [Finding("packages", problem, "pip install --upgrade medseg", serious=True) for problem in problems]
    return findings


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _extras() -> Iterator[Finding]:
    for extra in EXTRAS:
        problems = [problem for requirement in _requirements(extra) if (problem := _lacking(requirement))]
        remedy = f'pip install "medseg[{extra}]"' if problems else ""
        yield Finding(f"extra {extra}", "; ".join(problems) or "installed", remedy)


def _device() -> Finding:
    try:
        import torch
    except Exception as error:  # an installation of torch may fail in any way
        problem = f"torch cannot be imported ({type(error).__name__}: {str(error).splitlines()[0]})"
        return Finding("device", problem, "install torch anew", serious=True)
    if torch.cuda.is_available():
        names = []
        for number in range(torch.cuda.device_count()):
            known = torch.cuda.get_device_properties(number)
            names.append(f"{known.name} with {known.total_memory / GIB:.0f} GiB")
        return Finding("device", f"{', '.join(names)}; CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        return Finding("device", "Apple GPU (mps)")
    return Finding("device", f"CPU only; this torch is made for {_made_for(torch.version.cuda)}")


def _made_for(cuda: str | None) -> str:
    return "the CPU" if cuda is None else f"CUDA {cuda}, and no GPU is seen"


def _cores() -> Finding:
    usable, present = usable_cores(), machine_cores()
    remedy = "more cores for the job, or a larger quota of the container" if usable < present else ""
    return Finding("cores", f"{usable} of {present} may be used", remedy)


def _memory() -> Iterator[Finding]:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield Finding("memory", f"{memory / GIB:.0f} GiB")
    if SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(SHARED_MEMORY).total
        remedy = "docker run --shm-size 4g, or --ipc host" if shared < LEAST_SHARED else ""
        yield Finding("shared memory", f"{shared / GIB:.1f} GiB", remedy)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Finding("this folder", "cannot be written", "go to another, or --output elsewhere")
    remedy = "make room, or --output on another disk" if free < LEAST_DISK else ""
    return Finding("this folder", f"can be written, {free / GIB:.0f} GiB free", remedy)


def as_text(findings: list[Finding]) -> str:
    """A line each, and below it what to do."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.what:{width}}  {finding.found}")
        if finding.remedy:
            mark = "wrong" if finding.serious else "note"
            lines.append(f"{'':{width}}  {mark}: {finding.remedy}")
    return "\n".join(lines)
