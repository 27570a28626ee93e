"""One stage of a pipeline: volumes, network, method and engine put together, from the manifest to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from monai.handlers import LrScheduleHandler
from monai.utils import set_determinism
from torch import nn

from medseg.atomic import make_folder
from medseg.bundle.bundle import write_bundle
from medseg.config.pipeline import View
from medseg.data.cache import CachedVolume, VolumeCache
from medseg.data.loader_workers import lost_workers
from medseg.data.streams import PatchStreams, make_loader
from medseg.engine import checkpoint, distributed, handlers
from medseg.engine.logs import RunLog, TrainingBar
from medseg.engine.optimizer import make_optimizer, make_scheduler
from medseg.engine.trainer import MethodTrainer, StepSettings, use_channels_last
from medseg.manifest.manifest import Case
from medseg.method import Method
from medseg.networks.factory import definition_of
from medseg.portable.networks.adapters import Planar
from medseg.progress import say
from medseg.workflows.train.self_training.labelling.predict_maps import MapPredictor
from medseg.workflows.train.self_training.report.map_sheet import MAP_SHEET, write_map_sheet
from medseg.workflows.train.stages.build import PRETRAINED, StageInputs, build_method, open_previous, save_pretrained
from medseg.workflows.train.stages.maps import MAPS, SavedMaps, TrainedMaps, needs_maps, save_maps
from medseg.workflows.train.stages.prepare_cases import case_groups, prepare_cases
from medseg.workflows.train.stages.validation_volumes import keep_best_head, score_heads

_SEED_STEP = 1000
"""Between the seeds of views, so that another seed of the run is not another view's."""


class StageRun:
    """The training of one network.

    Args:
        inputs: of the stage.
        fingerprint: of the run, kept in its checkpoints.
        view: which of the stage's networks to train; None: the one that the plan chose.

    Attributes:
        title: what the progress bar shows.
        note: what the progress bar says of a larger run, see `TrainingBar`.
        round: number of the round with pseudo-labels, and how many there are.
    """

    round: tuple[int, int] = (0, 0)
    note: Callable[[float, float], str] | None = None

    def __init__(self, inputs: StageInputs, *, fingerprint: str, view: View | None = None) -> None:
        self.inputs, self.stage = inputs, inputs.stage
        self.folder, self.device = inputs.folder, inputs.device
        name, seed = inputs.pipeline.name, inputs.pipeline.seed
        if view is None:
            self.spec = inputs.data
            self.title = name
            self.seed = seed
            self.fingerprint = f"{fingerprint}/{inputs.index}"
        else:
            self.spec = inputs.data.of_view(view)
            self.title = f"{name} {view}"
            # networks that begin alike would also err alike
            self.seed = seed + _SEED_STEP * (1 + get_args(View).index(view))
            self.fingerprint = f"{fingerprint}/{inputs.index}/{view}"
        self.cache = VolumeCache(inputs.cache)
        self.is_main = distributed.rank() == 0
        self.progress = handlers.RunProgress()

    def train(self, bundle: Path, *, previous: Path | None, resume: bool) -> None:
        """Train, or continue, until `bundle` is written.

        Args:
            bundle: the folder to write; of a stage without a segmenter it holds weights for the next stage.
            previous: bundle whose network to start from.
            resume: whether to go on where an earlier command was stopped.

        Raises:
            Stopped: by a signal, after saving `last.pt`.
        """
        # what is written last
        finished = [self.maps] if needs_maps(self.stage) else [bundle / "configs/metadata.json", bundle / PRETRAINED]
        if resume and any(file.is_file() for file in finished):
            return
        make_folder(self.folder)
        set_determinism(self.seed)
        streams, validation = self._prepare_volumes()
        method = self._build_method(previous)
        # every rank draws its own dropout, none the weights: DDP sends rank 0's
        torch.manual_seed(self.seed + distributed.rank())
        last = self.folder / "last.pt"
        state = checkpoint.read(last) if resume and last.exists() else None
        trainer, scheduler = self._build_trainer(method, streams, state)
        segmenter = self._build_segmenter(method)
        self._run(trainer, scheduler, segmenter, validation)
        if self.is_main:
            self._draw_maps(method)  # before the segmenter has its best weights: both parts are of the last step
            if segmenter is not None:
                self._export(method, segmenter, bundle)
            elif type(method).pretrained is not Method.pretrained:
                save_pretrained(bundle, method.pretrained())
            if needs_maps(self.stage):
                save_maps(self.maps, method)
        distributed.barrier()

    def _draw_maps(self, method: Method) -> None:
        """A sheet of the maps of a method that learns from tags, where no rule of the stage shows them."""
        from_tags = any("tags" in stream.keys for stream in method.streams)
        shown = from_tags and self.spec.has_background and not needs_maps(self.stage)
        if not shown or method.maps() is None:
            return
        groups = case_groups(self.stage, self.inputs.manifest)
        cases = [case for stream in method.streams for case in groups.get(stream.name, [])]
        predictor = MapPredictor([TrainedMaps(method, self.spec)], self.device)
        write_map_sheet(self.inputs.manifest, cases, predictor, self.folder / MAP_SHEET)

    @property
    def maps(self) -> Path:
        """Where the weights of the method's maps are kept, for a rule that works on them."""
        return self.folder / MAPS

    def saved_maps(self, previous: Path | None) -> tuple[SavedMaps, ...]:
        """The maps of the trained network; none if no rule works on them.

        Args:
            previous: as in `train`.
        """
        if not needs_maps(self.stage):
            return ()
        return (SavedMaps(self.maps, self.stage, self.spec, previous),)

    def _prepare_volumes(self) -> tuple[dict[str, list[CachedVolume]], list[CachedVolume]]:
        """Preprocess what is not in the cache yet: rank 0 first, then the others find it done."""
        groups = case_groups(self.stage, self.inputs.manifest)
        volumes: dict[str, list[CachedVolume]] = {}
        for rank in range(distributed.world()):
            if rank == distributed.rank():
                volumes = {name: self._prepare_cases(name, cases) for name, cases in groups.items()}
            distributed.barrier()
        validation = volumes.pop("validation")
        return volumes, validation

    def _prepare_cases(self, name: str, cases: list[Case]) -> list[CachedVolume]:
        inputs = self.inputs
        return prepare_cases(self.cache, inputs.manifest, cases, self.spec, (self.stage, name), shown=self.is_main)

    def _build_method(self, previous: Path | None) -> Method:
        start = open_previous(previous, self.spec.view) if previous else None
        report = partial(self._report_start, previous) if self.is_main else None
        method = build_method(self.stage, self.spec, start, report)
        method.round_number, method.round_count = self.round
        method.to(self.device)
        if self.stage.schedule.channels_last:
            use_channels_last(method, self.spec.spatial_dims)
        return method

    def _report_start(self, previous: Path | None, copied: str) -> None:
        say(f"{self.title}: starts from {previous or 'pre-trained weights'}: {copied}")

    def _build_segmenter(self, method: Method) -> nn.Module | None:
        """The network that is validated and exported: volumes to class logits; None: the method makes none."""
        network = method.segmenter()
        axis = self.spec.slice_axis
        if network is None or axis is None:
            return network
        return Planar(network, axis, self.spec.slices)

    def _build_trainer(
        self,
        method: Method,
        streams: dict[str, list[CachedVolume]],
        state: dict[str, Any] | None,
        *,
        begun: int = 0,
    ) -> tuple[MethodTrainer, Any]:
        """The trainer and its learning-rate scheduler, as they were at the checkpoint `state`.

        Args:
            method: on the device.
            streams: stream -> preprocessed cases.
            state: the checkpoint; None: there is none.
            begun: iterations that are left out, without a checkpoint.
        """
        schedule = self.stage.schedule
        dataset = PatchStreams(
            streams,
            self.spec,
            schedule.batch or {},
            seed=self.seed,
            total=schedule.iterations,
            rank=(distributed.rank(), distributed.world()),
            targets=method.targets(),
            streams=method.streams,
        )
        start = int(state["iteration"]) if state else begun
        workers = schedule.workers
        if workers is None:
            workers = 1 if self.device.type == "cpu" else 4
        optimizer = make_optimizer(method, schedule)
        scheduler = make_scheduler(optimizer, schedule)
        trainer = MethodTrainer(
            method,
            optimizer,
            make_loader(dataset, start=start, workers=workers, device=self.device),
            total=schedule.iterations,
            start=start,
            settings=StepSettings.of_schedule(schedule, self.device),
            replica=self._replicate(method),
            names=dataset.cases_of,
        )
        if state:
            path = self.folder / "last.pt"
            if state["fingerprint"] != self.fingerprint:
                raise checkpoint.CheckpointError("belongs to another run", path=path)
            checkpoint.restore(state, trainer, scheduler, path=path)
            method.recall(dataset.samples)
            self.progress = handlers.RunProgress.of_checkpoint(state)
            if self.is_main and trainer.state.iteration < trainer.total:
                self.progress.forget_other_best(self.folder / "best.pt")
        return trainer, scheduler

    def _replicate(self, method: Method) -> nn.Module:
        return distributed.replicate(method)

    def _run(
        self, trainer: MethodTrainer, scheduler: Any, segmenter: nn.Module | None, validation: list[CachedVolume]
    ) -> None:
        """Attach the handlers, in the order in which they act, and run."""
        total, start = trainer.total, trainer.state.iteration
        log = None
        if self.is_main:
            log = RunLog(self.folder, resume_at=start, validated=self.progress.validated, tracker=self.inputs.tracker)
        bar = TrainingBar(self.title, total, start=start, shown=self.is_main, note=self.note)
        validator = self._build_validator(trainer.method, segmenter, validation, log, bar)
        steps: list[Any] = []
        if distributed.world() > 1:
            steps.append(handlers.Reseed(seed=self.seed))
        steps.append(handlers.Stop(self.progress))
        steps.append(LrScheduleHandler(scheduler, epoch_level=False, print_lr=False))
        if log:
            steps.append(handlers.LogTerms(log, bar, [self.spec.labels[value] for value in self.spec.label_values]))
        if validator:
            steps.append(validator)
        if self.is_main:
            steps.append(handlers.SaveLast(scheduler, self.folder, self.progress, fingerprint=self.fingerprint))
        for handler in steps:
            handler.attach(trainer)
        try:
            with lost_workers(), handlers.stop_on_signal(trainer, self.progress):
                if validator:
                    validator.catch_up(trainer)
                if start < total:
                    trainer.run()
        finally:
            bar.close()
            if log:
                log.close()

    def _build_validator(
        self,
        method: Method,
        segmenter: nn.Module | None,
        validation: list[CachedVolume],
        log: RunLog | None,
        bar: TrainingBar,
    ) -> handlers.Validate | None:
        """What scores the segmenter; None where there is nothing to score, or nothing to score it by."""
        if segmenter is None or not validation:
            return None
        return handlers.Validate(
            partial(score_heads, method, segmenter, validation, self.spec, self.device),
            segmenter,
            self.folder,
            self.progress,
            every=self.stage.schedule.validate_every or max(1, self.stage.schedule.iterations // 10),
            log=log,
            bar=bar,
        )

    def _export(self, method: Method, segmenter: nn.Module, bundle: Path) -> None:
        """Write the bundle of the best validated weights, or of the last where nothing was validated."""
        best, recorded = self.folder / "best.pt", self.progress.best_sha256
        if recorded is not None or best.exists():
            checkpoint.read_weights(best, segmenter, recorded)
        keep_best_head(method, self.progress, self.folder, self.title)
        write_bundle(
            bundle,
            segmenter,
            network_def=definition_of(segmenter),
            data=self.spec,
            name=self.inputs.pipeline.name,
            independent=method.independent,
        )
