"""`medseg pretrain`: all training images of a manifest, labelled or not, become an encoder for other trainings."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from medseg import methods
from medseg.config import DataSpec, Pipeline
from medseg.engine import distributed
from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest, streams_of
from medseg.ops.encoders import encoder_tensors
from medseg.options import api
from medseg.portable.networks.encoder_decoder import EncoderDecoder
from medseg.progress import say
from medseg.stopping import report_stop
from medseg.workflows.train import settings
from medseg.workflows.train.build import build_method
from medseg.workflows.train.encoder import ENCODER, describe_encoder
from medseg.workflows.train.folds import TrainingRun
from medseg.workflows.train.options import PretrainOptions
from medseg.workflows.train.run import train_one


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
    own = methods.locate_methods(options.method)
    pipeline = load_pretraining(options.task, options.overrides, own)
    manifest = Manifest.load(options.data)
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


def describe_images(manifest: Manifest) -> str:
    """How many images there are to learn from, as a line."""
    streams = streams_of(manifest)
    every, labelled = streams["all"], len(streams["labeled"])
    text = f"{len(every)} images to learn from"
    if labelled:
        text += f"; {labelled} of them have a label, which teaches nothing here"
    return text


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
