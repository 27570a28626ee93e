"""Frozen plans of a comparison: each arm is sized once, alone, before any is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medseg import methods
from medseg.atomic import make_folder
from medseg.config.pipeline import DataSpec, Pipeline
from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest, streams_of
from medseg.progress import say
from medseg.records import Record, read_record
from medseg.workflows.compare.arms.check_arms import ReadyArm
from medseg.workflows.compare.arms.data_sets import DataSet
from medseg.workflows.compare.folder import Folder, data_name, hold
from medseg.workflows.compare.runs.processes import POLL_SECONDS, Child, end_all
from medseg.workflows.train import settings
from medseg.workflows.train.plan import plan_pipeline
from medseg.workflows.train.stages.build import count_trainings, describe_students
from medseg.workflows.train.stages.methods import add_hashes


def freeze_plans(
    folder: Folder,
    wanted: Sequence[tuple[ReadyArm, DataSet]],
    budget: str | None,
    cores: tuple[int, ...],
    device: torch.device,
) -> None:
    """Make the plans that are not there yet, one after the other; commands that share the folder wait for each other.

    Args:
        folder: of the comparison.
        wanted: whose plans are needed.
        budget: time of a training, such as "15m"; None: the pipelines' own length.
        cores: those that one run will have.
        device: where it will be trained.

    Raises:
        ConfigError: an arm cannot be sized.
    """
    with hold(folder.path / "plans" / ".lock"):
        for ready, data in wanted:
            record = _record(folder, ready, data, budget)
            if record.notes() is not None:
                continue
            record.begin()
            warnings: list[str] = []
            if budget is None:
                _plan_here(folder, ready, data, device)
            else:
                say(f"sizing {data_name(data.key)} for {budget}")
                warnings = _plan_by_timing(folder, ready, data, budget, cores, str(device))
            record.finish({"warnings": warnings})
            for line in warnings:
                say(f"warning: {data_name(data.key)}: {line}")
            say(f"{data_name(data.key)}: {describe_plan(read_plan(folder.plan(data.key)))}")


def _own(ready: ReadyArm) -> tuple[methods.OwnMethod, ...]:
    return methods.locate_methods(ready.arm.method)


def _record(folder: Folder, ready: ReadyArm, data: DataSet, budget: str | None) -> Record:
    plan = folder.plan(data.key)
    asked = {"pipeline": ready.pipeline.model_dump(mode="json"), "budget": budget}
    inputs = {"manifest": data.learnt_identity}
    return Record(_record_file(plan), inputs=inputs, settings=asked, products=[plan], version=None)


def _plan_here(folder: Folder, ready: ReadyArm, data: DataSet, device: torch.device) -> None:
    with methods.use_methods(_own(ready)):
        planned = plan_pipeline(add_hashes(ready.pipeline), data.learnt, device, None, ready.start)
    make_folder(folder.plan(data.key).parent)
    settings.dump(planned, folder.plan(data.key))


def _plan_by_timing(
    folder: Folder, ready: ReadyArm, data: DataSet, budget: str, cores: tuple[int, ...], device: str
) -> list[str]:
    """Size an arm in a process on the cores that its runs will have; gives what it warns of, such as a busy machine."""
    plan = folder.plan(data.key)
    open_pipeline = plan.with_suffix(".asked.yaml")
    make_folder(plan.parent)
    settings.dump(ready.pipeline, open_pipeline)
    arguments = ["-m", "medseg", "plan", "--task", str(open_pipeline), "--data", str(folder.manifest(data.key))]
    arguments += ["--budget", budget, "--device", device, "--output", str(plan)]
    for own in ready.arm.method:
        arguments += ["--method", own]
    if ready.arm.init_from is not None:
        arguments += ["--init-from", str(ready.arm.init_from)]
    log = plan.with_suffix(".log")
    child = Child(arguments, cores, log)
    try:
        while (code := child.poll()) is None:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        end_all([child])
        raise
    if code:
        raise ConfigError(f"arm {ready.arm.name} cannot be sized: {child.describe_failure(code)}", path=log)
    return child.warnings()


def warnings_of(plan: Path) -> list[str]:
    """What was warned of when a plan was made: a sentence each."""
    found = read_record(_record_file(plan)).get("notes")
    return found.get("warnings", []) if isinstance(found, dict) else []


def _record_file(plan: Path) -> Path:
    return plan.with_suffix(".json")


def count_steps(pipeline: Pipeline, manifest: Manifest) -> int:
    """Steps of a training over all its stages, networks and rounds.

    Args:
        pipeline: planned.
        manifest: what it learns from.
    """
    unlabeled = len(streams_of(manifest)["unlabeled"])
    return round(sum(stage.schedule.iterations * count_trainings(stage, unlabeled) for stage in pipeline.stages))


def describe_plan(pipeline: Pipeline) -> str:
    """A plan in one line: spacing, patch, networks, batches and iterations."""
    data = DataSpec(**pipeline.data)
    spacing = "x".join(f"{mm:g}" for mm in data.spacing_mm)
    patch = "x".join(map(str, data.patch))
    if data.volume_patch is not None:
        patch += f", of volumes {'x'.join(map(str, data.volume_patch))}"
    parts = [f"{spacing} mm, patch {patch}"]
    for stage in pipeline.stages:
        batch: dict[str, Any] = stage.schedule.batch or {}
        sizes = " + ".join(f"{size} {stream}" for stream, size in batch.items())
        network = f"{stage.network.name} of width {stage.network.width}"
        parts.append(f"{network}, batch {sizes}, {stage.schedule.iterations} iterations{describe_students(stage)}")
    return "; ".join(parts)


def read_plan(path: Path) -> Pipeline:
    """A frozen plan, only to be read: its methods need not be here.

    Raises:
        ConfigError: it is none.
    """
    content, source = settings.read_task(str(path))
    return settings.check(content, source)
