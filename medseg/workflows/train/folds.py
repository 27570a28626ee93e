"""The trainings of one command: one, or one for each fold of a cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medseg.errors import OutputError
from medseg.manifest.manifest import Manifest
from medseg.manifest.splits import fold_manifest
from medseg.workflows.train.checks.stages import Product
from medseg.workflows.train.options import ALL, TrainOptions
from medseg.workflows.train.run_folder import RUN


@dataclass(frozen=True)
class TrainingRun:
    """One training.

    Args:
        folder: of the run.
        manifest: its data set; of a fold the labelled cases that are held out are its validation cases.
        split: what the run's record says of the fold; None: it is none.
        product: what it leaves, and the name of its folder.
    """

    folder: Path
    manifest: Manifest
    split: dict[str, int] | None = None
    product: Product = "bundle"

    @property
    def place(self) -> str:
        """Which fold it is, as messages say it; empty where it is none."""
        return "" if self.split is None else f"in fold {self.split['fold']}"


def list_runs(options: TrainOptions, manifest: Manifest) -> list[TrainingRun]:
    """The trainings that the options ask for.

    Raises:
        ManifestError: the data set cannot be split so.
        OutputError: a folder of several runs holds one itself, or holds some already and is not to be resumed.
    """
    if options.folds is None:
        return [TrainingRun(options.folder, manifest)]
    runs = []
    for fold in options.chosen_folds:
        held_out = fold_manifest(manifest, options.folds, fold, options.split_seed, section="validation")
        folder = options.folder / f"fold{fold}" if options.fold == ALL else options.folder
        runs.append(TrainingRun(folder, held_out, {"folds": options.folds, "fold": fold, "seed": options.split_seed}))
    if options.fold == ALL:
        _refuse_taken(options, runs)
    return runs


def _refuse_taken(options: TrainOptions, runs: list[TrainingRun]) -> None:
    """See that all folds can be trained, before hours go into the first."""
    if (options.folder / RUN).exists():
        raise OutputError("holds a run itself, and no folds", path=options.folder, hint="choose another --output")
    taken = [run.folder for run in runs if (run.folder / RUN).exists()]
    if taken and not options.resume:
        raise OutputError("holds a run already", path=taken[0], hint="--resume to continue it, or another --output")
