"""`medseg pretrain`: all training images of a manifest, labelled or not, become an encoder for other trainings."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from medseg import methods
from medseg.config.pipeline import DataSpec, Pipeline
from medseg.engine import distributed
from medseg.errors import ConfigError, ManifestError
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.ops.pretext.encoders import encoder_tensors
from medseg.options import api
from medseg.portable.networks.encoder_decoder import EncoderDecoder
from medseg.progress import forget_told, say
from medseg.stopping import report_stop
from medseg.workflows.reports.formatting import describe_command
from medseg.workflows.train import settings
from medseg.workflows.train.checks.orientation import is_unplaced
from medseg.workflows.train.data_set import taken_by
from medseg.workflows.train.encoder import ENCODER, describe_encoder
from medseg.workflows.train.folds import TrainingRun
from medseg.workflows.train.options import PretrainOptions
from medseg.workflows.train.run import train_one
from medseg.workflows.train.stages.build import build_method


def run_pretraining(options: PretrainOptions, *, began: float | None = None) -> Path:
    """Train an encoder without labels.

    Args:
        options: `task` is a name of a shipped pre-training or a YAML of one stage whose method makes no segmenter.
        began: moment of `time.monotonic` from which a budget counts; by default now.

    Returns:
        The folder of the encoder, for `init_from` of `medseg.train`.

    Raises:
        MedsegError: anything about task, manifest, data or folder that the user can mend.
        Stopped: by a signal; the folder can be resumed.

    Examples:
        >>> import medseg
        >>> short = ["stages.0.schedule.iterations=4", "stages.0.network.width=4"]
        >>> encoder = medseg.pretrain("rotation", "my_scans/manifest.json", "runs/rotation", overrides=short)
        >>> encoder
        PosixPath('runs/rotation/encoder')
    """
    began = time.monotonic() if began is None else began
    forget_told()
    own = methods.locate_methods(options.method)
    pipeline = load_pretraining(options.task, options.overrides, own)
    manifest = taken_by(pipeline, Manifest.load(options.data))
    with methods.use_methods(own):
        stage = pipeline.stages[0]
        if methods.find(stage.method.name).needs_upright(stage.method.options):
            manifest = without_unplaced(manifest)
    run = TrainingRun(options.folder, manifest, product=ENCODER)
    with methods.use_methods(own):
        device = distributed.setup(options.device)
        try:
            if distributed.rank() == 0:
                say(describe_images(manifest))
            with report_stop(run.place):
                trained = train_one(pipeline, run, options, device, began)
            if distributed.rank() == 0:
                _describe(run.folder / ENCODER, trained, manifest)
                _write_report(run.folder, trained, manifest)
            distributed.barrier()
        finally:
            distributed.finish()
    return run.folder / ENCODER


pretrain = api(PretrainOptions, run_pretraining)


def load_pretraining(
    task: str, overrides: tuple[str, ...] = (), own: tuple[methods.OwnMethod, ...] | None = None
) -> Pipeline:
    """A checked pipeline of one stage.

    Raises:
        ConfigError: as `settings.load`; more than one stage, several views, rounds, or labels for a next stage.
    """
    pipeline = settings.load(task, overrides, own, shipped_tasks=settings.shipped_pretraining())
    stage = pipeline.stages[0]
    if len(pipeline.stages) > 1 or len(stage.views) > 1 or stage.rounds or stage.then:
        raise ConfigError(f"task {task!r} has several stages, views or rounds; pre-training has one network")
    return pipeline


def without_unplaced(manifest: Manifest) -> Manifest:
    """The data set without training images whose header does not say which way up they are.

    Raises:
        ManifestError: none is left.
        DataError: a file that cannot be read.
    """
    kept: dict[str, tuple[Case, ...]] = {}
    left_out = []
    for section in ("training", "unlabeled"):
        cases = getattr(manifest, section)
        unplaced = [case.name for case in cases if is_unplaced(manifest, case)]
        kept[section] = tuple(case for case in cases if case.name not in unplaced)
        left_out += unplaced
    if not left_out:
        return manifest
    if not any(kept.values()):
        raise ManifestError(
            "no training image has an orientation in its header, and the task asks which way up they are",
            path=manifest.path,
            hint="medseg pretrain --task exemplar or inpainting asks something else",
        )
    if distributed.rank() == 0:
        say(f"warning: {len(left_out)} images have no orientation in their header and are left out: {left_out[0]}, ...")
    return manifest.model_copy(update=kept)


def describe_images(manifest: Manifest) -> str:
    """How many images there are to learn from, as a line."""
    streams = streams_of(manifest)
    every, labelled = streams["all"], len(streams["labeled"])
    text = f"{len(every)} images to learn from"
    if labelled:
        text += f"; {labelled} of them have a label, which teaches nothing here"
    return text


def _write_report(folder: Path, pipeline: Pipeline, manifest: Manifest) -> None:
    """The page of the run."""
    from medseg.workflows.train.report.page import write_training_report  # matplotlib takes seconds to import

    command = describe_command("medseg.pretrain(...)")
    page = write_training_report(folder, pipeline, manifest, command, segments=False)
    say(f"report: {page}")


def _describe(folder: Path, pipeline: Pipeline, manifest: Manifest) -> None:
    """Complete the folder of a finished training.

    Raises:
        ConfigError: what the method pre-trains is no network in halves.
    """
    stage = pipeline.stages[0]
    (data,) = stage.specs(DataSpec(**pipeline.data))
    with torch.random.fork_rng(devices=()):
        network = build_method(stage, data).pretrained()
    if not isinstance(network, EncoderDecoder):
        raise ConfigError(f"{stage.method.name} pre-trains a {type(network).__name__}, which has no encoder")
    tensors = list(network.state_dict())
    if not all(parameter.requires_grad for parameter in network.parameters()):
        tensors = encoder_tensors(network, data.channels, data.network_patch)
    images = [case.name for case in streams_of(manifest)["all"]]
    describe_encoder(folder, stage.network, data, tensors=tensors, name=pipeline.name, images=images)
