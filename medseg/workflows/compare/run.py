"""`medseg compare`: arms become runs, runs become tables and a page that says which arm to take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from medseg.atomic import check_writable, make_folder, write_whole
from medseg.errors import ConfigError, OutputError
from medseg.options import api
from medseg.progress import describe_left, forget_told, say, show_progress
from medseg.records import differing, read_record
from medseg.workflows.compare.arms.check_arms import ReadyArm, ready_arms
from medseg.workflows.compare.arms.data_sets import DataSet, list_keys, save
from medseg.workflows.compare.arms.read_arms import Comparison, read_comparison
from medseg.workflows.compare.folder import Folder, data_name, hold
from medseg.workflows.compare.options import CompareOptions
from medseg.workflows.compare.report.findings import Findings, describe_key
from medseg.workflows.compare.report.measures import measures_of
from medseg.workflows.compare.report.page import PAGE
from medseg.workflows.compare.runs.one_run import OneRun
from medseg.workflows.compare.runs.plans import freeze_plans
from medseg.workflows.compare.runs.processes import share_cores
from medseg.workflows.compare.runs.queue import RunQueue
from medseg.workflows.compare.runs.time_left import TimeLeft
from medseg.workflows.compare.scores.results import Describer, read_results, write_results
from medseg.workflows.compare.scores.rows import RunRow
from medseg.workflows.reports.formatting import describe_command
from medseg.workflows.train.options import budget_seconds
from medseg.workflows.train.run import versions

GIB = 2**30
SHOWN_VERSIONS = ("medseg", "torch", "monai", "numpy", "python")


@dataclass(frozen=True)
class Compared:
    """What came of a comparison.

    Args:
        folder: of the comparison.
        page: its report.
        findings: results and differences of its finished runs.
        failed: the runs of this command that failed.
    """

    folder: Path
    page: Path
    findings: Findings
    failed: tuple[RunRow, ...]


def run_comparison(options: CompareOptions) -> Compared:
    """Train several arms on the same data and say which of them to take.

    Args:
        options: what to compare, how long to train, on what to judge, and how many runs to make at a time.

    Returns:
        Results and differences of the arms; the folder has `report.html`, `table.md`, `cases.csv` and `runs.csv`.

    Raises:
        MedsegError: what is wrong with any of the arms, before anything is trained.
        Stopped: by a signal; the same command goes on.

    Examples:
        >>> import medseg
        >>> short = ["stages.0.schedule.iterations=4", "stages.0.network.width=4"]
        >>> compared = medseg.compare(
        ...     tasks=["supervised", "dtc"], data="my_scans/manifest.json", output="runs/compared", overrides=short
        ... )
        >>> compared.page
        PosixPath('runs/compared/report.html')
    """
    forget_told()
    comparison = read_comparison(options)
    shares = share_cores(options.jobs)
    folder = Folder(options.output or Path("runs") / f"compare-{comparison.name}")
    part, parts = options.part
    arms, device = ready_arms(comparison, options.device)
    check_jobs(options.jobs, device, comparison.budget)
    _claim(folder, comparison, arms, resume=options.resume)
    runs = _list_runs(folder, comparison, arms, device)
    describe = Describer(
        comparison, describe_command("medseg.compare(...)"), len(shares[0]), _versions(), options.keep_paths
    )
    mine = [run for number, run in enumerate(runs) if number % parts == part]
    results = read_results(folder, runs)
    pending = [run for run in mine if not results.finished(run.key)]
    if len(pending) < len(mine):
        say(f"{len(mine) - len(pending)} of {len(mine)} runs are there already")
    _prepare(folder, comparison, pending, shares[0], device)
    budget = None if comparison.budget is None else budget_seconds(comparison.budget)
    failed = _make(folder, runs, pending, shares, describe, budget)
    findings = write_results(folder, runs, describe)
    return Compared(folder.path, folder.path / PAGE, findings, tuple(failed))


compare = api(CompareOptions, run_comparison)


def check_jobs(jobs: int, device: torch.device, budget: str | None) -> None:
    """See that runs of equal minutes do not share a GPU, whose time is not told apart as that of cores is.

    Args:
        jobs: runs side by side.
        device: of every run.
        budget: time of each; None: iterations are equal.

    Raises:
        ConfigError: they would.
    """
    if jobs > 1 and device.type != "cpu" and budget is not None:
        raise ConfigError(
            f"--jobs {jobs}: runs of equal minutes would share {device}; accepted is 1, or --device cpu",
            hint="on several GPUs start a command for each: --shard 1/2 --device cuda:0, --shard 2/2 --device cuda:1",
        )


def _claim(folder: Folder, comparison: Comparison, arms: Sequence[ReadyArm], *, resume: bool) -> None:
    """See that the folder is free or holds this comparison; arms and seeds may be added to it.

    Raises:
        OutputError: the folder cannot be used, or holds nothing to go on with.
        ConfigError: it holds another comparison.
    """
    path = folder.path
    if path.exists() and not path.is_dir():
        raise OutputError("is a file; a comparison needs a folder", path=path)
    if not folder.record.exists():
        if resume:
            raise OutputError("holds no comparison to go on with", path=path, hint="leave out --resume")
        if path.is_dir() and any(each.name != ".lock" for each in path.iterdir()):
            raise OutputError("is not empty and holds no comparison", path=path, hint="choose another --output")
    check_writable(path)
    judged = {}
    for data in arms[0].data_sets:
        judged[f"fold {data.key.fold}"] = data.judged_identity
    now: dict[str, Any] = {
        "budget": comparison.budget,
        "iterations": comparison.iterations,
        "folds": comparison.folds,
        "split_seed": comparison.split_seed,
        "tolerance_mm": comparison.tolerance_mm,
        "judged": judged,
    }
    definitions = {ready.arm.name: ready.definition() for ready in arms}
    with hold(path / ".lock"):
        before = read_record(folder.record)
        if before:
            _refuse_another(before, now, definitions, path)
        known = before.get("arms", {})
        for name, definition in definitions.items():
            known[name] = known.get(name, {}) | definition
        write_whole(folder.record, json.dumps({"comparison": now, "arms": known}, indent=1) + "\n")


def _refuse_another(
    before: Mapping[str, Any], now: Mapping[str, Any], arms: Mapping[str, Mapping[str, str]], path: Path
) -> None:
    """See that what is there was compared in the same way, and that arms of one name are the same."""
    hint = "choose another --output"
    was = before.get("comparison", {})
    for name in differing(was, now):
        shown = "test cases differ" if name == "judged" else f"{name} was {was.get(name)} and is {now[name]}"
        raise ConfigError(f"holds another comparison: {shown}", path=path, hint=hint)
    for name, definition in arms.items():
        known = before["arms"].get(name, {})
        changed = [key for key, value in definition.items() if key in known and known[key] != value]
        if changed:
            what = f"holds another comparison: of its arm {name} {changed[0]} is not what it was"
            raise ConfigError(what, path=path, hint=f"{hint}, or give the arm another name")


def _list_runs(folder: Folder, comparison: Comparison, arms: Sequence[ReadyArm], device: torch.device) -> list[OneRun]:
    by_name = {ready.arm.name: ready for ready in arms}
    data_sets: dict[str, DataSet] = {}
    for ready in arms:
        data_sets |= {data_name(data.key): data for data in ready.data_sets}
    runs = []
    for key in list_keys(comparison):
        data = data_sets[data_name(key)]
        runs.append(OneRun(folder, key, by_name[key.arm], data, str(device), comparison.tolerance_mm))
    return runs


def _prepare(
    folder: Folder, comparison: Comparison, pending: Sequence[OneRun], cores: tuple[int, ...], device: torch.device
) -> None:
    """Write the data sets and the plans of the runs that are to be made."""
    wanted: dict[str, tuple[ReadyArm, DataSet]] = {}
    with hold(folder.path / ".lock"):
        for run in pending:
            name = data_name(run.key)
            if name not in wanted:
                save(run.data.learnt, folder.manifest(run.key))
                save(run.data.judged, folder.judged(run.key))
                wanted[name] = run.ready, run.data
    freeze_plans(folder, list(wanted.values()), comparison.budget, cores, device)


def _make(
    folder: Folder,
    runs: Sequence[OneRun],
    pending: Sequence[OneRun],
    shares: Sequence[tuple[int, ...]],
    describe: Describer,
    first_guess: float | None,
) -> list[RunRow]:
    """Make the runs; after each, the tables and the page tell what there is until now.

    Args:
        folder: of the comparison.
        runs: all of them.
        pending: those that are to be made.
        shares: of the cores, one for each run that is made at a time.
        describe: of the page.
        first_guess: seconds of a run before any has ended, if they are known.

    Returns:
        The rows of the runs that failed.
    """
    make_folder(folder.path)
    failed: list[RunRow] = []
    done: list[RunRow] = []
    outlook = TimeLeft([run.key for run in pending], len(shares), first_guess)
    kept = "what is finished is kept, and trainings are saved"
    with show_progress("comparing", unit="runs", kept=kept, left=outlook.seconds) as progress:

        def ended(row: RunRow) -> None:
            done.append(row)
            if row.message:
                failed.append(row)
            findings = write_results(folder, runs, describe)
            line = f"{len(done)} of {len(pending)} runs: {_describe(row, findings, runs)}"
            left = outlook.seconds() if len(done) < len(pending) else None
            say(line if left is None else f"{line}; {describe_left(left)}")

        queue = RunQueue(pending, shares, ended, lambda: progress(len(done), len(pending)), outlook)
        queue.run()
    if queue.elsewhere:
        names = "; ".join(describe_key(run.key) for run in queue.elsewhere)
        say(f"another command is making {len(queue.elsewhere)} runs: {names}")
    if queue.made_elsewhere:
        names = "; ".join(describe_key(run.key) for run in queue.made_elsewhere)
        say(f"another command has made {len(queue.made_elsewhere)} runs meanwhile: {names}")
    return failed


def _describe(row: RunRow, findings: Findings, runs: Sequence[OneRun]) -> str:
    """A run that ended, in one line."""
    if row.message:
        log = next(run.log for run in runs if run.key == row.key)
        return f"{describe_key(row.key)}: failed, {row.message} ({log})"
    parts = [f"{describe_key(row.key)}: done"]
    score = read_score(row, runs)
    if score is not None:
        parts.append(f"{findings.measures.mean_name.removeprefix('mean ')} {score:.3f}")
    parts.append(f"{(row.cpu_seconds or 0.0) / 60:.1f} CPU minutes")
    if row.peak_bytes:
        parts.append(f"{row.peak_bytes / GIB:.1f} GiB")
    return ", ".join(parts)


def read_score(row: RunRow, runs: Sequence[OneRun]) -> float | None:
    """Mean Dice of a run over structures and cases, of those that have the structure; or its balanced accuracy."""
    run = next(run for run in runs if run.key == row.key)
    values: dict[str, list[float]] = {}
    for case in read_results(run.folder, [run]).cases.get(row.key, []):
        score = case.metrics.get(measures_of(case.metrics).tested)
        if score is not None and (case.predicted or case.reference):
            values.setdefault(case.structure, []).append(score)
    return mean(mean(found) for found in values.values()) if values else None


def _versions() -> dict[str, str]:
    return {name: version for name, version in versions().items() if name in SHOWN_VERSIONS}
