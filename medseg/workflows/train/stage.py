"""One stage of a pipeline: volumes, network, method and engine put together, from the manifest to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from monai.handlers import LrScheduleHandler
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from medseg.atomic import make_folder
from medseg.bundle.bundle import open_bundle, write_bundle
from medseg.config import DataSpec, Pipeline, View
from medseg.cores import usable_cores
from medseg.data.cache import CachedVolume, VolumeCache
from medseg.data.streams import PatchStreams, make_loader
from medseg.engine import checkpoint, distributed, handlers
from medseg.engine.logs import RunLog, TrainingBar
from medseg.engine.optimizer import make_optimizer, make_scheduler
from medseg.engine.trainer import MethodTrainer, step_settings, use_channels_last
from medseg.engine.validation import validate
from medseg.errors import OutputError
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.method import Method
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.networks.adapters import FirstChannels, Planar
from medseg.progress import counting
from medseg.workflows.train.build import build_method, network_of_view

_SEEDS_APART = 1000
"""Between the seeds of views, so that another seed of the run is not another view's."""


class ValidationVolumes(Dataset):
    """Whole cached volumes with their labels, for the evaluator."""

    def __init__(self, volumes: list[CachedVolume]) -> None:
        self.volumes = volumes

    def __len__(self) -> int:
        """How many cases."""
        return len(self.volumes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Image `(C, X, Y, Z)` float32 and label `(1, X, Y, Z)` of class indices."""
        volume = self.volumes[index]
        image = torch.from_numpy(volume.image.astype("float32"))
        return {"image": image, "label": torch.from_numpy(volume.label[None].copy())}


class StageRun:
    """Trains one stage.

    Args:
        pipeline: resolved, nothing left to plan.
        index: of the stage.
        manifest: the data set.
        folder: where checkpoints and logs go.
        device: where it trains.
        fingerprint: of the run, kept in its checkpoints.
        cache: folder of preprocessed volumes; all views share it.
        view: which of the stage's networks to train; None: the one that the plan chose.

    Attributes:
        title: what the progress bar shows.
        aside: what it says of a larger run, see `TrainingBar`.
    """

    aside: Callable[[float, float], str] | None = None

    def __init__(
        self,
        pipeline: Pipeline,
        index: int,
        manifest: Manifest,
        folder: Path,
        device: torch.device,
        *,
        fingerprint: str,
        cache: Path,
        view: View | None = None,
    ) -> None:
        self.pipeline, self.stage = pipeline, pipeline.stages[index]
        self.manifest, self.folder, self.device = manifest, folder, device
        data = DataSpec(**pipeline.data)
        self.spec = data if view is None else data.of_view(view)
        self.fingerprint = "/".join([fingerprint, str(index), *([view] if view else [])])
        self.title = pipeline.name if view is None else f"{pipeline.name} {view}"
        # networks that begin alike would also err alike
        self.seed = pipeline.seed + (_SEEDS_APART * (1 + get_args(View).index(view)) if view else 0)
        self.cache = VolumeCache(cache)
        self.main = distributed.rank() == 0
        self.progress = handlers.Progress()

    def train(self, bundle: Path, *, previous: Path | None, resume: bool) -> None:
        """Train, or continue, until `bundle` is written.

        Raises:
            Stopped: by a signal, after saving `last.pt`.
        """
        if resume and (bundle / "configs" / "metadata.json").is_file():
            return
        make_folder(self.folder)
        set_determinism(self.seed)
        streams, validation = self._volumes()
        definition, method = self._method(previous)
        # every rank draws its own dropout, none the weights: DDP sends rank 0's
        torch.manual_seed(self.seed + distributed.rank())
        state = checkpoint.read(self.folder / "last.pt") if resume and (self.folder / "last.pt").exists() else None
        trainer, scheduler = self._trainer(method, streams, state)
        segmenter = self._segmenter(method)
        self._run(trainer, scheduler, segmenter, validation)
        if self.main:
            self._export(segmenter, definition, bundle)
        distributed.barrier()

    def _volumes(self) -> tuple[dict[str, list[CachedVolume]], list[CachedVolume]]:
        """Preprocess what is not in the cache yet: rank 0 first, then the others find it done."""
        wanted = self.stage.schedule.batch or {}
        groups = {stream: cases for stream, cases in streams_of(self.manifest).items() if stream in wanted}
        groups["validation"] = [case for case in self.manifest.validation if case.label]
        for rank in range(distributed.world()):
            if rank == distributed.rank():
                volumes = {name: self._prepared(name, cases) for name, cases in groups.items()}
            distributed.barrier()
        return volumes, volumes.pop("validation")

    def _prepared(self, name: str, cases: list[Case]) -> list[CachedVolume]:
        # a worker process takes seconds to start, so that few volumes are done sooner without
        workers = 1 if len(cases) < 24 else usable_cores()
        with counting(f"preprocessing {name} cases", kept="finished ones are saved", shown=self.main) as progress:
            return self.cache.prepare(self.manifest, cases, self.spec, workers=workers, progress=progress)

    def _method(self, previous: Path | None) -> tuple[dict[str, Any], Method]:
        before = network_of_view(open_bundle(previous), self.spec.view) if previous else None
        definition, method = build_method(self.stage, self.spec, before)
        method.to(self.device)
        if self.stage.schedule.channels_last:
            use_channels_last(method, self.spec.spatial_dims)
        return definition, method

    def _segmenter(self, method: Method) -> nn.Module:
        """What validates and travels: volumes in, class logits out."""
        network = method.segmenter()
        axis = self.spec.slice_axis
        return network if axis is None else Planar(network, axis, self.spec.slices)

    def _trainer(
        self, method: Method, streams: dict[str, list[CachedVolume]], state: dict[str, Any] | None
    ) -> tuple[MethodTrainer, Any]:
        schedule = self.stage.schedule
        dataset = PatchStreams(
            streams,
            self.spec,
            schedule.batch or {},
            seed=self.seed,
            total=schedule.iterations,
            rank=distributed.rank(),
            world=distributed.world(),
            targets=method.targets(),
        )
        start = int(state["iteration"]) if state else 0
        workers = schedule.workers if schedule.workers is not None else (1 if self.device.type == "cpu" else 4)
        optimizer = make_optimizer(method, schedule)
        scheduler = make_scheduler(optimizer, schedule)
        trainer = MethodTrainer(
            method,
            optimizer,
            make_loader(dataset, start=start, workers=workers, device=self.device),
            total=schedule.iterations,
            start=start,
            settings=step_settings(schedule, self.device),
            replica=distributed.replicate(method),
            names=dataset.cases_of,
        )
        if state:
            path = self.folder / "last.pt"
            if state["fingerprint"] != self.fingerprint:
                raise checkpoint.CheckpointError("belongs to another run", path=path)
            checkpoint.restore(state, trainer, scheduler, path=path)
            self.progress = handlers.Progress.of(state)
        return trainer, scheduler

    def _run(
        self, trainer: MethodTrainer, scheduler: Any, segmenter: nn.Module, validation: list[CachedVolume]
    ) -> None:
        """Attach the handlers, in the order in which they act, and run."""
        total, start = trainer.total, trainer.state.iteration
        every = self.stage.schedule.validate_every or max(1, total // 10)
        log = RunLog(self.folder, resume_at=start, validated=self.progress.validated) if self.main else None
        bar = TrainingBar(self.title, total, start=start, shown=self.main, aside=self.aside)
        reseed = [handlers.Reseed(seed=self.seed)] if distributed.world() > 1 else []
        schedule = LrScheduleHandler(scheduler, epoch_level=False, print_lr=False)
        steps: list[Any] = [*reseed, handlers.Stop(self.progress), schedule]
        if log:
            steps.append(handlers.LogTerms(log, bar))
        score = partial(self._score, segmenter, validation)
        scorer = handlers.Validate(score, segmenter, self.folder, self.progress, every=every, log=log, bar=bar)
        if validation:
            steps.append(scorer)
        if self.main:
            steps.append(handlers.SaveLast(scheduler, self.folder, self.progress, fingerprint=self.fingerprint))
        for handler in steps:
            handler.attach(trainer)
        try:
            with handlers.stop_on_signal(trainer, self.progress):
                if validation:
                    scorer.catch_up(trainer)
                if start < total:
                    trainer.run()
        finally:
            bar.close()
            if log:
                log.close()

    def _score(self, segmenter: nn.Module, volumes: list[CachedVolume]) -> dict[str, Any]:
        """Dice of whole validation volumes, this rank's share of them and then all ranks' mean."""
        mine = ValidationVolumes(volumes[distributed.rank() :: distributed.world()])
        inferer = SlabInferer(self.spec.patch, self.spec.overlap, restore=False, context=self.spec.context)
        loader = DataLoader(mine, batch_size=1)
        found = validate(segmenter, loader, inferer, classes=self.spec.classes, device=self.device)
        names = [self.spec.labels[value] for value in self.spec.label_values[1:]]
        return {"mean": found["mean"], "classes": dict(zip(names, found["classes"], strict=True))}

    def _export(self, segmenter: nn.Module, definition: dict[str, Any], bundle: Path) -> None:
        """Write the bundle of the best validated weights, or of the last where nothing was validated."""
        best = self.folder / "best.pt"
        if best.exists():
            try:
                segmenter.load_state_dict(torch.load(best, map_location=self.device, weights_only=True))
            except (RuntimeError, OSError) as error:
                raise OutputError(f"cannot be read back ({str(error).splitlines()[0]})", path=best) from error
        write_bundle(
            bundle,
            segmenter,
            network_def=self._exported(segmenter, definition),
            data=self.spec,
            name=self.pipeline.name,
        )

    def _exported(self, segmenter: nn.Module, definition: dict[str, Any]) -> dict[str, Any]:
        """The definition of a segmenter around the stage's network."""
        if isinstance(segmenter, Planar):
            inner = self._exported(segmenter.network, definition)
            planar = {"_target_": "medseg.portable.networks.adapters.Planar", "network": inner, "axis": segmenter.axis}
            return planar if segmenter.slices == 1 else {**planar, "slices": segmenter.slices}
        if isinstance(segmenter, FirstChannels):
            inner = self._exported(segmenter.network, definition)
            return {
                "_target_": "medseg.portable.networks.adapters.FirstChannels",
                "network": inner,
                "channels": segmenter.channels,
            }
        return definition
