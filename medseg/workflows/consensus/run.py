"""`consensus`: several raters' annotations become one label map each, with a report of who was trusted and why.

Studies come by their files, from folders, from a manifest or from a MONAI Label studies folder. A study that is done
already, with the same files and options, is passed over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.atomic import check_writable, make_folder, problem_of_name, real_path
from medseg.consensus.fuse import alias_note
from medseg.consensus.io.file_names import is_series
from medseg.consensus.io.write_results import write_bytes
from medseg.errors import ConfigError, DataError, OutputError
from medseg.manifest.labelling import with_labels
from medseg.manifest.manifest import SECTIONS, Manifest
from medseg.portable.io.write import remove_leftovers
from medseg.progress import say, show_progress
from medseg.workflows.consensus.case import finished_labels, fuse_item, fuse_one_of_many
from medseg.workflows.consensus.collect_studies import (
    Item,
    collect_from_files,
    collect_from_manifest,
    collect_from_studies_folder,
)
from medseg.workflows.consensus.earlier_results import refuse_other_manifest, refuse_others
from medseg.workflows.consensus.options import ConsensusOptions
from medseg.workflows.consensus.process_pool import fitting_jobs, run_all

MANIFEST = "manifest.json"
FINAL = "final"
MOST_TOLD = 10
"""Studies that are named on the screen."""


def consensus(options: ConsensusOptions) -> dict[str, Any]:
    """Fuse several raters' annotations of each image into one label map, and report who was trusted and why.

    Returns:
        The report: `cases` with their status, `failed` with what could not be done and why.

    Raises:
        MedsegError: nothing can be fused; for a single study, or with `strict`, also why one could not.
        Stopped: by a signal; finished results and the report are whole.
    """
    if _is_single(options):
        (item,) = collect_from_files(options.image, options.annotation, options.name)
        entry = fuse_item(item, options.output, options)
        _tell_one(entry, options.output)
        return {"cases": [entry], "failed": []}
    if options.reference is not None or options.region:
        raise ConfigError("--reference and --region belong to a single study")
    manifest = Manifest.load(options.data) if options.data else None
    items = _collect(options, manifest)
    _check_output(items, options)
    refuse_others(items, options.series, options.output)
    if manifest is not None:
        refuse_other_manifest(manifest, options.output / MANIFEST)
    report = _batch(items[options.shard :: options.num_shards], options)
    if manifest is not None:
        _write_manifest(manifest, options, items, report)
    return report


def _is_single(options: ConsensusOptions) -> bool:
    """Whether it is one study, whose results need no folder of their own."""
    if options.data or options.studies:
        return False
    return not any(path.is_dir() and not is_series(path, options.annotation) for path in options.image)


def _collect(options: ConsensusOptions, manifest: Manifest | None) -> list[Item]:
    if manifest is not None:
        return collect_from_manifest(manifest, options.section)
    if options.studies is not None:
        return collect_from_studies_folder(options.studies, options.tag)
    return collect_from_files(options.image, options.annotation, options.name)


def _check_output(items: Sequence[Item], options: ConsensusOptions) -> None:
    """See that no result lies among what is fused."""
    output = options.output
    for item in items:
        problem = problem_of_name(item.name)
        if problem is not None:
            raise DataError(problem, path=(*item.images, *item.annotations)[0], hint="rename it")
    if options.data is not None and real_path(output / MANIFEST) == real_path(options.data):
        raise ConfigError(f"the manifest of the results would overwrite {options.data}; choose another --output")
    inputs: set[Path] = set()
    for item in items:
        for path in (*item.images, *item.annotations):
            place = real_path(path)
            inputs.add(place if place.is_dir() else place.parent)
    for item in items:
        if real_path(output / item.name) in inputs:
            raise ConfigError(f"{output / item.name} holds files to fuse; choose another --output")


def _batch(items: Sequence[Item], options: ConsensusOptions) -> dict[str, Any]:
    """All studies, with a bar, each entered into the report."""
    output = options.output
    make_folder(output)
    check_writable(output)
    remove_leftovers(output)
    note = alias_note(options.method)
    if note is not None:
        say(f"warning: {note}")
    jobs = options.jobs or (fitting_jobs(items) if items else 1)
    report: dict[str, Any] = {"medseg_version": __version__, "request": options.of_a_result(), "jobs": jobs}
    report |= {"cases": [], "failed": [], "interrupted": True}
    started = time.perf_counter()
    try:
        with show_progress("fusing", unit="studies", kept="finished studies are kept") as progress:
            progress(0, len(items))
            with closing(run_all(items, partial(fuse_one_of_many, options=options), jobs)) as entries:
                for done, entry in enumerate(entries, 1):
                    _enter(report, entry, options)
                    progress(done, len(items))
        report["interrupted"] = False
    finally:
        report["seconds"] = round(time.perf_counter() - started, 2)
        order = {item.name: n for n, item in enumerate(items)}
        for listed in (report["cases"], report["failed"]):
            listed.sort(key=lambda entry: order[entry["case"]])
        write_bytes(output / options.report_name, json.dumps(report, indent=1, allow_nan=False) + "\n")
    _tell(report, output / options.report_name)
    return report


def _enter(report: dict[str, Any], entry: dict[str, Any], options: ConsensusOptions) -> None:
    """Put what came of a study into the report, and its consensus where MONAI Label keeps what was accepted."""
    report["cases"].append(entry)
    if entry["status"] == "failed":
        report["failed"].append({"case": entry["case"], "error": entry["error"]})
        if options.strict:
            raise DataError(entry["error"])
        return
    if options.write_back and options.studies is not None:
        labels = options.output / entry["case"] / entry["labels"]
        _accept(labels, options.studies, entry["case"], overwrite=options.overwrite)


def _accept(labels: Path, studies: Path, case: str, *, overwrite: bool) -> None:
    """Copy a consensus to where MONAI Label keeps what was accepted.

    Raises:
        OutputError: another label is there, or it cannot be written.
    """
    suffix = labels.name.removeprefix("consensus")
    target = make_folder(studies / "labels" / FINAL) / f"{case}{suffix}"
    content = labels.read_bytes()
    if target.exists() and not overwrite and target.read_bytes() != content:
        raise OutputError("is there already and is another one", path=target, hint="--overwrite replaces it")
    write_bytes(target, content)


def _write_manifest(
    manifest: Manifest, options: ConsensusOptions, items: Sequence[Item], report: Mapping[str, Any]
) -> None:
    """The manifest with each consensus as the case's label, of all shards that are done by now."""
    failed = {entry["case"] for entry in report["failed"]}
    labels: dict[str, Path] = {}
    for item in items:
        found = finished_labels(options.output / item.name)
        if found is not None and item.name not in failed:
            labels[item.name] = found
    for name in [options.section] if options.section else SECTIONS:
        cases = {case.name for case in getattr(manifest, name)}
        manifest = with_labels(manifest, name, {case: path for case, path in labels.items() if case in cases})
    manifest.save(options.output / MANIFEST)


def _tell_one(entry: Mapping[str, Any], output: Path) -> None:
    for line in entry["warnings"]:
        say(f"warning: {line}")
    what = "is there already" if entry["status"] == "skipped" else "is done"
    told = f"{output / entry['labels']} {what}"
    if "summary" in entry:
        told += f": {entry['summary']}"
    if (output / "report.html").is_file():
        told += f"; see {output / 'report.html'}"
    say(told)


def _tell(report: Mapping[str, Any], file: Path) -> None:
    """What came of many studies, those to look at by name.

    Args:
        report: on all of them.
        file: that has it.
    """
    statuses = [case["status"] for case in report["cases"]]
    done, skipped, failed = statuses.count("done"), statuses.count("skipped"), len(report["failed"])
    say(f"{done} fused, {skipped} already there, {failed} failed: {file.parent}")
    for failure in report["failed"]:
        say(f"failed: {failure['error']}")
    amiss = [case for case in report["cases"] if case.get("amiss")]
    for case in amiss[:MOST_TOLD]:
        say(f"look at {case['case']}: {'; '.join(case['amiss'])}")
    if len(amiss) > MOST_TOLD:
        say(f"look at {len(amiss) - MOST_TOLD} more, which have entries under 'amiss' in {file}")
    warned = sum(bool(case.get("warnings")) for case in report["cases"])
    if warned:
        say(f"studies with warnings: {warned} of {len(statuses)}, see {file}")
