"""The labels of a round: votes of all views on every unlabelled case, fused, written, counted."""

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
from medseg.portable.io.read import read_header, read_volume
from medseg.portable.io.write import SaveError, is_flat, remove_leftovers, write_nifti
from medseg.progress import Count
from medseg.records import Piece, digest_of
from medseg.stopping import told_when_stopped
from medseg.workflows.train.self_training.predict_views import Voter
from medseg.workflows.train.self_training.pseudo_label_statistics import Counts, count_case
from medseg.workflows.train.self_training.report_figures import keep_slices
from medseg.workflows.train.self_training.time_left import TimeLeft

PSEUDO = "pseudo"


@dataclass(frozen=True)
class Labeller:
    """Makes the pseudo-labels of one round.

    Args:
        number: of the round, from 1.
        folder: of the round.
        before: folder of the round before, if it had pseudo-labels.
        manifest: whose cases are labelled.
        cases: which ones; their labels, if there are any, are never opened.
        shown: names of those that pictures are kept of.
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

    def picture(self, case: Case) -> Path:
        """Where the picture of a case is."""
        return self.folder / PSEUDO / f"{case.name}.npz"

    def run(self, networks: Path, method: Method, voter: Callable[[], Voter], outlook: TimeLeft) -> dict[str, Counts]:
        """Label what is not labelled yet by these very networks.

        Args:
            networks: bundle of the round before.
            method: whose `relabel` fuses.
            voter: opens the bundle, which is not done where nothing is left to do.
            outlook: told of each case.

        Returns:
            Case -> its counts.

        Raises:
            DataError: an image that cannot be predicted.
            OutputError: a pseudo-label that cannot be written; what is there is whole, and a resumed run goes on.
        """
        make_folder(self.folder / PSEUDO)
        pieces = {case.name: self._piece(case, networks) for case in self.cases}
        found = {name: notes for name, piece in pieces.items() if (notes := piece.notes()) is not None}
        for notes in found.values():
            outlook.done("labelling", notes["seconds"])
        missing = [case for case in self.cases if case.name not in found]
        distributed.barrier()  # all have seen what is there before anything changes
        if distributed.rank() == 0:
            remove_leftovers(self.folder / PSEUDO)
        mine = missing[distributed.rank() :: distributed.world()]
        if mine:
            with voter() as asked:
                self._make(mine, pieces, method, asked, outlook)
        distributed.barrier()
        return {name: piece.notes() or {} for name, piece in pieces.items()}

    def _make(
        self, cases: Sequence[Case], pieces: Mapping[str, Piece], method: Method, voter: Voter, outlook: TimeLeft
    ) -> None:
        asked = _Asked(voter, [self.manifest.images(case) for case in cases])
        count = Count("labelling", total=len(cases))
        began = time.monotonic()
        with told_when_stopped(count.where):
            for number, (case, fused) in enumerate(zip(cases, method.relabel(asked, self.number), strict=True)):
                piece = pieces[case.name]
                piece.begin()
                notes = self._keep(case, asked[number], fused.numpy())
                seconds = round(time.monotonic() - began, 3)
                piece.finish({**notes, "seconds": seconds})
                count.done += 1
                outlook.done("labelling", seconds)
                outlook.say(f"round {self.number}: labelled {case.name}", now=False)
                began = time.monotonic()

    def _piece(self, case: Case, networks: Path) -> Piece:
        earlier = self._earlier(case, PSEUDO)
        made_of = {
            "case": case.name,
            "images": [digest_of(path) for path in self.manifest.images(case)],
            "networks": digest_of(networks),
            "round": self.number,
            "rule": dict(self.rule),
            "ignore": self.manifest.ignore_index,
            "before": digest_of(earlier) if earlier else None,
            "shown": case.name in self.shown,
        }
        products = [self.file(case), *([self.picture(case)] if case.name in self.shown else [])]
        return Piece(self.folder / PSEUDO / f"{case.name}.json", made_of, products)

    def _earlier(self, case: Case, kind: str) -> Path | None:
        if self.before is None:
            return None
        path = self.before / PSEUDO / f"{case.name}{'.nii.gz' if kind == PSEUDO else '.npz'}"
        return path if path.exists() else None

    def _keep(self, case: Case, votes: Votes, fused: np.ndarray) -> Counts:
        """Write the pseudo-label of a case on its file's grid, and its picture; returns what was counted."""
        image, path = self.manifest.images(case)[0], self.file(case)
        values = self._values()
        grid = read_header(image)
        flat = is_flat(image, fused.shape)
        try:
            stored = values[fused]
            stored = stored[..., 0] if flat else stored
            said = "medseg pseudo-label"
            write_nifti(path, stored, grid.affine, source=grid.nifti, intent="label", description=said)
        except SaveError as error:
            hint = "free some space; --resume goes on with this case"
            raise OutputError(str(error), path=path, hint=hint) from error
        labels = [label.numpy() for label in votes.labels]
        if case.name in self.shown:
            keep_slices(self.picture(case), image, labels, fused, self._earlier(case, "picture"))
        voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
        earlier = self._earlier(case, PSEUDO)
        before = self._indices(earlier) if earlier else None
        return count_case(labels, fused, classes=len(self.manifest.labels), voxel_ml=voxel_ml, before=before)

    def _values(self) -> np.ndarray:
        """Class index -> value in label files."""
        ignore = self.manifest.ignore_index
        table = np.zeros(IGNORE + 1, np.uint8 if 0 <= ignore <= IGNORE else np.int32)
        table[: len(self.manifest.labels)] = self.manifest.label_values
        table[IGNORE] = ignore
        return table

    def _indices(self, path: Path) -> np.ndarray:
        """A pseudo-label as class indices."""
        stored, _ = read_volume(path)
        fused = np.full(stored.shape[1:], IGNORE, np.uint8)
        for index, value in enumerate(self.manifest.label_values):
            fused[stored[0] == value] = index
        return fused


class _Asked(Sequence[Votes]):
    """The votes of cases, each made when it is asked for; the last one is kept, for who asks again."""

    def __init__(self, voter: Voter, images: Sequence[tuple[Path, ...]]) -> None:
        self.voter, self.images = voter, images
        self._last: tuple[int, Votes] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise TypeError("votes are asked for one case at a time")
        if not 0 <= index < len(self.images):
            raise IndexError(index)
        if self._last is None or self._last[0] != index:
            self._last = None  # two cases at once would need twice the memory
            self._last = (index, self.voter(self.images[index]))
        return self._last[1]


def round_manifest(manifest: Manifest, labeller: Labeller, path: Path) -> Manifest:
    """The data set of a round: cases with labels as they are, the others with pseudo-labels, marked `pseudo`.

    Args:
        manifest: of the run.
        labeller: knows where the pseudo-labels are.
        path: where it is written.

    Raises:
        DataError: a case without a pseudo-label.
    """
    names = {case.name for case in labeller.cases}
    drawn = [case for case in manifest.training if case.name not in names]
    made = []
    for case in labeller.cases:
        file = labeller.file(case)
        if not file.exists():
            raise DataError("there is no pseudo-label", path=file, hint="--resume makes it")
        label = manifest.relative(file.absolute(), manifest.path.parent)
        fields = {**case.model_dump(exclude_unset=True), "case": case.name, "label": label, "pseudo": True}
        made.append(Case(**{key: value for key, value in fields.items() if key not in ("annotations", "tags")}))
    new = manifest.model_copy(update={"training": (*drawn, *made), "unlabeled": ()})
    if distributed.rank() == 0:
        new.save(path)
    distributed.barrier()
    return Manifest.load(path)
