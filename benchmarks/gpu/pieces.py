"""All that is taken from medseg and from the other benchmarks: the one place to mend when something moves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_sliding_window import network_of
from bench_step import Reference
from ignite.engine import Events
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medseg import __version__, methods
from medseg.config.pipeline import DataSpec, Stage
from medseg.data.cache import CachedVolume, VolumeCache
from medseg.data.streams import PatchStreams, make_loader
from medseg.engine.optimizer import make_optimizer
from medseg.engine.trainer import MethodTrainer, Precision, StepSettings, use_channels_last
from medseg.manifest.manifest import Manifest, streams_of
from medseg.method import Clock, Method
from medseg.networks.factory import NetworkFactory
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.inference.windows import (
    extract_windows,
    order_positions,
    slab_axis,
    split_into_batches,
    window_starts,
)
from medseg.workflows.evaluate.run import evaluate
from medseg.workflows.predict.run import predict
from medseg.workflows.train.run import train
from medseg.workflows.train.settings import load

__all__ = [
    "Reference",
    "SlabInferer",
    "Step",
    "Task",
    "__version__",
    "evaluate",
    "network_of",
    "predict",
    "pure_loss",
    "train",
    "windows_of",
]


@dataclass(frozen=True)
class Task:
    """The training of one network of a shipped pipeline on generated scans.

    Args:
        stage: method, network and schedule.
        spec: of the data.
        volumes: stream to preprocessed cases.
    """

    stage: Stage
    spec: DataSpec
    volumes: dict[str, list[CachedVolume]]

    @classmethod
    def of(
        cls, name: str, manifest_path: Path, cache: Path, *, overrides: Sequence[str], view: str | None = None
    ) -> Task:
        """The first stage of a shipped pipeline; `overrides` say what would be planned from the scans."""
        pipeline = load(name, overrides)
        manifest = Manifest.load(manifest_path)
        planned = {"labels": manifest.labels, "modality": manifest.modalities}
        spec = DataSpec(**{**planned, **pipeline.data})
        spec = spec if view is None else spec.of_view(view)
        stage = pipeline.stages[0]
        store = VolumeCache(cache)
        cases = {stream: found for stream, found in streams_of(manifest).items() if stream in stage.schedule.batch}
        volumes = {stream: store.prepare(manifest, found, spec) for stream, found in cases.items()}
        return cls(stage, spec, volumes)

    def method(self) -> Method:
        """With fresh weights, the same every time, on the CPU."""
        torch.manual_seed(0)
        networks = NetworkFactory(self.stage.network, self.spec)
        return methods.build(self.stage.method.name, networks, **self.stage.method.options).train()

    def loader(self, device: torch.device, *, workers: int, total: int) -> DataLoader:
        """Batches as a training makes them."""
        streams = PatchStreams(
            self.volumes, self.spec, self.stage.schedule.batch, seed=0, total=total, targets=self.method().targets()
        )
        return make_loader(streams, start=0, workers=workers, device=device)

    def ready(self, device: torch.device, count: int) -> list[dict[str, dict[str, Tensor]]]:
        """The first batches, on the device."""
        made = itertools.islice(self.loader(torch.device("cpu"), workers=0, total=count), count)
        return [
            {stream: {key: value.to(device) for key, value in keys.items()} for stream, keys in batch.items()}
            for batch in made
        ]


class Step:
    """The steps of a training.

    Args:
        task: what is trained.
        device: where.
        dtype: of autocast; None: float32.
        channels_last: memory layout.
        compiler: backend of `torch.compile` for the network; None: not compiled.
    """

    def __init__(
        self,
        task: Task,
        device: torch.device,
        *,
        dtype: torch.dtype | None,
        channels_last: bool,
        compiler: str | None = None,
    ) -> None:
        self.method = task.method().to(device)
        if channels_last:
            use_channels_last(self.method, task.spec.spatial_dims)
        if compiler:
            self.method.network.compile(backend=compiler, dynamic=False)
        self.optimizer = make_optimizer(self.method, task.stage.schedule)
        self.settings = StepSettings(Precision(device, dtype), task.stage.schedule.grad_clip, channels_last)

    def run(self, loader: Iterable, total: int, tick: Callable[[int], None] | None = None) -> None:
        """Take `total` steps; `tick` is called with the number of each when it is over."""
        trainer = MethodTrainer(self.method, self.optimizer, loader, total=total, settings=self.settings)
        if tick is not None:
            trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: tick(trainer.state.iteration))
        trainer.run()


def pure_loss(replica: nn.Module, batch: dict[str, dict[str, Tensor]]) -> Tensor:
    """The loss of a method, or of its replica, early in a run."""
    terms: dict[str, Tensor] = replica(batch, Clock(0, 1000))
    return torch.stack([term.float() for term in terms.values()]).sum()


def windows_of(image: Tensor, window: tuple[int, int, int], overlap: float, at_once: int) -> Iterator[Tensor]:
    """The windows that our inferer cuts out of an image `(C, X, Y, Z)`, batch by batch."""
    size = image.shape[1:]
    starts = [window_starts(n, w, overlap) for n, w in zip(size, window, strict=True)]
    for chosen in split_into_batches(order_positions(starts, slab_axis(size, window)), at_once):
        yield extract_windows(image, chosen, window)
