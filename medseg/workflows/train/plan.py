"""`medseg plan`: everything that a pipeline leaves open is decided from the data set and the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from medseg import methods
from medseg.atomic import check_writable, make_folder
from medseg.config.pipeline import DataSpec, NetworkSpec, Pipeline, Stage
from medseg.engine import distributed
from medseg.errors import ConfigError, OutputError
from medseg.manifest.labelling import is_pseudo
from medseg.manifest.manifest import Manifest
from medseg.networks.pretrained import hash_file
from medseg.options import api
from medseg.planning.augmentation import Questions
from medseg.planning.plan import GPU_PATCH_VOXELS, PATCH_VOXELS, plan_batch, plan_data, with_strides
from medseg.progress import forget_told, say_once
from medseg.workflows.train import settings
from medseg.workflows.train.budget.fit import fit_budget
from medseg.workflows.train.budget.sizing import Sizing
from medseg.workflows.train.checks.files import check_measured
from medseg.workflows.train.checks.orientation import asking_upright, check_upright
from medseg.workflows.train.checks.regions import check_regions
from medseg.workflows.train.checks.stages import Product, check_buildable
from medseg.workflows.train.checks.streams import check_all_streams, learns_from_tags, presences
from medseg.workflows.train.data_set import taken_by
from medseg.workflows.train.encoder import Start, open_start
from medseg.workflows.train.options import PlanOptions, budget_seconds
from medseg.workflows.train.plan_in_words import describe_plan, print_plan
from medseg.workflows.train.planned_network import describe_known, follow_previous, plan_options


def run_plan(options: PlanOptions) -> Pipeline:
    """Plan as `train` would and write the resolved pipeline to a YAML, without training.

    A run that starts from another is planned with the same `init_from` that it is trained with.

    Raises:
        MedsegError: nothing can be planned, or `output` is something else than an earlier plan for this manifest.
    """
    forget_told()
    own = methods.locate_methods(options.method)
    pipeline = settings.load(options.task, options.overrides, own)
    manifest = taken_by(pipeline, Manifest.load(options.data))
    output = options.output
    if output.is_dir():
        raise OutputError("is a folder; a plan is a file", path=output, hint="give a name that ends in .yaml")
    settings.refuse_another_plan(output, manifest.path)
    check_writable(output.parent)
    with methods.use_methods(own):
        device = distributed.setup(options.device)
        start = open_start(options.init_from) if options.init_from else None
        if pipeline.measure_pseudo_labels:
            check_measured(pipeline, manifest)  # as the training will, which opens all other files too
        sizing = Sizing()
        resolved = plan_pipeline(pipeline, manifest, device, options.budget, start, sizing=sizing)
        make_folder(output.parent)
        settings.dump(resolved, output, manifest=manifest.path)
        rows = describe_plan(resolved, manifest, sizing.rows | describe_known(resolved, manifest, start))
        print_plan(resolved, manifest, rows)
    return resolved


write_plan = api(PlanOptions, run_plan)


def plan_pipeline(
    pipeline: Pipeline,
    manifest: Manifest,
    device: torch.device,
    budget: str | None,
    start: Start | None = None,
    *,
    sizing: Sizing | None = None,
    product: Product = "bundle",
) -> Pipeline:
    """Decide what the pipeline leaves open: data, batch, and with a budget sizes and iterations.

    Args:
        pipeline: as it was read.
        manifest: the data set.
        device: where it will be trained.
        budget: time that training may take, such as "25m".
        start: model whose weights the first stage starts from.
        sizing: the run that is sized, and what is to be said of it; by default a plan that is trained later.
        product: what the run leaves: a bundle, or an encoder without a segmenter.

    Raises:
        ConfigError: stages, methods or networks that cannot be trained.
        ManifestError: no case of a kind that a method learns from.
    """
    check_regions(pipeline, manifest)
    seconds = None if budget is None else budget_seconds(budget)
    groups = check_all_streams(pipeline, manifest)
    pipeline = _with_planned_networks(follow_previous(pipeline, start), start)
    first = pipeline.stages[0]
    data = plan_data(
        manifest,
        network=first.network,
        memory_bytes=memory_bytes(device),
        overrides=dict(pipeline.data),
        views=first.views,
        patch_voxels=GPU_PATCH_VOXELS if device.type == "cuda" else PATCH_VOXELS,
        questions=_questions_of(pipeline),
        volumes=_network_of_volumes(pipeline),
    )
    _check_grid_of_volumes(pipeline, data)
    _check_halves(pipeline, manifest, data)
    counts = []
    for of_stage in groups:
        counts.append({stream: len(cases) for stream, cases in of_stage.items()})
    stages = []
    for index, stage in enumerate(pipeline.stages):
        stages.append(_plan_stage(index, stage, data, counts[index]))
    planned = pipeline.model_copy(
        update={
            "stages": tuple(stages),
            "data": data.model_dump(mode="json"),
            "postprocessing": _plan_postprocessing(pipeline, data, product),
        }
    )
    check_upright(planned, data)
    tags = [presences(manifest, of_stage) for of_stage in groups]
    validated = sum(case.is_labelled for case in manifest.validation)
    check_buildable(planned, start, tags, product, cases=counts, validated=validated, data_set=manifest.path)
    _tell_cautions_of_rules(planned, data)
    if seconds is None:
        return planned
    sizing = sizing or Sizing()
    return fit_budget(planned, manifest, device, seconds=seconds, given=pipeline, sizing=sizing, start=start)


def _questions_of(pipeline: Pipeline) -> Questions:
    are_classified = pipeline.data.get("target") == "images"
    return Questions(
        which_way_up=bool(asking_upright(pipeline)),
        what_is_shown=are_classified or learns_from_tags(pipeline),
    )


def _network_of_volumes(pipeline: Pipeline) -> NetworkSpec | None:
    """The network of the first later stage that learns volumes; None: there is none."""
    for stage in pipeline.stages[1:]:
        if "volume" in stage.views:
            return stage.network
    return None


def _check_grid_of_volumes(pipeline: Pipeline, data: DataSpec) -> None:
    """Refuse a later stage of volumes after slices of one plane, whose patch is one voxel thick.

    Raises:
        ConfigError: the first stage learns slices of one plane, whether a pipeline, a setting or the plan said so.
    """
    if len(pipeline.stages[0].views) > 1 or data.view == "volume":
        return
    for index, stage in enumerate(pipeline.stages[1:], 1):
        if "volume" in stage.views:
            raise ConfigError(
                f"stages.{index} learns volumes, and stages.0 slices of the {data.view} plane alone; accepted are "
                "several planes, which share a grid, or volumes",
                hint="say --set stages.0.views=[volume]",
            )


def _check_halves(pipeline: Pipeline, manifest: Manifest, data: DataSpec) -> None:
    """Refuse batches that are to be half pseudo-labelled where nothing is.

    Raises:
        ConfigError: no stage labels cases for training, and no case has a label that an earlier one made.
    """
    makes_labels = any(stage.rounds or stage.then for stage in pipeline.stages)
    if data.sampling != "half" or makes_labels or any(map(is_pseudo, manifest.training)):
        return
    raise ConfigError(
        "data.sampling is half, of which one half are pseudo-labelled cases, and no stage makes pseudo-labels: "
        "accepted are cases, union and classes"
    )


def _tell_cautions_of_rules(pipeline: Pipeline, data: DataSpec) -> None:
    """Say what the rules have to say of their settings, once."""
    for index, stage in enumerate(pipeline.stages):
        part = stage.rounds or stage.then
        if part is None:
            continue
        rule = methods.build_rule(part.rule.name, data.classes, **part.rule.options)
        for caution in rule.cautions(max(1, len(stage.views))):
            if distributed.rank() == 0:
                say_once(f"warning: stages.{index}: rule {part.rule.name}: {caution}")


def _plan_postprocessing(pipeline: Pipeline, data: DataSpec, product: Product) -> Literal["auto", "none"]:
    """Whether to choose which components stay: of an encoder there are none, and what is removed is background.

    Of regions all stay: what is removed of one may be another one's.
    """
    if product != "bundle" or not data.has_background or data.regions:
        return "none"
    return pipeline.postprocessing or "auto"


def _with_planned_networks(pipeline: Pipeline, start: Start | None) -> Pipeline:
    stages = []
    for stage in pipeline.stages:
        network = plan_options(stage.network, start)
        stages.append(stage.model_copy(update={"network": network}))
    return pipeline.model_copy(update={"stages": tuple(stages)})


def memory_bytes(device: torch.device) -> float:
    """What training may use: most of a GPU, half of the machine's memory (the same plan on a busy day)."""
    if device.type == "cuda":
        return 0.8 * torch.cuda.get_device_properties(device).total_memory
    return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _plan_stage(index: int, stage: Stage, data: DataSpec, case_counts: Mapping[str, int]) -> Stage:
    """The stage with batch sizes, strides for thick slices, and the SHA-256 of the weights that it starts from."""
    stage = _plan_stage_batch(index, stage, data, case_counts)
    if not stage.views and "strides" not in stage.network.options:
        stage = stage.model_copy(update={"network": with_strides(stage.network, data)})
    weights = stage.network.weights
    if weights is None or weights.sha256 is not None:
        return stage
    found = hash_file(Path(weights.file).expanduser())
    network = stage.network.model_copy(update={"weights": weights.model_copy(update={"sha256": found})})
    return stage.model_copy(update={"network": network})


def _plan_stage_batch(index: int, stage: Stage, data: DataSpec, case_counts: Mapping[str, int]) -> Stage:
    """The stage with a batch size for each stream that the data set has."""
    streams = methods.find_streams(stage.method.name, stage.method.options)
    dims = max(each.spatial_dims for each in stage.specs(data))
    multiples = {stream.name: stream.batch_multiple for stream in streams}
    batch = stage.schedule.batch or plan_batch(multiples, case_counts, dims)
    unknown = sorted(set(batch) - set(multiples))
    if unknown:
        raise ConfigError(f"method {stage.method.name} has no stream {unknown[0]!r}; it has {', '.join(multiples)}")
    batch = {stream: size for stream, size in batch.items() if case_counts.get(stream)}
    for asked in streams:
        if batch.get(asked.name, asked.least) < asked.least:
            raise ConfigError(
                f"stages.{index}.schedule.batch.{asked.name} is {batch[asked.name]}; {stage.method.name} tells the "
                f"images of a batch apart; accepted are {asked.least} and more"
            )
    for stream, size in batch.items():
        if size % multiples[stream]:
            raise ConfigError(
                f"stages.{index}.schedule.batch.{stream} is {size}; {stage.method.name} makes groups of "
                f"{multiples[stream]} images that share a tag; accepted are the multiples of {multiples[stream]}"
            )
    labelled = batch.get("labeled", 0)
    if dims == 3 and labelled > case_counts["labeled"]:
        raise ConfigError(
            f"the batch asks for {labelled} labelled volumes, the manifest has {case_counts['labeled']}",
            hint=f"--set stages.{index}.schedule.batch.labeled={case_counts['labeled']}",
        )
    schedule = stage.schedule.model_copy(update={"batch": batch})
    return stage.model_copy(update={"schedule": schedule})
