"""The step after a training that measures what the bundle is to keep of it, and writes it with the model card."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from medseg.bundle.keep_facts import write_facts
from medseg.bundle.training_facts import TrainingFacts, read_facts
from medseg.config.pipeline import DataSpec, Pipeline
from medseg.engine import distributed
from medseg.manifest.case import Case
from medseg.manifest.labelling import is_pseudo
from medseg.manifest.manifest import SECTIONS, Manifest
from medseg.progress import show_progress
from medseg.records import read_record
from medseg.workflows.train.facts.measure import cases_by_stream, measure
from medseg.workflows.train.facts.scores import validation_of

LICENCE_KEYS = ("licence", "license")
LONGEST_LICENCE = 200

PACKAGES = ("medseg", "monai", "torch", "numpy", "python")
STREAMS = {"unlabelled": "unlabeled", "tags only": "weak"}
"""Kind of case -> the stream that it is in; all others have a label."""


def keep_facts(folder: Path, pipeline: Pipeline, manifest: Manifest) -> None:
    """Write what the bundle of a finished run keeps of its training; what is there is left as it is.

    Args:
        folder: of the run.
        pipeline: resolved.
        manifest: its data set.

    Raises:
        MedsegError: a file of the data set that cannot be read, or a bundle that cannot be written.
        Stopped: by a signal.
    """
    bundle = folder / "bundle"
    if distributed.rank() == 0 and read_facts(bundle) is None:
        data = DataSpec(**pipeline.data)
        with show_progress("measuring the training data", unit="files", kept="the bundle is there") as tell:
            measured = measure(pipeline, manifest, data, tell)
        facts = TrainingFacts(
            date=_date_of(bundle / "models" / "model.pt"),
            versions=_versions(folder),
            cases=count_cases(manifest, set(cases_by_stream(pipeline, manifest))),
            licence=licence_of(manifest),
            validation=validation_of(folder, manifest, data),
            **measured,
        )
        write_facts(bundle, facts)
    distributed.barrier()


def _date_of(weights: Path) -> str:
    """When the weights were written: a run that was trained earlier and is resumed has not become younger."""
    return datetime.fromtimestamp(weights.stat().st_mtime, UTC).date().isoformat()


def _versions(folder: Path) -> dict[str, str]:
    """Of what trained, as the run folder says."""
    found = read_record(folder / "versions.json")
    return {package: str(found[package]) for package in PACKAGES if package in found}


def count_cases(manifest: Manifest, used: Collection[str]) -> dict[str, dict[str, int]]:
    """How many cases there are of each kind.

    Args:
        manifest: the data set.
        used: streams that any stage learns from: "labeled", "weak", "unlabeled".

    Returns:
        Section -> kind of case -> number.
    """
    found = {}
    for section in SECTIONS:
        kinds: Counter[str] = Counter()
        for case in getattr(manifest, section):
            kind = _kind(section, case)
            stream = STREAMS.get(kind, "labeled")
            is_left_out = section == "test" or (section != "validation" and stream not in used)
            kinds[f"{kind}, not used" if is_left_out else kind] += 1
        if kinds:
            found[section] = dict(sorted(kinds.items()))
    return found


def _kind(section: str, case: Case) -> str:
    if section == "unlabeled":
        return "unlabelled"  # whatever the manifest says: its label is not opened
    if is_pseudo(case):
        return "pseudo-label"
    if case.is_labelled:
        return "labelled"
    return "unlabelled" if case.tags is None else "tags only"


def licence_of(manifest: Manifest) -> str | None:
    """The licence of the data as the manifest says it; None: it says none, or a path, which stays here."""
    for key in LICENCE_KEYS:
        value = (manifest.model_extra or {}).get(key)
        text = " ".join(value.split()) if isinstance(value, str) else ""
        is_path = re.match(r"/|~|\.{1,2}/|file:|[A-Za-z]:\\|\\\\", text)
        if text and not is_path:
            return text[:LONGEST_LICENCE]
    return None
