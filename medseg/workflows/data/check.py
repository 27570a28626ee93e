"""`medseg data check`: open every file of a manifest and tell all that is wrong with it in one run."""

from __future__ import annotations

from pathlib import Path

from medseg.manifest.manifest import SECTIONS, Manifest, streams_of
from medseg.progress import show_progress
from medseg.workflows.data.check_case import Finding, check_case
from medseg.workflows.data.check_dataset import check_set
from medseg.workflows.data.problems import CheckReport, Problem

__all__ = ["CheckReport", "Problem", "check_manifest"]


def check_manifest(path: Path, *, headers_only: bool = False) -> CheckReport:
    """Check a manifest and its files: one case at a time, each file read once.

    Args:
        path: the manifest.
        headers_only: look at shapes and placement, not at voxels; a thousand cases take seconds.

    Raises:
        ManifestError: when the manifest itself cannot be used.
    """
    manifest = Manifest.load(path)
    cases = [(section, case) for section in SECTIONS for case in getattr(manifest, section)]
    findings: list[Finding] = []
    with show_progress("checking") as progress:
        for section, case in cases:
            progress(len(findings), len(cases))
            findings.append(check_case(manifest, section, case, headers_only=headers_only))
    problems = [p for found in findings for p in found.problems]
    problems += check_set(manifest, findings)
    files = sum(found.files for found in findings)
    learnable = {stream: len(found) for stream, found in streams_of(manifest).items() if stream != "all"}
    return CheckReport(Path(path), len(cases), files, headers_only, tuple(problems), learnable)
