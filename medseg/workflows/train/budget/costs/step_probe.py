"""What training costs as it really runs: steps of a throw-away method with the real loader, a validation, an export."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.utils import set_determinism
from torch import nn

from medseg.atomic import make_folder
from medseg.bundle.bundle import write_bundle
from medseg.config.pipeline import View
from medseg.cores import CoreUse, CoreWatch
from medseg.data.cache import CachedVolume
from medseg.engine import checkpoint
from medseg.engine.trainer import MethodTrainer
from medseg.manifest.manifest import Case
from medseg.method import Method
from medseg.networks.factory import definition_of
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.workflows.train.stages.build import StageInputs, save_pretrained
from medseg.workflows.train.stages.maps import SavedMaps, needs_maps, save_maps
from medseg.workflows.train.stages.prepare_cases import case_groups
from medseg.workflows.train.stages.stage import StageRun

FEWEST_STEPS = 3
"""Timed at each place of the run, however long they take."""

AHEAD = 2
"""Steps that are not timed after the first: their batches were made while the loader was started."""

PLACES = (0.0, 0.5)
"""Parts of the run at which steps are timed: a method may do more later on."""

CASES_OF_PLAN = 4
"""Cases of each stream that are preprocessed where nothing will be trained: a method may need as many in a batch."""


@dataclass(frozen=True)
class NetworkCosts:
    """What the training of one network costs, seconds.

    Args:
        step: mean.
        start: from the preprocessed cases until the first step is taken.
        case: one pass over a validation case; 0: there is none.
        save: one checkpoint.
        finish: the export.
        use: of the cores while steps were timed.
        preparation: of one case that had to be preprocessed; 0: all were there.
    """

    step: float
    start: float
    case: float
    save: float
    finish: float
    use: CoreUse
    preparation: float


class StageProbe(StageRun):
    """The training of one network, begun to see what it costs; it takes part in nothing that several processes do.

    Args:
        inputs: of the stage.
        view: which of the stage's networks; None: the one that the plan chose.
        few: preprocess only as many cases as are needed to take steps.
    """

    def __init__(self, inputs: StageInputs, *, view: View | None, few: bool) -> None:
        super().__init__(inputs, fingerprint="probe", view=view)
        self.few = few
        self.is_main = False  # nothing is said of a method that is thrown away
        self.made = 0
        self.making = 0.0

    def measure(self, bundle: Path, *, previous: Path | None, seconds: float) -> NetworkCosts:
        """Preprocess, take steps for about so many seconds, and export.

        Args:
            bundle: the folder to write; the next stage may start from it.
            previous: bundle whose network to start from.
            seconds: for steps.
        """
        set_determinism(self.seed)
        volumes, validation = self._prepare_all()
        method = self._build_method(previous)
        starts, steps = [], []
        watch = CoreWatch()
        for place in PLACES:
            begun = int(place * self.stage.schedule.iterations)
            trainer, scheduler = self._build_trainer(method, volumes, None, begun=begun)
            ticks = self._run_for(trainer, seconds / len(PLACES))
            starts.append(ticks[1] - ticks[0])
            steps += np.diff(ticks[1 + AHEAD :]).tolist()
        use = watch.use()
        step = sum(steps) / len(steps)
        make_folder(bundle.parent)
        began = time.monotonic()
        checkpoint.save_atomic(
            checkpoint.capture(trainer, scheduler, fingerprint="probe", extra={}), bundle.with_suffix(".pt")
        )
        save = time.monotonic() - began
        segmenter = self._build_segmenter(method)
        case = self._time_case(segmenter, validation) if segmenter and validation else 0.0
        case *= max(1, len(method.head_choices))  # each is validated
        began = time.monotonic()
        self._finish(segmenter, method, bundle)
        finish = time.monotonic() - began
        preparation = self.making / self.made if self.made else 0.0
        return NetworkCosts(step, max(0.0, min(starts) - step), case, save, finish, use, preparation)

    def _prepare_all(self) -> tuple[dict[str, list[CachedVolume]], list[CachedVolume]]:
        """Preprocess as training will, in this process alone."""
        batch = self.stage.schedule.batch or {}
        volumes = {}
        for name, cases in case_groups(self.stage, self.inputs.manifest).items():
            wanted = max(CASES_OF_PLAN, batch.get(name, 0)) if name in batch else 1
            volumes[name] = self._prepare_cases(name, cases[:wanted] if self.few else cases)
        return volumes, volumes.pop("validation")

    def _prepare_cases(self, name: str, cases: list[Case]) -> list[CachedVolume]:
        began, before = time.monotonic(), self._entries()
        volumes = super()._prepare_cases(name, cases)
        made = self._entries() - before
        if made:
            self.made += made
            self.making += time.monotonic() - began
        return volumes

    def _entries(self) -> int:
        folder = self.cache.folder
        return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0

    def _replicate(self, method: Method) -> nn.Module:
        return method

    def _run_for(self, trainer: MethodTrainer, seconds: float) -> list[float]:
        """Train for so long; the moment it began, and the end of each step."""
        ticks = [time.monotonic()]

        def note(engine: Any) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            ticks.append(time.monotonic())
            if len(ticks) > 1 + AHEAD + FEWEST_STEPS and ticks[-1] - ticks[0] >= seconds:
                engine.terminate()

        trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
        trainer.run()
        return ticks

    def _time_case(self, segmenter: nn.Module, validation: Sequence[CachedVolume]) -> float:
        """Seconds of a pass over the validation case of a typical size, times its share of the mean size."""
        sizes = [float(torch.Size(volume.shape).numel()) for volume in validation]
        mean = sum(sizes) / len(sizes)
        typical = min(range(len(sizes)), key=lambda index: abs(sizes[index] - mean))
        inferer = SlabInferer(self.spec.patch, self.spec.overlap, restore=False, context=self.spec.context)
        inferer.paint_order = self.spec.paint_order
        image = torch.from_numpy(validation[typical].image.astype("float32"))[None].to(self.device)
        segmenter.eval()
        began = time.monotonic()
        with torch.no_grad():
            inferer(image, segmenter).cpu()
        return (time.monotonic() - began) * mean / sizes[typical]

    def _finish(self, segmenter: nn.Module | None, method: Method, bundle: Path) -> None:
        if segmenter is not None:
            name = self.inputs.pipeline.name
            write_bundle(bundle, segmenter, network_def=definition_of(segmenter), data=self.spec, name=name)
        elif type(method).pretrained is not Method.pretrained:
            save_pretrained(bundle, method.pretrained())
        if needs_maps(self.stage):
            save_maps(bundle.with_suffix(".maps"), method)

    def maps_of(self, bundle: Path, previous: Path | None) -> list[SavedMaps]:
        """The method's maps, if a rule works on them; arguments as for `measure`."""
        if not needs_maps(self.stage):
            return []
        return [SavedMaps(bundle.with_suffix(".maps"), self.stage, self.spec, previous)]
