"""`medseg train`: a pipeline and a manifest become a bundle."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from medseg import methods
from medseg.atomic import check_writable, make_folder, write_whole
from medseg.config.pipeline import Pipeline
from medseg.engine import distributed
from medseg.engine.tracking import tracked
from medseg.manifest.manifest import Manifest
from medseg.options import api
from medseg.progress import forget_told, say
from medseg.records import Record
from medseg.stopping import report_stop
from medseg.workflows.reports.formatting import describe_command
from medseg.workflows.train import settings
from medseg.workflows.train.budget.sizing import Sizing
from medseg.workflows.train.checks.files import channel_warnings, check_files, check_space, find_warnings
from medseg.workflows.train.data_set import taken_by
from medseg.workflows.train.encoder import Start, open_start
from medseg.workflows.train.facts.keep import keep_facts
from medseg.workflows.train.folds import TrainingRun, list_runs
from medseg.workflows.train.options import PretrainOptions, TrainOptions
from medseg.workflows.train.plan import plan_pipeline
from medseg.workflows.train.plan_in_words import describe_plan, print_plan
from medseg.workflows.train.planned_network import describe_known
from medseg.workflows.train.postprocessing.run import Measured, apply_choice, measure
from medseg.workflows.train.run_folder import PLAN, RUN, claim
from medseg.workflows.train.stages.build import StageResult
from medseg.workflows.train.stages.methods import add_hashes
from medseg.workflows.train.stages.run_stages import StagesInOrder

PACKAGES = ("medseg", "torch", "monai", "numpy", "nibabel", "pytorch-ignite", "edt", "SimpleITK")


def run_training(options: TrainOptions, *, began: float | None = None) -> Path:
    """Train a pipeline on a data set.

    Args:
        options: `task` is a name of a shipped pipeline, a YAML, or the folder of an earlier run to repeat; `output`
            must not hold a run already, unless `resume`; `method` names classes of your own, whose files are executed.
        began: moment of `time.monotonic` from which a budget counts; by default now. Each fold has one of its own.

    Returns:
        The run folder; its `bundle` is the product. With `fold="all"` the folder of the runs `fold0`, `fold1`, ...

    Raises:
        MedsegError: anything about task, manifest, data or folder that the user can mend.
        Stopped: by a signal; the folder can be resumed.

    Examples:
        A short training; without `overrides` it takes as long as the paper's, or what `budget="25m"` says.

        >>> import medseg
        >>> short = ["stages.0.schedule.iterations=4", "stages.0.network.width=4"]
        >>> run = medseg.train("dtc", "my_scans/manifest.json", "runs/first", overrides=short)
        >>> run / "bundle"
        PosixPath('runs/first/bundle')
    """
    began = time.monotonic() if began is None else began
    forget_told()
    own = methods.locate_methods(options.method)
    pipeline = settings.load(options.task, options.overrides, own)
    runs = list_runs(options, taken_by(pipeline, Manifest.load(options.data)))
    measured: list[Measured] = []
    plans: list[Pipeline] = []
    with methods.use_methods(own):
        device = distributed.setup(options.device)
        try:
            for run in runs:
                if run.split is not None and distributed.rank() == 0:
                    say(f"fold {run.split['fold']}: {len(run.manifest.validation)} cases held out")
                with report_stop(run.place):
                    resolved = train_one(pipeline, run, options, device, began)
                    keep_facts(run.folder, resolved, run.manifest)
                    found = measure(run.folder, run.manifest, device) if resolved.postprocessing == "auto" else None
                if found is not None:
                    measured.append(found)
                plans.append(resolved)
                began = time.monotonic()
            if distributed.rank() == 0:
                if measured:
                    apply_choice(measured, options.folder, runs[0].manifest)
                _write_reports(runs, plans)
            distributed.barrier()
        finally:
            distributed.finish()
    return options.folder


train = api(TrainOptions, run_training)


def _write_reports(runs: Sequence[TrainingRun], plans: Sequence[Pipeline]) -> None:
    """The page of each run."""
    from medseg.workflows.train.report.page import write_training_report  # matplotlib takes seconds to import

    command = describe_command("medseg.train(...)")
    for run, plan in zip(runs, plans, strict=True):
        page = write_training_report(run.folder, plan, run.manifest, command)
        say(f"report: {page}")


def train_one(
    pipeline: Pipeline, run: TrainingRun, options: TrainOptions | PretrainOptions, device: torch.device, began: float
) -> Pipeline:
    """One training, until its folder has what the run leaves.

    Args:
        pipeline: as it was asked for.
        run: its folder and data.
        options: of the command.
        device: of the networks.
        began: moment of `time.monotonic` from which a budget counts.

    Returns:
        The pipeline with its plan.
    """
    output, manifest = run.folder, run.manifest
    start = open_start(options.init_from) if options.init_from else None
    record = _record(run, pipeline, options.budget, start.digest if start else None)
    if options.resume:
        settings.check_resumable(output)
    claim(output, record, resume=options.resume)
    with report_stop("before training began"):
        resolved = _resolve(add_hashes(pipeline), run, options, device, record, start, began)
    first = StageResult(start.path, {"start": start.path}) if start else None
    with tracked(options.track, output, resolved.model_dump(mode="json", exclude_none=True)) as tracker:
        stages = StagesInOrder(resolved, manifest, output, device, record.key, product=run.product, tracker=tracker)
        stages.train(first, resume=options.resume)
    distributed.barrier()
    if distributed.rank() == 0:
        shutil.rmtree(output / "cache", ignore_errors=True)  # as large as the data, and quickly made again
    return resolved


def _resolve(
    pipeline: Pipeline,
    run: TrainingRun,
    options: TrainOptions | PretrainOptions,
    device: torch.device,
    record: Record,
    start: Start | None,
    began: float,
) -> Pipeline:
    """The pipeline with its plan, made once by rank 0 and then read by all and by every resumption."""
    output, manifest = run.folder, run.manifest
    path = output / "pipeline.yaml"
    if distributed.rank() == 0 and not path.exists():
        check_writable(output)
        findings = check_files(pipeline, manifest)

        def begin(planned: Pipeline) -> None:
            check_space(planned, findings, make_folder(output))
            record.begin()

        sizing = Sizing(output, began, begin, leaves_bundle=run.product == "bundle")
        resolved = plan_pipeline(pipeline, manifest, device, options.budget, start, sizing=sizing, product=run.product)
        if options.budget is None:
            begin(resolved)
        manifest.save(output / "manifest.json")
        write_whole(output / "versions.json", json.dumps(versions(), indent=1) + "\n")
        settings.dump(resolved, path)
        rows = describe_plan(resolved, manifest, sizing.rows | describe_known(resolved, manifest, start))
        write_whole(output / PLAN, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        print_plan(resolved, manifest, rows)
        warnings = channel_warnings(findings)
        if run.product == "bundle":
            warnings += find_warnings(resolved, manifest)
        for line in warnings:
            say(f"warning: {line}")
    distributed.barrier()
    return settings.load(str(path))


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    installed = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def _record(run: TrainingRun, pipeline: Pipeline, budget: str | None, start: str | None) -> Record:
    """Of what was asked for; a run is only resumed by the same command, of this version or a later one."""
    inputs: dict[str, Any] = {"manifest": run.manifest.model_dump(mode="json")}
    if start:
        inputs["start"] = start
    asked: dict[str, Any] = {"pipeline": pipeline.model_dump(mode="json"), "budget": budget}
    if run.split is not None:
        asked["split"] = run.split
    return Record(run.folder / RUN, inputs=inputs, settings=asked, version=None)
