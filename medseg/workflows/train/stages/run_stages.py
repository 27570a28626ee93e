"""The stages of a run, one after the other: what each starts from, learns from and leaves to the next."""

from __future__ import annotations

from pathlib import Path

import torch

from medseg import methods
from medseg.bundle.join import copy_bundle
from medseg.config.between_runs import Labelling
from medseg.config.pipeline import DataSpec, Pipeline
from medseg.engine import distributed
from medseg.engine.tracking import MLflowTracker
from medseg.manifest.labelling import cases_to_label
from medseg.manifest.manifest import Manifest, streams_of
from medseg.progress import say
from medseg.stopping import report_stop
from medseg.workflows.train.group_names import name_of_stage
from medseg.workflows.train.self_training.labelling.labelled_manifest import write_round_manifest
from medseg.workflows.train.self_training.labelling.measured import add_to_log, measure_pseudo_labels
from medseg.workflows.train.self_training.labelling.outcome import refuse_nothing_learnt
from medseg.workflows.train.self_training.labelling.predict_maps import Predictors
from medseg.workflows.train.self_training.labelling.pseudo_label_statistics import mean_dice
from medseg.workflows.train.self_training.labelling.pseudo_labels import PSEUDO, PseudoLabeller
from medseg.workflows.train.self_training.report.label_sheet import write_label_sheet
from medseg.workflows.train.self_training.run import SelfTraining
from medseg.workflows.train.self_training.time_left import TimeLeft
from medseg.workflows.train.stages.build import StageInputs, StageResult
from medseg.workflows.train.stages.stage import StageRun


class StagesInOrder:
    """The training of all stages; what is finished is not done again.

    Args:
        pipeline: resolved, nothing left to plan.
        manifest: the data set of the first stage; a stage with `then` leaves one with more labels.
        output: the run folder, which gets the bundle of the last stage.
        device: of the networks.
        fingerprint: of the run.
        product: what the last stage leaves, and the name of its folder.
        tracker: gets the numbers of the logs, too.

    Attributes:
        dice: mean, of the labels that a rule made last with those of the pass before; None where there were none.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        manifest: Manifest,
        output: Path,
        device: torch.device,
        fingerprint: str,
        *,
        product: str = "bundle",
        tracker: MLflowTracker | None = None,
    ) -> None:
        self.pipeline, self.manifest, self.output = pipeline, manifest, output
        self.device, self.fingerprint, self.product, self.tracker = device, fingerprint, product, tracker
        self.measured = manifest if pipeline.measure_pseudo_labels else None
        self.is_main = distributed.rank() == 0
        self.dice: float | None = None

    def train(self, start: StageResult | None, *, resume: bool) -> None:
        """Train until the run folder has its bundle.

        Args:
            start: what the first stage starts from.
            resume: whether to go on where an earlier command was stopped.

        Raises:
            MedsegError: data that cannot be used, or a place that cannot be written.
            Stopped: by a signal.
        """
        count = len(self.pipeline.stages)
        result, index = start, 0
        while index < count:
            folder = self.output / f"stage{index}" if count > 1 else self.output
            self._fit_batch(index)
            cache = self.output / "cache"
            inputs = StageInputs(
                self.pipeline, index, self.manifest, folder, cache, self.device, self.tracker, self.measured
            )
            with report_stop(self._place(index) if count > 1 else ""):
                result = self._train_stage(inputs, result, resume=resume)
                if inputs.stage.then:
                    self._label(inputs, inputs.stage.then, result)
            index = self._next_stage(index)
        bundle = self.output / self.product
        if result is not None and result.bundle != bundle:  # the last passes were left out
            if self.is_main:
                copy_bundle(result.bundle, bundle)
            distributed.barrier()

    def _fit_batch(self, index: int) -> None:
        """Lessen the batch of a stage that was planned for more labels than the rules before it made."""
        stage = self.pipeline.stages[index]
        batch = dict(stage.schedule.batch or {})
        count = len(streams_of(self.manifest)["labeled"])
        is_planar = all(data.spatial_dims == 2 for data in stage.specs(DataSpec(**self.pipeline.data)))
        if is_planar or not any(each.then for each in self.pipeline.stages[:index]):
            return
        if not 0 < count < batch.get("labeled", 0):
            return
        if self.is_main:
            where = name_of_stage(self.pipeline, index)
            say(f"warning: {where}: {count} cases have a label, so that the batch is {count}, not {batch['labeled']}")
        schedule = stage.schedule.model_copy(update={"batch": {**batch, "labeled": count}})
        stages = list(self.pipeline.stages)
        stages[index] = stage.model_copy(update={"schedule": schedule})
        self.pipeline = self.pipeline.model_copy(update={"stages": tuple(stages)})

    def _place(self, index: int) -> str:
        return f"in {name_of_stage(self.pipeline, index)}"

    def _train_stage(self, inputs: StageInputs, previous: StageResult | None, *, resume: bool) -> StageResult:
        """Train one network, or those of several views and rounds.

        Args:
            inputs: of the stage.
            previous: what the stage before made; of the first stage, what the run starts from.
            resume: whether to go on where an earlier command was stopped.
        """
        stage = inputs.stage
        is_last = inputs.index == len(self.pipeline.stages) - 1
        bundle = self.output / self.product if is_last else inputs.folder / "bundle"
        if inputs.index > 0 and stage.init != "previous":
            previous = None
        if stage.rounds or len(stage.views) > 1:
            return SelfTraining(inputs, previous=previous).train(bundle)
        view = stage.views[0] if stage.views else None
        run = StageRun(inputs, fingerprint=self.fingerprint, view=view)
        before = previous.network(view) if previous else None
        run.train(bundle, previous=before, resume=resume)
        return StageResult(bundle, {run.spec.view: bundle}, run.saved_maps(before))

    def _label(self, inputs: StageInputs, then: Labelling, result: StageResult) -> None:
        """Label cases for the next stages, by a rule, of what this stage's networks give."""
        self.dice = None
        cases = cases_to_label(streams_of(self.manifest), then.cases)
        index = inputs.index
        if not cases:
            if self.is_main:
                say(f"warning: no {' or '.join(then.cases)} case: stage {index} labels nothing for the next one")
            return
        found = self.pipeline.repeat_of(index)
        labeller = PseudoLabeller(
            number=found[1] if found else 1,
            folder=inputs.folder / "labels",
            before=self._labels_of_pass_before(index),
            manifest=self.manifest,
            cases=cases,
            shown=(),
            rule=then.rule,
        )
        time_left = TimeLeft({"labelling": float(len(cases))}, shown=self.is_main)
        time_left.say(f"{name_of_stage(self.pipeline, index)}: labelling {len(cases)} cases for the next stage")
        counts = labeller.run(Predictors.of_stage(result), inputs.device, time_left)
        measured = measure_pseudo_labels(labeller, self.measured, name_of_stage(self.pipeline, index))
        if self.is_main:
            write_label_sheet(self.manifest, labeller)
            if measured:
                add_to_log(inputs.folder / "metrics.jsonl", inputs.stage.schedule.iterations, measured)
        before = self.manifest
        self.manifest = write_round_manifest(before, labeller, labeller.folder / "manifest.json")
        if self._next_learns_labels(index):
            refuse_nothing_learnt(before, self.manifest, labeller.folder / PSEUDO, cases)
        self.dice = mean_dice(list(counts.values()))

    def _next_learns_labels(self, index: int) -> bool:
        """Whether the method of the stage after one learns from labels."""
        for stage in self.pipeline.stages[index + 1 : index + 2]:
            streams = methods.find_streams(stage.method.name, stage.method.options)
            return any("label" in stream.keys and not stream.optional for stream in streams)
        return False

    def _labels_of_pass_before(self, index: int) -> Path | None:
        """The folder of the labels that the same stage made in the pass before."""
        found = self.pipeline.repeat_of(index)
        if found is None or found[1] == 1:
            return None
        return self.output / f"stage{index - found[0].stages}" / "labels"

    def _next_stage(self, index: int) -> int:
        """The number of the stage to go on with: after the last pass, where labels hardly change any more."""
        found = self.pipeline.repeat_of(index)
        if found is None:
            return index + 1
        repeat, number = found
        ends_pass = index + 1 == repeat.first + repeat.stages * number
        if not ends_pass or number == repeat.passes:
            return index + 1
        if repeat.stop_dice is None or self.dice is None or self.dice <= repeat.stop_dice:
            return index + 1
        if self.is_main:
            where = name_of_stage(self.pipeline, index)
            say(f"{where}: its pseudo-labels have a Dice of {self.dice:.4f} with those before; no pass follows")
        return repeat.end
