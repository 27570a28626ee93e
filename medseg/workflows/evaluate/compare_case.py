"""One predicted label map against its reference: read, checked, brought to one grid, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from medseg.errors import DataError
from medseg.manifest.fields import is_picture
from medseg.manifest.manifest import Manifest
from medseg.metrics import Value, segmentation_metrics
from medseg.metrics.aggregate import Overlap
from medseg.portable.geometry import along, check_offset, values_in
from medseg.portable.io.header import Header
from medseg.portable.io.labels import read_labels as read_labels_of_file
from medseg.portable.structure_masks import mask_of

IGNORE = 255
NO_CLASS = 255
"""In a prediction that is missing, where a data set has no background."""

Status = Literal["compared", "no prediction", "unusable prediction", "unusable reference"]


@dataclass(frozen=True)
class Pairing:
    """The files of one case.

    Args:
        name: of the case.
        reference: its true label map.
        prediction: its predicted label map; None: there is none.
        images: what to show under the contours; may be empty.
        ct: whether the first image is a CT.
        covered: label values that the reference tells apart, background aside; None: all. The others are left out.
    """

    name: str
    reference: Path
    prediction: Path | None
    images: tuple[Path, ...] = ()
    ct: bool = False
    covered: frozenset[int] | None = None

    @property
    def usual_prediction(self) -> str:
        """File name that `medseg predict` gives the prediction."""
        return f"{self.name}{'.png' if is_picture(self.reference) else '.nii.gz'}"


@dataclass(frozen=True)
class Compared:
    """What came of one case; without a usable prediction the metrics are those of an empty one.

    `background` are the voxels of the background; None: there is none, or the label does not cover all classes, so that
    what it calls background may be something else. Of pseudo-labels, `labelled` are the overlaps where they say
    something, and `known` how many voxels that are, and how many there are in all.
    """

    pairing: Pairing
    status: Status
    message: str = ""
    warnings: tuple[str, ...] = ()
    metrics: Mapping[int, dict[str, Value]] = field(default_factory=dict)
    background: Overlap | None = None
    labelled: Mapping[str, Overlap] = field(default_factory=dict)
    known: tuple[int, int] = (0, 0)

    @property
    def mean_dice(self) -> float | None:
        """Over the classes that the prediction or the reference has."""
        with_class = [metrics for metrics in self.metrics.values() if metrics["situation"] != "both_empty"]
        dice = [metrics["dice"] for metrics in with_class]
        if not dice:
            return None
        return float(np.mean([float(value) for value in dice if value is not None]))

    def overlaps(self, scale: Scale) -> dict[str, Overlap]:
        """Voxels of each class, the background first where it counts."""
        found: dict[str, Overlap] = {}
        if self.background is not None:
            found[scale.background_name] = self.background
        for value, metrics in self.metrics.items():
            shared, invented, missed = (int(metrics[name] or 0) for name in ("tp", "fp", "fn"))
            found[scale.labels[value]] = Overlap(shared, shared + invented, shared + missed)
        return found


@dataclass(frozen=True)
class Scale:
    """By what to measure.

    Args:
        labels: label -> name of the classes to measure, background left out; a label is the value in files, or as
            `stored` says.
        background: value of the background; None: there is none.
        tolerance_mm: of the surface Dice.
        ignore: value in reference files that nobody annotated.
        background_name: of the background.
        pseudo_labels: whether predictions too may hold the ignore value.
        stored: label as it is measured -> value in files, where they differ.
        aliases: further value in files -> the value that means the same.
        members: label -> the labels that belong to its class, where classes overlap; a label that is missing is alone.
    """

    labels: Mapping[int, str]
    background: int | None = 0
    tolerance_mm: float = 1.0
    ignore: int = IGNORE
    background_name: str = "background"
    pseudo_labels: bool = False
    stored: Mapping[int, int] = field(default_factory=dict)
    aliases: Mapping[int, int] = field(default_factory=dict)
    members: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def codes(self) -> dict[int, int]:
        """Value in files -> label as it is measured."""
        codes = {self.value_of(label): label for label in self.values}
        return codes | {other: codes[value] for other, value in self.aliases.items()}

    def value_of(self, label: int) -> int:
        """What files hold for a label as it is measured."""
        return self.stored.get(label, label)

    def mask_of(self, array: np.ndarray, label: int) -> np.ndarray:
        """The voxels of a class, or of the background, in an array of labels."""
        return mask_of(array, self.members.get(label, (label,)))

    @classmethod
    def of_manifest(cls, manifest: Manifest, tolerance_mm: float = 1.0) -> Scale:
        """The classes of a data set."""
        background = manifest.label_values[0] if manifest.has_background else None
        return cls(
            manifest.structures, background, tolerance_mm, manifest.ignore_index, manifest.classes[0],
            members=manifest.members,
        )  # fmt: skip

    @property
    def values(self) -> tuple[int, ...]:
        """Of all classes, the background's first."""
        first = () if self.background is None else (self.background,)
        return (*first, *self.labels)


def compare(pairing: Pairing, scale: Scale) -> Compared:
    """Measure one case; problems of its files become its status."""
    try:
        reference, grid = read_labels(pairing.reference, scale, may_ignore=True)
    except DataError as error:
        return Compared(pairing, "unusable reference", str(error))
    nothing = nothing_like(reference, scale)
    if pairing.prediction is None:
        message = f"no prediction: {pairing.usual_prediction} is not there"
        return Compared(pairing, "no prediction", message, metrics=_measure(pairing, nothing, reference, grid, scale))
    try:
        labels, header = read_labels(pairing.prediction, scale, may_ignore=scale.pseudo_labels)
        prediction, warnings = onto(grid, labels, header)
    except DataError as error:
        metrics = _measure(pairing, nothing, reference, grid, scale)
        return Compared(pairing, "unusable prediction", str(error), metrics=metrics)
    metrics = _measure(pairing, prediction, reference, grid, scale)
    background = _count_background(pairing, prediction, reference, scale)
    of_files = [f"{each.path}: {warning}" for each in (grid, header) for warning in each.warnings]
    warnings = (*of_files, *warnings)
    found = Compared(pairing, "compared", warnings=warnings, metrics=metrics, background=background)
    return _with_labelled(found, prediction, reference, scale) if scale.pseudo_labels else found


def nothing_like(reference: np.ndarray, scale: Scale) -> np.ndarray:
    """A prediction that is missing: no structure anywhere on the grid of the reference."""
    return np.full_like(reference, NO_CLASS if scale.background is None else scale.background)


def _with_labelled(case: Compared, prediction: np.ndarray, reference: np.ndarray, scale: Scale) -> Compared:
    """The case with the overlaps of the voxels that the prediction labels."""
    annotated = reference != IGNORE
    known = annotated & (prediction != IGNORE)
    values = {scale.labels[value]: value for value in case.metrics}
    if case.background is not None and scale.background is not None:
        values = {scale.background_name: scale.background, **values}
    overlaps = {}
    for name, value in values.items():
        one, other = known & scale.mask_of(prediction, value), known & scale.mask_of(reference, value)
        overlaps[name] = Overlap(*(int(np.count_nonzero(mask)) for mask in (one & other, one, other)))
    counts = (int(np.count_nonzero(known)), int(np.count_nonzero(annotated)))
    return replace(case, labelled=overlaps, known=counts)


def _count_background(pairing: Pairing, prediction: np.ndarray, reference: np.ndarray, scale: Scale) -> Overlap | None:
    if scale.background is None or pairing.covered is not None:
        return None
    is_predicted = (prediction == scale.background) & (reference != IGNORE)
    is_true = reference == scale.background
    return Overlap(*(int(np.count_nonzero(mask)) for mask in (is_predicted & is_true, is_predicted, is_true)))


def _measure(
    pairing: Pairing, prediction: np.ndarray, reference: np.ndarray, grid: Header, scale: Scale
) -> dict[int, dict[str, Value]]:
    covered = scale.labels if pairing.covered is None else pairing.covered
    return segmentation_metrics(
        prediction,
        reference,
        label_values={value: scale.members.get(value, (value,)) for value in scale.labels if value in covered},
        spacing_mm=grid.spacing_mm,
        tolerance_mm=scale.tolerance_mm,
        ignore=IGNORE,
    )


def read_labels(path: Path, scale: Scale, *, may_ignore: bool) -> tuple[np.ndarray, Header]:
    """A label map `(X, Y, Z)` uint8 of what is measured, as stored, and its header.

    Args:
        path: the file.
        scale: names the values.
        may_ignore: whether the ignore value may occur; it becomes 255.

    Returns:
        The labels; voxels of values that are none are 255, and the header's warnings say so.

    Raises:
        DataError: not readable, several channels, values that are no whole numbers, or none that is measured.
    """
    array, header = read_labels_of_file(path)
    if array.shape[0] != 1:
        raise DataError(f"has {array.shape[0]} channels; a label map has one", path=path)
    found = [int(value) for value in values_in(array[0])]
    counted = dict(scale.codes)
    if may_ignore:
        counted.setdefault(scale.ignore, IGNORE)
    strange = [value for value in found if value not in counted]
    measured = [value for value in found if counted.get(value) in scale.labels]
    if scale.ignore in strange and not may_ignore:
        raise DataError(
            f"holds {scale.ignore}, which is no label: 'not annotated'; accepted are {_listed(sorted(counted))}",
            path=path, hint="--pseudo-labels if voxels are left out on purpose",
        )  # fmt: skip
    if strange and not measured:
        accepted = _listed(sorted(counted))
        raise DataError(f"holds {_listed(strange)}, which is no label; accepted are {accepted}", path=path)
    notes = [
        f"its {value} is taken for the {scale.aliases[value]} of others" for value in found if value in scale.aliases
    ]
    if strange:
        what = "left out" if may_ignore else "counted as no structure"
        voxels = int(np.count_nonzero(np.isin(array[0], strange)))
        notes.append(f"holds {_listed(strange)}, which is no label, in {voxels} voxels: {what}")
    header = replace(header, warnings=(*header.warnings, *notes))
    if all(counted.get(value) == value for value in found):
        return array[0].astype(np.uint8), header
    places = np.searchsorted(found, array[0])
    codes = np.array([counted.get(value, IGNORE) for value in found], np.uint8)
    return codes[places], header


def _listed(values: object) -> str:
    numbers = [f"{float(v):g}" for v in values]  # type: ignore[attr-defined]
    return ", ".join(numbers[:8]) + (", ..." if len(numbers) > 8 else "")


def onto(grid: Header, array: np.ndarray, header: Header) -> tuple[np.ndarray, tuple[str, ...]]:
    """Bring an array to the storage order of another grid, without touching a voxel's value.

    Args:
        grid: where it shall lie.
        array: `(X, Y, Z)`.
        header: where it lies.

    Returns:
        The array along the grid's axes, and warnings.

    Raises:
        DataError: it is not the same grid.
    """
    note = check_offset(grid, header, "its reference")
    moved = along(grid, header, array)[0]
    return np.ascontiguousarray(moved), (f"{header.path.name} {note}",) if note else ()
