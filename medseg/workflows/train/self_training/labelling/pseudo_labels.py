"""Pseudo-labels: predictions on every case without a label, a rule applied to them, written and counted.

A rule that looks at the whole data set first (`PseudoLabels.looks_at_all`) has a first pass over all cases. What the
networks predict then lies on disk until the case is labelled, so that no case is predicted twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg import methods
from medseg.atomic import make_folder
from medseg.config.between_runs import RuleSpec
from medseg.engine import distributed
from medseg.errors import ConfigError, OutputError
from medseg.manifest.manifest import Case, Manifest
from medseg.method import IGNORE, LabelAndMaps, Predictions, PseudoLabels
from medseg.portable.io.read import Header, read_header, read_volume
from medseg.portable.io.write import SaveError, is_flat, remove_leftovers, write_nifti
from medseg.progress import Count
from medseg.records import Record, digest_of
from medseg.stopping import report_stop
from medseg.workflows.train.self_training.labelling.choose_options import choose_options
from medseg.workflows.train.self_training.labelling.outcome import LEFT_OUT, notes_of, tell_outcome
from medseg.workflows.train.self_training.labelling.precision import judge_rule
from medseg.workflows.train.self_training.labelling.predict_maps import IMAGE, Predictors
from medseg.workflows.train.self_training.labelling.prediction_store import PredictionStore
from medseg.workflows.train.self_training.labelling.pseudo_label_statistics import Counts, count_case
from medseg.workflows.train.self_training.labelling.rules import rule_for
from medseg.workflows.train.self_training.report.figures import keep_slices
from medseg.workflows.train.self_training.report.map_slices import (
    KEPT,
    evenly_chosen,
    fullest_place,
    keep_map_slice,
    map_slice,
)
from medseg.workflows.train.self_training.time_left import TimeLeft

PSEUDO = "pseudo"
SUMMARIES = "summaries"


@dataclass(frozen=True)
class PseudoLabeller:
    """Makes pseudo-labels by a rule: those of one round, or those for the next stage.

    Args:
        number: of the round, from 1.
        folder: of the round; `PSEUDO` in it holds the labels.
        before: folder of the round before, if it had pseudo-labels.
        manifest: whose cases are labelled.
        cases: which ones; their labels, if there are any, are never opened.
        shown: names of those that slices are kept of, for the report.
        rule: by which predictions become labels.
    """

    number: int
    folder: Path
    before: Path | None
    manifest: Manifest
    cases: Sequence[Case]
    shown: Sequence[str]
    rule: RuleSpec

    def file(self, case: Case) -> Path:
        """Where the pseudo-label of a case is."""
        return self.folder / PSEUDO / f"{case.name}.nii.gz"

    def slices(self, case: Case) -> Path:
        """Where the slices of a case are that the report shows."""
        return self.folder / PSEUDO / f"{case.name}.npz"

    def map_slice(self, case: Case) -> Path:
        """Where a slice of each class's map of a case is kept that the sheet shows."""
        return self.folder / PSEUDO / f"{case.name}_maps.npz"

    def made_map(self, case: Case, name: str) -> Path:
        """Where a further map of a case is that the rule makes."""
        return self.folder / PSEUDO / f"{case.name}_{name}.nii.gz"

    def run(self, networks: Predictors, device: torch.device, time_left: TimeLeft) -> dict[str, Counts]:
        """Label what is not labelled yet by these very networks.

        Args:
            networks: of the round before, or of this stage.
            device: where they predict.
            time_left: updated after each case.

        Returns:
            Case -> its counts; a case that the rule leaves without a label is not among them.

        Raises:
            DataError: an image that cannot be predicted.
            OutputError: a pseudo-label that cannot be written; what is there is whole, and a resumed run goes on.
        """
        make_folder(self.folder / PSEUDO)
        chosen = choose_options(self.rule, networks, device, self.manifest, self.folder, self.number)
        if chosen != self.rule:
            return replace(self, rule=chosen).run(networks, device, time_left)
        rule = rule_for(self.manifest, self.rule)
        with PredictionStore(networks, device, rule, self.folder / "predictions") as store:
            decided = self._decide(rule, store, networks) if rule.looks_at_all else {}
            if rule.is_judged:
                decided = judge_rule(rule, decided, store, self.manifest, self.folder, self.number)
            records = {case.name: self._record(case, networks, decided) for case in self.cases}
            missing = self._find_missing(records, time_left)
            share = missing[distributed.rank() :: distributed.world()]
            count = Count("labelling", total=len(share))
            with report_stop(count.where):
                for case in share:
                    seconds = self._label(case, records[case.name], rule, decided, store)
                    count.done += 1
                    time_left.done("labelling", seconds)
                    time_left.say(f"round {self.number}: labelled {case.name}", now=False)
            distributed.barrier()
        notes = {name: record.notes() or {} for name, record in records.items()}
        if missing and rule.needs == "maps" and distributed.rank() == 0:
            tell_outcome(self.manifest, notes)
        return {name: counts for name, counts in notes.items() if "fused" in counts}

    def _decide(self, rule: PseudoLabels, store: PredictionStore, networks: Predictors) -> dict[str, Any]:
        """The first pass: summaries of all cases, and what the rule decides of them."""
        folder = make_folder(self.folder / SUMMARIES)
        records: dict[str, Record] = {}
        for case in self.cases:
            inputs = {"images": self._digest_images(case), "networks": networks.digest}
            settings = self._settings(case)
            records[case.name] = Record(folder / f"{case.name}.json", inputs=inputs, settings=settings)
        missing = [case for case in self.cases if records[case.name].notes() is None]
        distributed.barrier()  # all have seen what is there before anything changes
        for case in missing[distributed.rank() :: distributed.world()]:
            records[case.name].begin()
            records[case.name].finish({"summary": rule.summarize(store.predict(self.manifest, case))})
        distributed.barrier()
        summaries = {name: (record.notes() or {})["summary"] for name, record in records.items()}
        return rule.decide(summaries)

    def _find_missing(self, records: Mapping[str, Record], time_left: TimeLeft) -> list[Case]:
        """Cases that no earlier command has labelled."""
        missing = []
        for case in self.cases:
            notes = records[case.name].notes()
            if notes is None:
                missing.append(case)
            else:
                time_left.done("labelling", notes["seconds"])
        distributed.barrier()  # all have seen what is there before anything changes
        if distributed.rank() == 0:
            remove_leftovers(self.folder / PSEUDO)
        return missing

    def _label(
        self, case: Case, record: Record, rule: PseudoLabels, decided: Mapping[str, Any], store: PredictionStore
    ) -> float:
        """Label one case; returns the seconds it took."""
        began = time.monotonic()
        record.begin()
        for file in self._files(case):  # of other networks
            file.unlink(missing_ok=True)
        predicted = store.predict(self.manifest, case)
        made = rule.label(predicted, decided, self.number)
        if isinstance(made, Tensor):
            made = LabelAndMaps(made, {})
        notes = notes_of(rule, predicted, made)
        if made is not None and LEFT_OUT not in notes:
            self._check_maps(case, made)
            notes |= self._write_case(case, predicted, made)
        seconds = round(time.monotonic() - began, 3)
        self._with_products(record, case).finish({**notes, "seconds": seconds})
        store.forget(case)
        return seconds

    def _record(self, case: Case, networks: Predictors, decided: Mapping[str, Any]) -> Record:
        earlier = self._find_earlier(case, ".nii.gz")
        inputs = {
            "images": self._digest_images(case),
            "networks": networks.digest,
            "before": digest_of(earlier) if earlier else None,
        }
        settings = {
            **self._settings(case),
            "round": self.number,
            "ignore": self.manifest.ignore_index,
            "shown": case.name in self.shown,
        }
        if decided:
            settings["decided"] = dict(decided)
        file = self.folder / PSEUDO / f"{case.name}.json"
        return self._with_products(Record(file, inputs=inputs, settings=settings), case)

    def _with_products(self, record: Record, case: Case) -> Record:
        """The record with what is there of a case: its label, unless the rule left it without one."""
        record.products = tuple(file for file in self._files(case) if file.exists())
        return record

    def _files(self, case: Case) -> list[Path]:
        """The files of a case that labelling makes."""
        names = methods.find_rule(self.rule.name).makes
        made = [self.made_map(case, name) for name in names]
        return [self.file(case), self.slices(case), self.map_slice(case), *made]

    def _check_maps(self, case: Case, made: LabelAndMaps) -> None:
        """Refuse maps that the rule does not announce, and see that those are there."""
        announced = methods.find_rule(self.rule.name).makes
        if set(made.maps) != set(announced):
            found, wanted = ", ".join(sorted(made.maps)) or "none", ", ".join(announced) or "none"
            raise ConfigError(f"rule {self.rule.name} made the maps {found} of {case.name}; it announces {wanted}")

    def _settings(self, case: Case) -> dict[str, Any]:
        settings: dict[str, Any] = {"case": case.name, "rule": self.rule.model_dump(mode="json")}
        presence = self.manifest.presence(case)
        inputs = methods.find_rule(self.rule.name).inputs
        if inputs:
            files = {name: self.manifest.resolve(case.maps[name]) for name in inputs if name != IMAGE}
            settings["maps"] = {name: digest_of(file) for name, file in files.items()}
        if presence is not None:
            settings["tags"] = {str(index): there for index, there in presence.items()}
        return settings

    def _digest_images(self, case: Case) -> list[str]:
        return [digest_of(path) for path in self.manifest.images(case)]

    def _find_earlier(self, case: Case, suffix: str) -> Path | None:
        """The file of a case in the round before, if there is one."""
        if self.before is None:
            return None
        path = self.before / PSEUDO / f"{case.name}{suffix}"
        return path if path.exists() else None

    def _write_case(self, case: Case, predicted: Predictions, made: LabelAndMaps) -> Counts:
        """Write what the rule made of a case on its file's grid, and its slices; returns what was counted."""
        image = self.manifest.images(case)[0]
        grid = read_header(image)
        fused = made.label.numpy()
        self._write(self.file(case), image, grid, self._label_values()[fused], is_label=True)
        for name, values in made.maps.items():
            self._write(self.made_map(case, name), image, grid, values.float().numpy(), is_label=False)
        labels = [label.numpy() for label in predicted.labels]
        self._keep_map_slice(case, predicted, fused)
        if case.name in self.shown:
            keep_slices(self.slices(case), image, labels, fused, self._find_earlier(case, ".npz"))
        voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
        earlier = self._find_earlier(case, ".nii.gz")
        before = self._read_classes(earlier) if earlier else None
        return count_case(
            labels,
            fused,
            classes=len(self.manifest.labels),
            voxel_ml=voxel_ml,
            before=before,
            has_background=self.manifest.has_background,
        )

    def _keep_map_slice(self, case: Case, predicted: Predictions, fused: np.ndarray) -> None:
        """Of some cases keep what the sheet shows of the maps that the rule looked at."""
        names = {each.name for each in evenly_chosen(self.cases, KEPT)}
        if not predicted.maps or case.name not in names or not self.manifest.has_background:
            return
        classes = len(self.manifest.labels)
        place = fullest_place(fused, range(1, classes))
        shown = map_slice(predicted.maps[0], classes, place, predicted.tags)
        if shown is not None:
            keep_map_slice(self.map_slice(case), shown)

    def _write(self, path: Path, image: Path, grid: Header, stored: np.ndarray, *, is_label: bool) -> None:
        try:
            if is_flat(image, stored.shape):
                stored = stored[..., 0]
            intent, text = ("label", "medseg pseudo-label") if is_label else ("none", "medseg map")
            write_nifti(path, stored, grid.affine, source=grid.nifti, intent=intent, description=text)
        except SaveError as error:
            hint = "free some space; --resume goes on with this case"
            raise OutputError(error.problem, path=path, hint=hint) from error

    def _label_values(self) -> np.ndarray:
        """Class index -> value in label files."""
        ignore = self.manifest.ignore_index
        fits_byte = 0 <= ignore <= IGNORE
        table = np.zeros(IGNORE + 1, np.uint8 if fits_byte else np.int32)
        table[: len(self.manifest.labels)] = self.manifest.label_values
        table[IGNORE] = ignore
        return table

    def _read_classes(self, path: Path) -> np.ndarray:
        """A pseudo-label file as class indices."""
        stored, _ = read_volume(path)
        fused = np.full(stored.shape[1:], IGNORE, np.uint8)
        for index, value in enumerate(self.manifest.label_values):
            fused[stored[0] == value] = index
        return fused
