"""Pseudo-labels of a round: the votes of all views on every unlabelled case, fused, written and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import make_folder
from medseg.engine import distributed
from medseg.errors import DataError, OutputError
from medseg.manifest.manifest import Case, Manifest
from medseg.method import IGNORE, Method, Votes
from medseg.portable.io.read import Header, read_header, read_volume
from medseg.portable.io.write import SaveError, is_flat, remove_leftovers, write_nifti
from medseg.progress import Count
from medseg.records import Record, digest_of
from medseg.stopping import report_stop
from medseg.workflows.train.self_training.predict_views import Voter
from medseg.workflows.train.self_training.pseudo_label_statistics import Counts, count_case
from medseg.workflows.train.self_training.report_figures import keep_slices
from medseg.workflows.train.self_training.time_left import TimeLeft

PSEUDO = "pseudo"


@dataclass(frozen=True)
class PseudoLabeller:
    """Makes the pseudo-labels of one round.

    Args:
        number: of the round, from 1.
        folder: of the round.
        before: folder of the round before, if it had pseudo-labels.
        manifest: whose cases are labelled.
        cases: which ones; their labels, if there are any, are never opened.
        shown: names of those that slices are kept of, for the report.
        rule: what the fusion depends on, as plain values.
    """

    number: int
    folder: Path
    before: Path | None
    manifest: Manifest
    cases: Sequence[Case]
    shown: Sequence[str]
    rule: Mapping[str, Any]

    def file(self, case: Case) -> Path:
        """Where the pseudo-label of a case is."""
        return self.folder / PSEUDO / f"{case.name}.nii.gz"

    def slices(self, case: Case) -> Path:
        """Where the slices of a case are that the report shows."""
        return self.folder / PSEUDO / f"{case.name}.npz"

    def run(
        self, networks: Path, method: Method, open_voter: Callable[[], Voter], time_left: TimeLeft
    ) -> dict[str, Counts]:
        """Label what is not labelled yet by these very networks.

        Args:
            networks: bundle of the round before.
            method: whose `relabel` fuses.
            open_voter: opens the bundle, which is not done where nothing is left to do.
            time_left: updated after each case.

        Returns:
            Case -> its counts.

        Raises:
            DataError: an image that cannot be predicted.
            OutputError: a pseudo-label that cannot be written; what is there is whole, and a resumed run goes on.
        """
        make_folder(self.folder / PSEUDO)
        records = {case.name: self._record(case, networks) for case in self.cases}
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
        share = missing[distributed.rank() :: distributed.world()]
        if share:
            with open_voter() as voter:
                self._label(share, records, method, voter, time_left)
        distributed.barrier()
        return {name: record.notes() or {} for name, record in records.items()}

    def _label(
        self, cases: Sequence[Case], records: Mapping[str, Record], method: Method, voter: Voter, time_left: TimeLeft
    ) -> None:
        votes = LazyVotes(voter, [self.manifest.images(case) for case in cases])
        count = Count("labelling", total=len(cases))
        began = time.monotonic()
        with report_stop(count.where):
            for number, (case, fused) in enumerate(zip(cases, method.relabel(votes, self.number), strict=True)):
                record = records[case.name]
                record.begin()
                counts = self._write_case(case, votes[number], fused.numpy())
                seconds = round(time.monotonic() - began, 3)
                record.finish({**counts, "seconds": seconds})
                count.done += 1
                time_left.done("labelling", seconds)
                time_left.say(f"round {self.number}: labelled {case.name}", now=False)
                began = time.monotonic()

    def _record(self, case: Case, networks: Path) -> Record:
        earlier = self._find_earlier(case, ".nii.gz")
        inputs = {
            "images": [digest_of(path) for path in self.manifest.images(case)],
            "networks": digest_of(networks),
            "before": digest_of(earlier) if earlier else None,
        }
        settings = {
            "case": case.name,
            "round": self.number,
            "rule": dict(self.rule),
            "ignore": self.manifest.ignore_index,
            "shown": case.name in self.shown,
        }
        products = [self.file(case)]
        if case.name in self.shown:
            products.append(self.slices(case))
        file = self.folder / PSEUDO / f"{case.name}.json"
        return Record(file, inputs=inputs, settings=settings, products=products)

    def _find_earlier(self, case: Case, suffix: str) -> Path | None:
        """The file of a case in the round before, if there is one."""
        if self.before is None:
            return None
        path = self.before / PSEUDO / f"{case.name}{suffix}"
        return path if path.exists() else None

    def _write_case(self, case: Case, votes: Votes, fused: np.ndarray) -> Counts:
        """Write the pseudo-label of a case on its file's grid, and its slices; returns what was counted."""
        image = self.manifest.images(case)[0]
        grid = read_header(image)
        self._write_label(case, image, grid, fused)
        labels = [label.numpy() for label in votes.labels]
        if case.name in self.shown:
            keep_slices(self.slices(case), image, labels, fused, self._find_earlier(case, ".npz"))
        voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
        earlier = self._find_earlier(case, ".nii.gz")
        before = self._read_classes(earlier) if earlier else None
        return count_case(labels, fused, classes=len(self.manifest.labels), voxel_ml=voxel_ml, before=before)

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


class LazyVotes(Sequence[Votes]):
    """The votes of cases, each predicted when it is indexed; the last one is kept."""

    def __init__(self, voter: Voter, images: Sequence[tuple[Path, ...]]) -> None:
        self.voter, self.images = voter, images
        self._last: tuple[int, Votes] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise TypeError("votes are predicted for one case at a time")
        if not 0 <= index < len(self.images):
            raise IndexError(index)
        if self._last is None or self._last[0] != index:
            self._last = None  # two cases at once would need twice the memory
            self._last = (index, self.voter(self.images[index]))
        return self._last[1]


def write_round_manifest(manifest: Manifest, labeller: PseudoLabeller, path: Path) -> Manifest:
    """The data set of a round: cases with labels as they are, the others with pseudo-labels, marked `pseudo`.

    Args:
        manifest: of the run.
        labeller: knows where the pseudo-labels are.
        path: where it is written.

    Raises:
        DataError: a case without a pseudo-label.
    """
    names = {case.name for case in labeller.cases}
    annotated = [case for case in manifest.training if case.name not in names]
    pseudo_labelled = [_with_pseudo_label(manifest, case, labeller.file(case)) for case in labeller.cases]
    new = manifest.model_copy(update={"training": (*annotated, *pseudo_labelled), "unlabeled": ()})
    if distributed.rank() == 0:
        new.save(path)
    distributed.barrier()
    return Manifest.load(path)


def _with_pseudo_label(manifest: Manifest, case: Case, file: Path) -> Case:
    if not file.exists():
        raise DataError("there is no pseudo-label", path=file, hint="--resume makes it")
    fields = case.model_dump(exclude_unset=True, exclude={"annotations", "tags"})
    fields["case"] = case.name
    fields["label"] = manifest.relative(file.absolute(), manifest.path.parent)
    fields["pseudo"] = True
    return Case(**fields)
