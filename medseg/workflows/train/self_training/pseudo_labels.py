"""Pseudo-labels: predictions on every case without a label, a rule applied to them, written and counted.

A rule that looks at the whole data set first (`PseudoLabels.looks_at_all`) has a first pass over all cases. What the
networks predict then lies on disk until the case is labelled, so that no case is predicted twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg import methods
from medseg.atomic import make_folder
from medseg.config import RuleSpec
from medseg.engine import distributed
from medseg.errors import OutputError
from medseg.manifest.manifest import Case, Manifest
from medseg.method import IGNORE, Predictions, PseudoLabels
from medseg.portable.io.read import Header, read_header, read_volume
from medseg.portable.io.write import SaveError, is_flat, remove_leftovers, write_nifti
from medseg.progress import Count
from medseg.records import Record, digest_of
from medseg.stopping import report_stop
from medseg.workflows.train.self_training.prediction_store import PredictionStore
from medseg.workflows.train.self_training.pseudo_label_statistics import Counts, count_case
from medseg.workflows.train.self_training.report_figures import keep_slices
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

    def run(self, networks: Path, device: torch.device, time_left: TimeLeft) -> dict[str, Counts]:
        """Label what is not labelled yet by these very networks.

        Args:
            networks: bundle of the round before.
            device: where they predict.
            time_left: updated after each case.

        Returns:
            Case -> its counts; a case that the rule leaves without a label is not among them.

        Raises:
            DataError: an image that cannot be predicted.
            OutputError: a pseudo-label that cannot be written; what is there is whole, and a resumed run goes on.
        """
        make_folder(self.folder / PSEUDO)
        rule = methods.build_rule(self.rule.name, len(self.manifest.labels), **self.rule.options)
        with PredictionStore(networks, device, rule, self.folder / "predictions") as store:
            decided = self._decide(rule, store, networks) if rule.looks_at_all else {}
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
        return {name: counts for name, counts in notes.items() if "fused" in counts}

    def _decide(self, rule: PseudoLabels, store: PredictionStore, networks: Path) -> dict[str, Any]:
        """The first pass: summaries of all cases, and what the rule decides of them."""
        folder = make_folder(self.folder / SUMMARIES)
        records: dict[str, Record] = {}
        for case in self.cases:
            inputs = {"images": self._digest_images(case), "networks": digest_of(networks)}
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
        for file in (self.file(case), self.slices(case)):  # of other networks
            file.unlink(missing_ok=True)
        predicted = store.predict(self.manifest, case)
        label = rule.label(predicted, decided, self.number)
        counts = {} if label is None else self._write_case(case, predicted, label.numpy())
        seconds = round(time.monotonic() - began, 3)
        self._with_products(record, case).finish({**counts, "seconds": seconds})
        store.forget(case)
        return seconds

    def _record(self, case: Case, networks: Path, decided: Mapping[str, Any]) -> Record:
        earlier = self._find_earlier(case, ".nii.gz")
        inputs = {
            "images": self._digest_images(case),
            "networks": digest_of(networks),
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
        record.products = tuple(file for file in (self.file(case), self.slices(case)) if file.exists())
        return record

    def _settings(self, case: Case) -> dict[str, Any]:
        settings: dict[str, Any] = {"case": case.name, "rule": self.rule.model_dump(mode="json")}
        presence = self.manifest.presence(case)
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

    def _write_case(self, case: Case, predicted: Predictions, fused: np.ndarray) -> Counts:
        """Write the pseudo-label of a case on its file's grid, and its slices; returns what was counted."""
        image = self.manifest.images(case)[0]
        grid = read_header(image)
        self._write_label(case, image, grid, fused)
        labels = [label.numpy() for label in predicted.labels]
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

    def _write_label(self, case: Case, image: Path, grid: Header, fused: np.ndarray) -> None:
        path = self.file(case)
        stored = self._label_values()[fused]
        try:
            if is_flat(image, fused.shape):
                stored = stored[..., 0]
            text = "medseg pseudo-label"
            write_nifti(path, stored, grid.affine, source=grid.nifti, intent="label", description=text)
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


def write_round_manifest(manifest: Manifest, labeller: PseudoLabeller, path: Path) -> Manifest:
    """The data set after labelling: cases with labels as they are, others with pseudo-labels, marked `pseudo`.

    A case that the rule left without a label stays where it is.

    Args:
        manifest: of the run.
        labeller: knows where the pseudo-labels are.
        path: where it is written.
    """
    labelled: dict[str, Case] = {}
    for case in labeller.cases:
        file = labeller.file(case)
        if file.exists():
            labelled[case.name] = _with_pseudo_label(manifest, case, file)
    training = tuple(case for case in manifest.training if case.name not in labelled)
    unlabeled = tuple(case for case in manifest.unlabeled if case.name not in labelled)
    new = manifest.model_copy(update={"training": (*training, *labelled.values()), "unlabeled": unlabeled})
    if distributed.rank() == 0:
        new.save(path)
    distributed.barrier()
    return Manifest.load(path)


def _with_pseudo_label(manifest: Manifest, case: Case, file: Path) -> Case:
    fields = case.model_dump(exclude_unset=True, exclude={"annotations", "classes", "tags"})
    fields["case"] = case.name
    fields["label"] = manifest.relative(file.absolute(), manifest.path.parent)
    fields["pseudo"] = True
    return Case(**fields)
