"""`train`: a pipeline and a manifest become a bundle."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from medseg import methods
from medseg.atomic import check_writable, make_folder, write_whole
from medseg.bundle.bundle import OpenBundle, open_bundle
from medseg.config import DataSpec, Pipeline, Stage
from medseg.engine import distributed
from medseg.errors import ConfigError, ManifestError, OutputError
from medseg.manifest.manifest import Manifest, streams_of
from medseg.options import api
from medseg.planning import plan
from medseg.stopping import told_when_stopped
from medseg.workflows.train import budget as budgets
from medseg.workflows.train import plan_table, settings
from medseg.workflows.train.build import try_stages
from medseg.workflows.train.check_before import check_files, check_space, doubts
from medseg.workflows.train.durations import budget_seconds
from medseg.workflows.train.options import PlanOptions, TrainOptions
from medseg.workflows.train.run_folder import RECORD, claim
from medseg.workflows.train.self_training.check_data import warn
from medseg.workflows.train.self_training.run import Product, RoundsRun
from medseg.workflows.train.self_training.time_left import check_stage
from medseg.workflows.train.stage import StageRun
from medseg.workflows.train.stage_methods import with_hashes

PACKAGES = ("medseg", "torch", "monai", "numpy", "nibabel", "pytorch-ignite", "edt", "SimpleITK")


def run_training(options: TrainOptions) -> Path:
    """Train a pipeline on a data set.

    Args:
        options: `task` is a name of a shipped pipeline, a YAML, or the folder of an earlier run to repeat; `output`
            must not hold a run already, unless `resume`; `method` names classes of your own, whose files are executed.

    Returns:
        The run folder; its `bundle` is the product.

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
    own = methods.named(options.method)
    pipeline, manifest = settings.load(options.task, options.overrides, own), Manifest.load(options.data)
    with methods.using(own):
        return _train(pipeline, manifest, options)


train = api(TrainOptions, run_training)


def _train(pipeline: Pipeline, manifest: Manifest, options: TrainOptions) -> Path:
    output, budget, resume = options.folder, options.budget, options.resume
    chosen = distributed.setup(options.device)
    given = open_bundle(options.start) if options.start else None
    fingerprint = _fingerprint(pipeline, manifest, budget, given.digest if given else None)
    if resume:
        settings.check_begun(output)
    claim(output, resume=resume, fingerprint=fingerprint)
    try:
        with told_when_stopped("before training began"):
            resolved = _resolve(with_hashes(pipeline), manifest, output, Asked(chosen, budget, fingerprint, given))
        product = Product(given.path, {"start": given.path}) if given else None
        for index, stage in enumerate(resolved.stages):
            folder = output if len(resolved.stages) == 1 else output / f"stage{index}"
            last = index == len(resolved.stages) - 1
            place = Place((output if last else folder) / "bundle", folder, output / "cache", chosen, fingerprint)
            before = product if stage.init == "previous" or index == 0 else None
            with told_when_stopped(f"in stage {index}" if len(resolved.stages) > 1 else ""):
                product = _train_stage(resolved, index, manifest, place, before, resume=resume)
        distributed.barrier()
        if distributed.rank() == 0:
            shutil.rmtree(output / "cache", ignore_errors=True)  # as large as the data, and quickly made again
    finally:
        distributed.finish()
    return output


@dataclass(frozen=True)
class Asked:
    """What a plan is made for.

    Args:
        device: where it will be trained.
        budget: time that it may take.
        fingerprint: of the run.
        start: model whose weights the first stage starts from.
    """

    device: torch.device
    budget: str | None
    fingerprint: str
    start: OpenBundle | None


@dataclass(frozen=True)
class Place:
    """Where a stage is trained.

    Args:
        bundle: its product.
        folder: of its checkpoints and logs.
        cache: folder of preprocessed volumes.
        device: of the networks.
        fingerprint: of the run.
    """

    bundle: Path
    folder: Path
    cache: Path
    device: torch.device
    fingerprint: str


def _train_stage(
    pipeline: Pipeline, index: int, manifest: Manifest, place: Place, previous: Product | None, *, resume: bool
) -> Product:
    """One network, or those of several views and rounds."""
    stage = pipeline.stages[index]
    if stage.rounds or len(stage.views) > 1:
        rounds = RoundsRun(pipeline, index, manifest, place.folder, place.device, cache=place.cache, previous=previous)
        return rounds.train(place.bundle)
    view = next(iter(stage.views), None)
    run = StageRun(
        pipeline, index, manifest, place.folder, place.device,
        fingerprint=place.fingerprint, cache=place.cache, view=view,
    )  # fmt: skip
    run.train(place.bundle, previous=previous.network(view) if previous else None, resume=resume)
    return Product(place.bundle, {view or run.spec.view: place.bundle})


def run_plan(options: PlanOptions) -> Pipeline:
    """Plan as `train` would and write the resolved pipeline to a YAML, without training.

    Raises:
        MedsegError: nothing can be planned, or `output` is something else than an earlier plan for this manifest.
    """
    own = methods.named(options.method)
    pipeline, manifest = settings.load(options.task, options.overrides, own), Manifest.load(options.data)
    output = options.output
    if output.is_dir():
        raise OutputError("is a folder; a plan is a file", path=output, hint="give a name that ends in .yaml")
    settings.refuse_another_plan(output, manifest.path)
    check_writable(output.parent)
    with methods.using(own):
        resolved = plan_pipeline(pipeline, manifest, distributed.setup(options.device), options.budget)
    make_folder(output.parent)
    settings.dump(resolved, output, manifest=manifest.path)
    plan_table.show(resolved, manifest)
    return resolved


write_plan = api(PlanOptions, run_plan)


def plan_pipeline(
    pipeline: Pipeline, manifest: Manifest, device: torch.device, budget: str | None, start: OpenBundle | None = None
) -> Pipeline:
    """Fill in all that the pipeline leaves to be planned: data, batch, and with a budget sizes and iterations."""
    seconds = None if budget is None else budget_seconds(budget)
    sizes = {stream: len(cases) for stream, cases in streams_of(manifest).items()}
    if not sizes["labeled"]:
        raise ManifestError(
            "no labelled case under 'training'",
            path=manifest.path,
            hint="training needs at least one 'label'",
        )
    for stage in pipeline.stages:
        check_stage(stage)
    first = pipeline.stages[0]
    spec = plan.plan(
        manifest,
        network=first.network,
        memory_bytes=memory_bytes(device),
        overrides=dict(pipeline.data),
        views=first.views,
    )
    stages = tuple(_with_batch(stage, spec, sizes) for stage in pipeline.stages)
    planned = pipeline.model_copy(update={"stages": stages, "data": spec.model_dump(mode="json")})
    try_stages(planned, start)
    if seconds is None:
        return planned
    return budgets.fit(planned, manifest, device, seconds=seconds, fixed=set(pipeline.data))


def memory_bytes(device: torch.device) -> float:
    """What training may use: most of a GPU, half of the machine's memory (the same plan on a busy day)."""
    if device.type == "cuda":
        return 0.8 * torch.cuda.get_device_properties(device).total_memory
    return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _with_batch(stage: Stage, spec: DataSpec, sizes: dict[str, int]) -> Stage:
    method = methods.find(stage.method.name)
    dims = max(each.spatial_dims for each in stage.specs(spec))
    batch = stage.schedule.batch or plan.plan_batch(method.streams, sizes, dims)
    unknown = sorted(set(batch) - set(method.streams))
    if unknown:
        raise ConfigError(f"method {stage.method.name} has no stream {unknown[0]!r}; it has {list(method.streams)}")
    batch = {stream: rows for stream, rows in batch.items() if sizes.get(stream)}
    rows = batch.get("labeled", 0)
    if dims == 3 and rows > sizes["labeled"]:
        raise ConfigError(
            f"the batch asks for {rows} labelled volumes, the manifest has {sizes['labeled']}",
            hint=f"--set stages.0.schedule.batch.labeled={sizes['labeled']}",
        )
    return stage.model_copy(update={"schedule": stage.schedule.model_copy(update={"batch": batch})})


def _resolve(pipeline: Pipeline, manifest: Manifest, output: Path, asked: Asked) -> Pipeline:
    """The pipeline with its plan, made once by rank 0 and then read by all and by every resumption."""
    path = output / "pipeline.yaml"
    if distributed.rank() == 0 and not path.exists():
        check_writable(output)
        findings = check_files(pipeline, manifest)
        resolved = plan_pipeline(pipeline, manifest, asked.device, asked.budget, asked.start)
        check_space(resolved, findings, make_folder(output))
        write_whole(output / RECORD, json.dumps({"fingerprint": asked.fingerprint}) + "\n")
        manifest.save(output / "manifest.json")
        write_whole(output / "versions.json", json.dumps(versions(), indent=1) + "\n")
        settings.dump(resolved, path)
        plan_table.show(resolved, manifest)
        for line in doubts(resolved, manifest):
            warn(line)
    distributed.barrier()
    return settings.load(str(path))


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _fingerprint(pipeline: Pipeline, manifest: Manifest, budget: str | None, start: str | None) -> str:
    """Of what was asked for; a run is only resumed by the same command."""
    asked: dict[str, Any] = {
        "pipeline": pipeline.model_dump(mode="json"),
        "manifest": manifest.model_dump(mode="json"),
        "budget": budget,
        **({"start": start} if start else {}),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
