"""`consensus`: several raters' annotations become one label map each, with an account of who was trusted and why.

Studies come by their files, from folders, from a manifest or from a MONAI Label studies folder. A study that is done
already, with the same files and options, is passed over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.atomic import check_writable, make_folder
from medseg.consensus.fuse import alias_note
from medseg.consensus.io.file_names import is_series
from medseg.consensus.io.write_results import write_bytes
from medseg.errors import ConfigError, DataError, OutputError
from medseg.manifest.manifest import SECTIONS, Manifest
from medseg.portable.io.write import remove_leftovers
from medseg.progress import counting, say
from medseg.workflows.consensus.case import finished_labels, fuse_item
from medseg.workflows.consensus.collect_studies import Item, of_files, of_manifest, of_studies
from medseg.workflows.consensus.options import Options, method_options, reading_options
from medseg.workflows.consensus.process_pool import Task, fitting_jobs, run_all

MANIFEST = "manifest.json"
FINAL = "final"


@dataclass(frozen=True)
class Source:
    """Where the studies are: one of three.

    Attributes:
        images: of one study, or one folder; with `annotations`, `names`.
        annotations: a file or a folder of each rater.
        names: of the raters.
        data: manifest whose cases have annotations.
        section: list of the manifest; None: all.
        studies: MONAI Label studies folder.
        tags: of the raters in it; none: all but "final" and "original".
    """

    images: Sequence[Path] = ()
    annotations: Sequence[Path] = ()
    names: Sequence[str] = ()
    data: Path | None = None
    section: str | None = None
    studies: Path | None = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        files = bool(self.images or self.annotations)
        if files + (self.data is not None) + (self.studies is not None) != 1:
            raise ConfigError("give either --annotation (with --image), or --data, or --studies")
        if self.names and not files:
            raise ConfigError("--name belongs to --annotation; manifests and tags name the raters themselves")
        if self.section is not None and self.data is None:
            raise ConfigError(f"--section {self.section} belongs to --data")
        if self.tags and self.studies is None:
            raise ConfigError("--tag belongs to --studies")

    @property
    def single(self) -> bool:
        """Whether it is one study, whose results need no folder of their own."""
        folders = any(path.is_dir() and not is_series(path, self.annotations) for path in self.images)
        return not (self.data or self.studies or folders)


@dataclass(frozen=True)
class Work:
    """How the studies are shared out.

    Attributes:
        overwrite: do finished studies again.
        strict: stop at the first that fails.
        write_back: copy each consensus to `labels/final` of the studies folder.
        jobs: processes; None: one per core, as far as the memory goes.
        shard: which part of the studies to do, from 0.
        num_shards: in how many parts they are split.
    """

    overwrite: bool = False
    strict: bool = False
    write_back: bool = False
    jobs: int | None = None
    shard: int = 0
    num_shards: int = 1

    def __post_init__(self) -> None:
        if self.num_shards < 1 or not 0 <= self.shard < self.num_shards:
            raise ConfigError(f"--shard {self.shard} of --num-shards {self.num_shards}: shards are counted from 0")
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"--jobs {self.jobs}: a number > 0 is wanted")

    @property
    def report(self) -> str:
        """File name of the report of many studies."""
        part = "" if self.num_shards == 1 else f"_{self.shard}_of_{self.num_shards}"
        return f"consensus_report{part}.json"


def consensus(source: Source, output: Path, options: Options, work: Work | None = None) -> dict[str, Any]:
    """Fuse annotations and write the results.

    Args:
        source: the studies.
        output: folder of the results; of several studies each has one in it.
        options: how to fuse, and what to write.
        work: how they are shared out.

    Returns:
        The report: `cases` with their status, `failed` with what could not be done and why.

    Raises:
        MedsegError: nothing can be fused; for a single study, or with `strict`, also why one could not.
        Stopped: by a signal; finished results and the report are whole.
    """
    work = work or Work()
    if work.write_back and source.studies is None:
        raise ConfigError("--write-back belongs to --studies")
    if source.single:
        (item,) = of_files(source.images, source.annotations, source.names)
        entry = fuse_item(item, output, options, overwrite=work.overwrite)
        _tell_one(entry, output)
        return {"cases": [entry], "failed": []}
    if options.reference is not None or options.reading.get("regions"):
        raise ConfigError("--reference and --region belong to a single study")
    manifest = Manifest.load(source.data) if source.data else None
    items = _items(source, manifest)
    _check(items, output, source)
    report = _batch(items[work.shard :: work.num_shards], output, options, work, source.studies)
    if manifest is not None:
        _write_manifest(manifest, source.section, items, output, report)
    return report


def asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """`consensus` with the options of the command line by their names; see there."""
    own = {name: given[name] for name in ("weights", "smoothness", "neighbours", "ssl", "tie", "seed")}
    reading = reading_options(given)
    options = Options(
        given["method"],
        method_options(own, given["settings"] or ()),
        reading,
        **{name: given[name] for name in ("compare", "reference", "tolerance_mm", "viewer")},
        soft=given["export_soft"],
        page=given["report"],
    )
    source = Source(
        given["image"] or (),
        given["annotation"] or (),
        given["name"] or (),
        **{name: given[name] for name in ("data", "section", "studies")},
        tags=given["tag"] or (),
    )
    work = Work(**{name: given[name] for name in ("overwrite", "strict", "write_back", "jobs", "shard", "num_shards")})
    return consensus(source, given["output"], options, work)


def _items(source: Source, manifest: Manifest | None) -> list[Item]:
    if manifest is not None:
        return of_manifest(manifest, source.section)
    if source.studies is not None:
        return of_studies(source.studies, source.tags)
    return of_files(source.images, source.annotations, source.names)


def _check(items: Sequence[Item], output: Path, source: Source) -> None:
    if source.data is not None and (output / MANIFEST).resolve() == source.data.resolve():
        raise ConfigError(f"the manifest of the results would overwrite {source.data}; choose another --output")
    paths = [path.resolve() for item in items for path in (*item.images, *item.annotations)]
    inputs = {path if path.is_dir() else path.parent for path in paths}
    for item in items:
        if (output / item.name).resolve() in inputs:
            raise ConfigError(f"{output / item.name} holds files to fuse; choose another --output")


def _batch(items: Sequence[Item], output: Path, options: Options, work: Work, studies: Path | None) -> dict[str, Any]:
    """All studies, with a bar, each entered into the report."""
    make_folder(output)
    check_writable(output)
    remove_leftovers(output)
    note = alias_note(options.method)
    if note is not None:
        say(f"warning: {note}")
    tasks = [Task(item, output / item.name, options, work.overwrite) for item in items]
    jobs = work.jobs or (fitting_jobs(items) if items else 1)
    report: dict[str, Any] = {"medseg_version": __version__, "request": options.plain(), "jobs": jobs}
    report |= {"cases": [], "failed": [], "interrupted": True}
    started = time.perf_counter()
    try:
        with counting("fusing", pieces="studies", kept="finished studies are kept") as progress:
            progress(0, len(tasks))
            with closing(run_all(tasks, jobs)) as told:
                for done, entry in enumerate(told, 1):
                    _enter(report, entry, work)
                    if work.write_back and studies is not None and entry["status"] != "failed":
                        labels = output / entry["case"] / entry["labels"]
                        _accept(labels, studies, entry["case"], overwrite=work.overwrite)
                    progress(done, len(tasks))
        report["interrupted"] = False
    finally:
        report["seconds"] = round(time.perf_counter() - started, 2)
        order = {item.name: n for n, item in enumerate(items)}
        for entries in (report["cases"], report["failed"]):
            entries.sort(key=lambda entry: order[entry["case"]])
        write_bytes(output / work.report, json.dumps(report, indent=1, allow_nan=False) + "\n")
    _tell(report, output)
    return report


def _enter(report: dict[str, Any], entry: dict[str, Any], work: Work) -> None:
    report["cases"].append(entry)
    if entry["status"] == "failed":
        report["failed"].append({"case": entry["case"], "error": entry["error"]})
        if work.strict:
            raise DataError(entry["error"])


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
    manifest: Manifest, section: str | None, items: Sequence[Item], output: Path, report: Mapping[str, Any]
) -> None:
    """The manifest with each consensus as the case's label, of all shards that are done by now."""
    failed = {entry["case"] for entry in report["failed"]}
    labels: dict[str, Path] = {}
    for item in items:
        found = finished_labels(output / item.name)
        if found is not None and item.name not in failed:
            labels[item.name] = found
    for name in [section] if section else SECTIONS:
        cases = {case.name for case in getattr(manifest, name)}
        manifest = manifest.with_labels(name, {case: path for case, path in labels.items() if case in cases})
    manifest.save(output / MANIFEST)


def _tell_one(entry: Mapping[str, Any], output: Path) -> None:
    for line in entry["warnings"]:
        say(f"warning: {line}")
    what = "is there already" if entry["status"] == "skipped" else "is done"
    say(f"{output / entry['labels']} {what}")


def _tell(report: Mapping[str, Any], output: Path) -> None:
    count = {status: sum(c["status"] == status for c in report["cases"]) for status in ("done", "skipped")}
    say(f"{count['done']} fused, {count['skipped']} already there, {len(report['failed'])} failed: {output}")
    for failure in report["failed"]:
        say(f"failed: {failure['error']}")
