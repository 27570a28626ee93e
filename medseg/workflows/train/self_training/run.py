"""Self-training: teachers, pseudo-labels by their votes, students on both, as one-network trainings in a row.

Every piece of work (the training of one network, the pseudo-label of one case, the scores of one round) knows by
content what it was made of, so that a run that was killed anywhere goes on with what is missing and ends the same.

    round0/              the teachers: axial/, coronal/, ..., and bundle/ with all of them
    round1/pseudo/       label files of the unlabelled cases, by the networks of round 0
    round1/manifest.json labelled cases as they are, and these
    round1/axial/ ...    the students, and bundle/ with all of them
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from medseg.atomic import make_folder
from medseg.bundle.join import copy_bundle, write_joint_bundle
from medseg.config.pipeline import Stage, View
from medseg.engine import distributed
from medseg.manifest.fields import unit_of
from medseg.manifest.labelling import cases_to_label
from medseg.manifest.manifest import Manifest, streams_of
from medseg.progress import say
from medseg.records import RECORD, Record, digest_of
from medseg.stopping import report_stop
from medseg.workflows.train.self_training.check_data import check_rounds, files_of
from medseg.workflows.train.self_training.labelling.labelled_manifest import write_round_manifest
from medseg.workflows.train.self_training.labelling.measured import measure_pseudo_labels
from medseg.workflows.train.self_training.labelling.precision import low_precision, read_precision
from medseg.workflows.train.self_training.labelling.predict_maps import Predictors
from medseg.workflows.train.self_training.labelling.predict_views import Voter
from medseg.workflows.train.self_training.labelling.pseudo_label_statistics import cautions_of_round, summarize_round
from medseg.workflows.train.self_training.labelling.pseudo_labels import PseudoLabeller
from medseg.workflows.train.self_training.report.added_images import choose_added
from medseg.workflows.train.self_training.report.better_round import advise
from medseg.workflows.train.self_training.report.page import write_summary
from medseg.workflows.train.self_training.report.rounds import Round, RunDescription
from medseg.workflows.train.self_training.time_left import TimeLeft
from medseg.workflows.train.self_training.validation_scores import mean_volumes_ml, score_round
from medseg.workflows.train.stages.build import StageInputs, StageResult, count_trainings, student_share
from medseg.workflows.train.stages.maps import MAPS, SavedMaps, needs_maps
from medseg.workflows.train.stages.stage import StageRun

SAVED = "what is finished is saved"


class SelfTraining:
    """The training of a stage with several views or rounds.

    Args:
        inputs: of the stage.
        previous: what the stage before made, where this one starts from it.
    """

    def __init__(self, inputs: StageInputs, *, previous: StageResult | None = None) -> None:
        self.inputs, self.stage, self.manifest = inputs, inputs.stage, inputs.manifest
        self.previous = previous
        self.spec = inputs.data
        self.views: tuple[View, ...] = self.stage.views or (self.spec.view,)
        self.structures = tuple(self.spec.structures.values())
        rounds = self.stage.rounds
        self.to_label = cases_to_label(streams_of(self.manifest), rounds.cases) if rounds else []
        self.rounds = self.stage.round_count if self.to_label else 0
        self.is_main = distributed.rank() == 0
        self.has_warm_students = rounds is not None and rounds.student == "warm"
        self.results: list[Round] = []
        self.warnings: list[str] = []
        work = {
            "training": count_trainings(self.stage, len(self.to_label)),
            "labelling": len(self.to_label) * self.rounds,
            "scoring": 1.0 + self.rounds,
        }
        self.time_left = TimeLeft(work, shown=self.is_main)

    def train(self, bundle: Path) -> StageResult:
        """Train until `bundle` holds the networks of the last round; what is finished is not done again.

        Raises:
            MedsegError: data that cannot be used, or a place that cannot be written.
            Stopped: by a signal.
        """
        if self.stage.rounds and not self.to_label:
            self._warn("there is no unlabelled case: only the teachers are trained, without rounds")
        if self.is_main:
            make_folder(self.inputs.folder)
            self.warnings += check_rounds(self.manifest, self.inputs.folder / "data_check.json")
        distributed.barrier()
        self._run_round(Round(0), self.manifest)
        for number in range(1, self.rounds + 1):
            labeller, result = self._label_cases(number)
            if self._is_converged(result):
                break
            manifest = write_round_manifest(self.manifest, labeller, self._folder(number) / "manifest.json")
            self._run_round(result, manifest)
        last = max(result.number for result in self.results if "training" in result.seconds)
        if self.is_main:
            copy_bundle(self._folder(last) / "bundle", bundle)
        distributed.barrier()
        self._write_report()
        if self.is_main and (advice := self._advice()) is not None:
            say(f"warning: {advice}")
        return self._result(last, bundle)

    def _result(self, number: int, bundle: Path) -> StageResult:
        """What a round made."""
        networks: dict[str, Path] = {view: self._folder(number, view) / "bundle" for view in self.views}
        maps: list[SavedMaps] = []
        if needs_maps(self.stage):
            for view in self.views:
                file, previous = self._folder(number, view) / MAPS, self._find_start(number, view)
                maps.append(SavedMaps(file, self.stage, self.spec.of_view(view), previous))
        return StageResult(bundle, networks, tuple(maps))

    def _folder(self, number: int, view: str = "") -> Path:
        return self.inputs.folder / f"round{number}" / view

    def _run_round(self, result: Round, manifest: Manifest) -> None:
        """Train the networks of a round, put them into one bundle, and score them."""
        number = result.number
        result.seconds["training"] = sum(self._train_network(number, view, manifest) for view in self.views)
        networks = self._folder(number) / "bundle"
        if self.is_main:
            single: dict[str, Path] = {view: self._folder(number, view) / "bundle" for view in self.views}
            name = self.inputs.pipeline.name
            write_joint_bundle(single, networks, self.spec, name=name, fusion=self.stage.fusion)
        distributed.barrier()
        scores = self._score_networks(number, networks, files_of(manifest)["validation"])
        seconds = scores.get("seconds", 0.0)
        self.time_left.done("scoring", seconds)
        result.dice = scores["dice"]
        result.classes = scores["classes"]
        result.seconds["scoring"] = seconds
        for view in scores["silent"]:
            self._warn(f"{self._name(number)}: the {view} network found nothing in any validation case")
        self.results.append(result)
        self._write_report()

    def _score_networks(self, number: int, networks: Path, files: dict[str, list[str]]) -> dict[str, Any]:
        """Scores of a round's networks on the validation cases, or those of an earlier command."""
        inputs = {"networks": digest_of(networks), "files": files}
        record = Record(self._folder(number) / "scores.json", inputs=inputs, settings={})
        scores = record.notes()
        distributed.barrier()
        if scores is None:
            self.time_left.say(f"{self._name(number)}: scoring")
            with report_stop(f"{self._place(number)}, while scoring", SAVED), self._open_voter(number) as voter:
                scores = score_round(voter, self.manifest, self.views)
            if self.is_main:
                scores = record.finish(scores)
        distributed.barrier()
        return scores

    def _train_network(self, number: int, view: View, manifest: Manifest) -> float:
        """Train one network, or find it trained; returns seconds."""
        folder = self._folder(number, view)
        stage = self._student_stage() if number > 0 else self.stage
        previous = self._find_start(number, view)
        sections = {*(stage.schedule.batch or {}), "validation"}
        inputs = {
            "files": {section: files for section, files in files_of(manifest).items() if section in sections},
            "previous": digest_of(previous) if previous else None,
        }
        settings = {
            "stage": self._settings_of_network(stage),
            "data": self.spec.of_view(view).model_dump(mode="json"),
            "seed": self.inputs.pipeline.seed,
        }
        products = [folder / "bundle", folder / MAPS] if needs_maps(self.stage) else [folder / "bundle"]
        record = Record(folder / RECORD, inputs=inputs, settings=settings, products=products)
        notes = record.notes()
        distributed.barrier()  # all have seen what is there before anything changes
        if notes is None:
            if self.is_main:
                record.begin(folder)
            distributed.barrier()
            self.time_left.say(f"{self._name(number)}: training the {view} network")
            run = self._stage_run(number, view, stage, manifest, record.key)
            with report_stop(f"{self._place(number)}, {view} network", SAVED):
                run.train(folder / "bundle", previous=previous, resume=True)
            notes = record.finish() if self.is_main else {"seconds": 0.0}
            distributed.barrier()
        self.time_left.done("training", notes["seconds"], student_share(self.stage) if number > 0 else 1.0)
        return float(notes["seconds"])

    def _settings_of_network(self, stage: Stage) -> dict[str, Any]:
        """The settings of a stage that a single network depends on."""
        return stage.model_dump(mode="json", exclude={"views", "rounds", "then", "fusion"})

    def _student_stage(self) -> Stage:
        """The stage as its students are trained, those that start from their teachers with a smaller learning rate."""
        schedule = self.stage.schedule
        changes: dict[str, Any] = {"iterations": self.stage.student_iterations}
        if self.has_warm_students:
            changes["lr"] = schedule.lr / 10
        return self.stage.model_copy(update={"schedule": schedule.model_copy(update=changes)})

    def _find_start(self, number: int, view: View) -> Path | None:
        """The bundle that a network of a round starts from."""
        if number > 0 and self.has_warm_students:
            return self._folder(number - 1, view) / "bundle"
        return self.previous.network(view) if self.previous else None

    def _stage_run(self, number: int, view: View, stage: Stage, manifest: Manifest, key: str) -> StageRun:
        stages = list(self.inputs.pipeline.stages)
        stages[self.inputs.index] = stage
        pipeline = self.inputs.pipeline.model_copy(update={"stages": tuple(stages)})
        inputs = replace(self.inputs, pipeline=pipeline, manifest=manifest, folder=self._folder(number, view))
        run = StageRun(inputs, fingerprint=key, view=view)
        run.title = f"{self._name(number)}, {view}"
        run.round = (number, self.rounds)
        run.note = partial(self.time_left.words, "training")
        return run

    def _name(self, number: int) -> str:
        return f"round {number} of {self.rounds}" if number else "teacher"

    def _place(self, number: int) -> str:
        return f"in round {number} of {self.rounds}" if number else "in the round of the teachers"

    def _label_cases(self, number: int) -> tuple[PseudoLabeller, Round]:
        """Make the pseudo-labels of a round."""
        assert self.stage.rounds is not None
        names = sorted(case.name for case in self.to_label)
        shown = list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))
        labeller = PseudoLabeller(
            number=number,
            folder=self._folder(number),
            before=self._folder(number - 1) if number > 1 else None,
            manifest=self.manifest,
            cases=self.to_label,
            shown=shown,
            rule=self.stage.rounds.rule,
        )
        self.time_left.say(f"{self._name(number)}: labelling {len(names)} cases")
        networks = Predictors.of_stage(self._result(number - 1, self._folder(number - 1) / "bundle"))
        with report_stop(self._place(number), SAVED):
            counts = labeller.run(networks, self.inputs.device, self.time_left)
            measured = measure_pseudo_labels(labeller, self.inputs.measured, self._name(number))
        statistics = summarize_round(counts, self.structures, self.views) | read_precision(labeller.folder)
        for line in [*cautions_of_round(statistics), *low_precision(statistics)]:
            self._warn(f"round {number}: {line}")
        statistics |= measured
        slices = {case.name: labeller.slices(case) for case in self.to_label if case.name in shown}
        seconds = {"labelling": sum(case["seconds"] for case in counts.values())}
        added = choose_added(self.manifest, self.to_label, counts)
        return labeller, Round(number, statistics, slices=slices, seconds=seconds, added=added)

    def _is_converged(self, result: Round) -> bool:
        """Whether the pseudo-labels hardly change any more, so that the networks before them are the last."""
        limit = self.stage.rounds.stop_dice if self.stage.rounds else None
        dice = (result.pseudo or {})["dice_to_last"]
        if limit is None or dice is None or dice <= limit:
            return False
        self._warn(f"ended before round {result.number}: its pseudo-labels have a Dice of {dice:.4f} with those before")
        self.time_left.skip()
        self.results.append(result)
        return True

    def _open_voter(self, number: int) -> Voter:
        return Voter(self._folder(number) / "bundle", self.inputs.device, full=self.stage.fusion == "mean")

    @cached_property
    def _annotated_volumes_ml(self) -> dict[str, float]:
        return mean_volumes_ml(self.manifest) if self.rounds else {}

    def _warn(self, line: str) -> None:
        """Print a warning now, and keep it for the report."""
        self.warnings.append(line)
        if self.is_main:
            say(f"warning: {line}")

    def _advice(self) -> str | None:
        fused = {result.number: result.dice.get("fused") for result in self.results}
        return advise(fused, self._score, self.inputs.folder.name)

    @property
    def _score(self) -> str:
        return "recall" if self.spec.target == "images" else "Dice"

    def _write_report(self) -> None:
        if not self.is_main:
            return
        case_counts = {name: len(cases) for name, cases in files_of(self.manifest).items()}
        description = RunDescription(
            self.inputs.pipeline.name,
            self.views,
            self.structures,
            self.rounds,
            case_counts,
            set(self.spec.modality) == {"CT"},
            tuple(self.warnings),
            self._annotated_volumes_ml,
            self._score,
            "ml" if unit_of(file for case in self.manifest.cases for file in case.image) == "mm" else "thousand pixels",
            self._advice(),
        )
        write_summary(self.inputs.folder, self.results, description)
