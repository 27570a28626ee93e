"""Rounds: teachers, pseudo-labels by their votes, students on both, as one-network runs in a row.

Every piece of work (the training of one network, the pseudo-label of one case, the scores of one round) knows by
content what it was made of, so that a run that was killed anywhere goes on with what is missing and ends the same.

    round0/              the teachers: axial/, coronal/, ..., and bundle/ with all of them
    round1/pseudo/       label files of the unlabelled cases, by the networks of round 0
    round1/manifest.json labelled cases as they are, and these
    round1/axial/ ...    the students, and bundle/ with all of them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from medseg.atomic import make_folder
from medseg.bundle.join import copy_bundle, write_joint_bundle
from medseg.config import DataSpec, Pipeline, Stage, View
from medseg.engine import distributed
from medseg.manifest.manifest import Manifest, streams_of
from medseg.records import Piece, digest_of
from medseg.stopping import told_when_stopped
from medseg.workflows.train.build import one_of_view
from medseg.workflows.train.self_training.check_data import check_rounds, files_of, warn
from medseg.workflows.train.self_training.predict_views import Voter
from medseg.workflows.train.self_training.pseudo_label_statistics import figures
from medseg.workflows.train.self_training.pseudo_labels import Labeller, round_manifest
from medseg.workflows.train.self_training.report import Round, RunDescription, write_summary
from medseg.workflows.train.self_training.time_left import WARM_PART, TimeLeft, relabeller, trainings
from medseg.workflows.train.self_training.validation_scores import drawn_ml, score_round
from medseg.workflows.train.stage import StageRun

SAVED = "what is finished is saved"


@dataclass(frozen=True)
class Product:
    """What a stage made: its bundle, and the bundles of its single networks."""

    bundle: Path
    networks: Mapping[str, Path]

    def network(self, view: str | None) -> Path:
        """The bundle that a network of a view can start from.

        Raises:
            ConfigError: the stage had several networks, none of that view.
        """
        return one_of_view(self.networks, view)


class RoundsRun:
    """Trains a stage of several views or rounds.

    Args:
        pipeline: resolved, nothing left to plan.
        index: of the stage.
        manifest: the data set.
        folder: of the stage.
        device: where it trains and predicts.
        cache: folder of preprocessed volumes.
        previous: what the stage before made, where this one starts from it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        index: int,
        manifest: Manifest,
        folder: Path,
        device: torch.device,
        *,
        cache: Path,
        previous: Product | None = None,
    ) -> None:
        self.pipeline, self.index, self.stage = pipeline, index, pipeline.stages[index]
        self.manifest, self.folder, self.device, self.cache = manifest, folder, device, cache
        self.previous = previous
        self.spec = DataSpec(**pipeline.data)
        self.views: tuple[View, ...] = self.stage.views or (self.spec.view,)
        self.unlabeled = streams_of(manifest)["unlabeled"]
        self.rounds = self.stage.rounds if self.unlabeled else 0
        self.main = distributed.rank() == 0
        self.method = relabeller(self.stage, self.spec.classes)
        self.results: list[Round] = []
        self.notes: list[str] = []
        self.outlook = TimeLeft(self._plan(), shown=self.main)

    def _plan(self) -> dict[str, float]:
        """Pieces of each kind in the whole run."""
        return {
            "training": trainings(self.stage, len(self.unlabeled)),
            "labelling": len(self.unlabeled) * self.rounds,
            "scoring": 1.0 + self.rounds,
        }

    def train(self, bundle: Path) -> Product:
        """Train until `bundle` holds the networks of the last round; what is finished is not done again.

        Raises:
            MedsegError: data that cannot be used, or a place that cannot be written.
            Stopped: by a signal.
        """
        if self.stage.rounds and not self.unlabeled:
            self._note("there is no unlabelled case: only the teachers are trained, which is supervised learning")
        if self.main:
            make_folder(self.folder)
            self.notes += check_rounds(self.manifest, self.folder / "data_check.json")
        distributed.barrier()
        self._learn(Round(0), self.manifest)
        for number in range(1, self.rounds + 1):
            labeller, result = self._label(number)
            if self._settled(result):
                break
            self._learn(result, round_manifest(self.manifest, labeller, self._folder(number) / "manifest.json"))
        last = max(result.number for result in self.results if "training" in result.seconds)
        if self.main:
            copy_bundle(self._folder(last) / "bundle", bundle)
        distributed.barrier()
        self._summarize()
        return Product(bundle, {view: self._folder(last, view) / "bundle" for view in self.views})

    def _folder(self, number: int, view: str = "") -> Path:
        return self.folder / f"round{number}" / view

    def _learn(self, result: Round, manifest: Manifest) -> None:
        """Train the networks of a round, put them into one bundle, and score them."""
        number = result.number
        result.seconds["training"] = sum(self._network(number, view, manifest) for view in self.views)
        networks = self._folder(number) / "bundle"
        if self.main:
            single: dict[str, Path] = {view: self._folder(number, view) / "bundle" for view in self.views}
            write_joint_bundle(single, networks, self.spec, name=self.pipeline.name, fusion=self.method.fusion)
        distributed.barrier()
        made_of = {"networks": digest_of(networks), "files": files_of(manifest)["validation"]}
        piece = Piece(self._folder(number) / "scores.json", made_of, ())
        notes = piece.notes()
        distributed.barrier()
        if notes is None:
            self.outlook.say(f"{self._name(number)}: scoring")
            with told_when_stopped(f"{self._place(number)}, while scoring", SAVED), self._voter(number) as voter:
                scores = score_round(voter, self.manifest, self.views)
            notes = piece.finish(scores) if self.main else scores
        distributed.barrier()
        self.outlook.done("scoring", notes.get("seconds", 0.0))
        result.dice, result.classes = notes["dice"], notes["classes"]
        result.seconds["scoring"] = notes.get("seconds", 0.0)
        for view in notes["silent"]:
            self._note(f"{self._name(number)}: the {view} network found nothing in any validation case")
        self.results.append(result)
        self._summarize()

    def _network(self, number: int, view: View, manifest: Manifest) -> float:
        """Train one network, or find it trained; returns seconds."""
        folder = self._folder(number, view)
        stage, previous = self._student(number, view)
        wanted = {*(stage.schedule.batch or {}), "validation"}
        made_of = {
            "stage": self._learned_by(stage),
            "data": self.spec.of_view(view).model_dump(mode="json"),
            "seed": self.pipeline.seed,
            "files": {k: v for k, v in files_of(manifest).items() if k in wanted},
            "previous": digest_of(previous) if previous else None,
        }
        piece = Piece(folder / "piece.json", made_of, [folder / "bundle"])
        notes, size = piece.notes(), WARM_PART if number and self.method.warm_students else 1.0
        distributed.barrier()  # all have seen what is there before anything changes
        if notes is None:
            if self.main:
                piece.begin(folder)
            distributed.barrier()
            self.outlook.say(f"{self._name(number)}: training the {view} network")
            run = self._stage_run(number, view, stage, manifest, piece.key)
            with told_when_stopped(f"{self._place(number)}, {view} network", SAVED):
                run.train(folder / "bundle", previous=previous, resume=True)
            notes = piece.finish() if self.main else {"seconds": 0.0}
            distributed.barrier()
        self.outlook.done("training", notes["seconds"], size)
        return float(notes["seconds"])

    def _learned_by(self, stage: Stage) -> dict[str, Any]:
        """What of a stage matters to a single network."""
        found = stage.model_dump(mode="json", exclude={"views", "rounds"})
        options = found["method"]["options"]
        found["method"]["options"] = {k: v for k, v in options.items() if k not in self.method.rule_options}
        return found

    def _student(self, number: int, view: View) -> tuple[Stage, Path | None]:
        """The stage of a round's network, and the bundle that it starts from."""
        if number and self.method.warm_students:
            schedule = self.stage.schedule
            changes = {"iterations": max(1, int(schedule.iterations * WARM_PART)), "lr": schedule.lr / 10}
            stage = self.stage.model_copy(update={"schedule": schedule.model_copy(update=changes)})
            return stage, self._folder(number - 1, view) / "bundle"
        return self.stage, self.previous.network(view) if self.previous else None

    def _stage_run(self, number: int, view: View, stage: Stage, manifest: Manifest, key: str) -> StageRun:
        stages = tuple(stage if i == self.index else each for i, each in enumerate(self.pipeline.stages))
        pipeline = self.pipeline.model_copy(update={"stages": stages})
        run = StageRun(
            pipeline, self.index, manifest, self._folder(number, view), self.device,
            fingerprint=key, cache=self.cache, view=view,
        )  # fmt: skip
        run.title = f"{self._name(number)}, {view}"
        run.aside = partial(self.outlook.words, "training")
        return run

    def _name(self, number: int) -> str:
        return f"round {number} of {self.rounds}" if number else "teacher"

    def _place(self, number: int) -> str:
        return f"in round {number} of {self.rounds}" if number else "in the round of the teachers"

    def _label(self, number: int) -> tuple[Labeller, Round]:
        """Make the pseudo-labels of a round."""
        names = sorted(case.name for case in self.unlabeled)
        shown = list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))
        labeller = Labeller(
            number=number,
            folder=self._folder(number),
            before=self._folder(number - 1) if number > 1 else None,
            manifest=self.manifest,
            cases=self.unlabeled,
            shown=shown,
            rule=self._rule,
        )
        self.outlook.say(f"{self._name(number)}: labelling {len(names)} cases")
        networks = self._folder(number - 1) / "bundle"
        with told_when_stopped(self._place(number), SAVED):
            counts = labeller.run(networks, self.method, partial(self._voter, number - 1), self.outlook)
        found = figures(counts, self._structures, self.views)
        for view in found["silent"]:
            self._note(f"round {number}: the {view} network found nothing but background in any unlabelled case")
        if found["empty"]:
            which = ", ".join(found["empty"])
            self._note(f"round {number}: {len(found['empty'])} unlabelled cases without any structure: {which}")
        pictures = {case.name: labeller.picture(case) for case in self.unlabeled if case.name in shown}
        seconds = {"labelling": sum(c["seconds"] for c in counts.values())}
        return labeller, Round(number, found, slices=pictures, seconds=seconds)

    @property
    def _rule(self) -> dict[str, Any]:
        """What the pseudo-labels of a round depend on beside the votes."""
        method = self.stage.method
        file = {"sha256": method.sha256} if method.sha256 else {}
        return {"method": method.name, **method.options, **file}

    def _settled(self, result: Round) -> bool:
        """Whether the pseudo-labels have come to rest, so that the networks before them are the last."""
        limit, dice = self.method.stop_dice, (result.pseudo or {})["dice_to_last"]
        if limit is None or dice is None or dice <= limit:
            return False
        self._note(f"ended before round {result.number}: its pseudo-labels have a Dice of {dice:.4f} with those before")
        self.outlook.skip()
        self.results.append(result)
        return True

    def _voter(self, number: int) -> Voter:
        return Voter(self._folder(number) / "bundle", self.device, full=self.method.fusion == "mean")

    @property
    def _structures(self) -> tuple[str, ...]:
        return tuple(self.spec.labels[value] for value in self.spec.label_values[1:])

    @cached_property
    def _drawn(self) -> dict[str, float]:
        return drawn_ml(self.manifest) if self.rounds else {}

    def _note(self, line: str) -> None:
        """Say a warning now, and on the page."""
        self.notes.append(line)
        if self.main:
            warn(line)

    def _summarize(self) -> None:
        if not self.main:
            return
        counts = {name: len(cases) for name, cases in files_of(self.manifest).items()}
        ct = set(self.spec.modality) == {"CT"}
        description = RunDescription(
            self.pipeline.name, self.views, self._structures, self.rounds, counts, ct, tuple(self.notes), self._drawn
        )
        write_summary(self.folder, self.results, description)
