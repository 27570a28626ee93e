"""The classes of a folder of references without a manifest: the values that occur in its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.errors import DataError
from medseg.portable.geometry import values_in
from medseg.portable.io.labels import read_labels
from medseg.workflows.evaluate.compare_case import IGNORE, Scale

MOST = 254


def scale_of_files(paths: Sequence[Path], folder: Path, tolerance_mm: float) -> Scale:
    """What to measure of label files.

    Of masks of 0 and 255 alone 255 is the structure, and predictions may hold 1 for it. Beside other values 255 is
    what nobody annotated, unless there are values beyond it, which a byte does not hold.

    Args:
        paths: of the references.
        folder: they lie in.
        tolerance_mm: of the surface Dice.

    Raises:
        DataError: not one can be read, none holds a structure, or there are too many values.
    """
    found, broken = _values(paths)
    if broken is not None and not found:
        raise broken
    structures = {value for value in found if value > 0}
    if structures == {IGNORE}:
        labels = {1: f"label {IGNORE}"}
        return Scale(labels, tolerance_mm=tolerance_mm, ignore=-1, stored={1: IGNORE}, aliases={1: IGNORE})
    is_wide = max(structures, default=0) > IGNORE
    if not is_wide:
        structures -= {IGNORE}
    if not structures:
        raise _without_structures(found, folder)
    if len(structures) > MOST:
        problem = f"its label files hold {len(structures)} values; accepted are up to {MOST} classes"
        raise DataError(problem, path=folder, hint="are they the images, and not labels?")
    if not is_wide:
        return Scale({value: f"label {value}" for value in sorted(structures)}, tolerance_mm=tolerance_mm)
    stored = dict(enumerate(sorted(structures), start=1))
    labels = {label: f"label {value}" for label, value in stored.items()}
    return Scale(labels, tolerance_mm=tolerance_mm, ignore=-1, stored=stored)


def _without_structures(found: set[int], folder: Path) -> DataError:
    """Why nothing can be measured: what the files hold, and nothing else."""
    below = sorted(value for value in found if value < 0)
    if not below:
        return DataError("not one label file holds anything but background (0)", path=folder)
    shown = ", ".join(map(str, below[:8]))
    problem = f"no label file holds a structure, only background and values below it ({shown}); accepted are 1 and more"
    return DataError(problem, path=folder, hint="save structures as 1, 2, and so on")


def _values(paths: Sequence[Path]) -> tuple[set[int], DataError | None]:
    """All values of the files that can be read, and what is wrong with the first that cannot; its case will say so."""
    found: set[int] = set()
    broken: DataError | None = None
    for path in paths:
        try:
            array, _ = read_labels(path)
        except DataError as error:
            broken = broken or error
            continue
        if len(array) == 1:
            found.update(int(value) for value in values_in(array[0]))
    return found, broken
