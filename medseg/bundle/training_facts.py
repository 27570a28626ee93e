"""What a bundle keeps of the data that it was trained on: numbers alone, no names of cases and no paths of files.

They lie in `configs/training_facts.json`, which no tool of MONAI reads. `medseg predict` compares results with them,
and the model card tells them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from medseg.bundle.safe_load import read_json, reason_of
from medseg.errors import BundleError

FACTS = "training_facts.json"
FORMAT: Literal[1] = 1

PERCENTILES = (1, 25, 50, 75, 99)
MOST_VOXELS = 500_000
"""Of an image, about: percentiles of so many do not differ from those of all in any digit that is compared."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Spread(_Facts):
    """The smallest, the median and the largest of some numbers."""

    smallest: float
    median: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Spread:
        """Of at least one number, each to six digits."""
        ends = np.min(values), np.median(values), np.max(values)
        smallest, median, largest = (float(f"{value:.6g}") for value in ends)
        return cls(smallest=smallest, median=median, largest=largest)


class StructureFacts(_Facts):
    """One structure in the labels of the training cases, where a label tells it apart and no part is ignored.

    Args:
        cases: labels that were measured.
        absent: of them, those that do not have it.
        subjects: of whom those are that have it, each counted once.
        size: of those that have it, in the unit of `TrainingFacts.unit`; None: no label has it.
    """

    cases: int
    absent: int
    subjects: int
    size: Spread | None = None


class ChannelFacts(_Facts):
    """The intensities of one channel, as they are stored.

    Args:
        images: that were looked at.
        percentiles: "1", "25", "50", "75" and "99" -> that percentile of the whole image, over the images.
        brightness: see `brightness`, over the images; None: photographs, of which it says nothing.
        contrast: see `contrast`, over the images; None: intensities have no scale.
    """

    images: int
    percentiles: dict[str, Spread]
    brightness: Spread | None = None
    contrast: Spread | None = None


class ValidationFacts(_Facts):
    """The scores of the validation cases that the weights in the bundle got, which are the best of all they got.

    Args:
        cases: with a label.
        metric: "Dice", or "recall" where images are classified.
        mean: over the structures; balanced accuracy where images are classified.
        structures: structure -> mean over the cases; None: no case has it.
    """

    cases: int
    metric: Literal["Dice", "recall"]
    mean: float
    structures: dict[str, float | None]


class TrainingFacts(_Facts):
    """What a bundle keeps of its training.

    Args:
        format: of this file.
        date: of the end of the training, UTC.
        versions: package -> version.
        cases: section of the manifest -> kind of case -> how many.
        licence: of the data, as the manifest says it.
        unit: of `structures`: millilitres; the share of the image that a structure covers, where files have no spacing.
        structures: label value -> what labels say; empty where it makes no sense, as of photographs.
        channels: one for each.
        field_of_view_mm: along x, y, z; empty where files have no spacing.
        spacing_mm: likewise.
        validation: scores; None: no validation case has a label.
    """

    format: Literal[1] = FORMAT
    date: str
    versions: dict[str, str]
    cases: dict[str, dict[str, int]]
    licence: str | None = None
    unit: Literal["ml", "share"] = "ml"
    structures: dict[int, StructureFacts] = {}
    channels: tuple[ChannelFacts, ...] = ()
    field_of_view_mm: tuple[Spread, ...] = ()
    spacing_mm: tuple[Spread, ...] = ()
    validation: ValidationFacts | None = None

    def text(self) -> str:
        """As JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"


def read_facts(bundle: Path) -> TrainingFacts | None:
    """What a bundle keeps of its training; None: nothing, as those from before it did.

    Raises:
        BundleError: the file is damaged.
    """
    path = bundle / "configs" / FACTS
    if not path.exists():
        return None
    content = read_json(path)
    try:
        return TrainingFacts(**content)
    except (ValidationError, TypeError) as error:
        hint = "copy the bundle again, or remove the file: the model predicts the same, its results are not checked"
        raise BundleError(f"does not tell of a training ({reason_of(error)})", path=path, hint=hint) from error


def percentiles_of(channel: np.ndarray) -> np.ndarray:
    """The `PERCENTILES` of one channel of an image.

    Args:
        channel: `(X, Y, Z)`, as stored; of large images every second or third voxel along each axis is taken.

    Returns:
        `(5,)` float64.
    """
    step = max(1, int(np.ceil((channel.size / MOST_VOXELS) ** (1 / 3))))
    steps = tuple(slice(None, None, step if length > 2 * step else 1) for length in channel.shape)
    return np.percentile(channel[steps].astype(np.float64), PERCENTILES)


def brightness(percentiles: np.ndarray) -> float:
    """How bright most of an image is: the mean place of its quartiles between the 1st and the 99th percentile.

    Neither shift nor scale of the intensities change it. 0: all but a few voxels are as dark as the darkest.

    Args:
        percentiles: see `percentiles_of`.

    Examples:
        >>> import numpy as np
        >>> from medseg.bundle.training_facts import brightness
        >>> brightness(np.array([0, 10, 20, 60, 100])), brightness(np.array([-5, -4, -3, 1, 5]))
        (0.3, 0.3)
    """
    low, *quartiles, high = percentiles.tolist()
    if high <= low:
        return 0.0
    return round(float(np.mean(quartiles) - low) / (high - low), 6)


def in_window(percentiles: np.ndarray, rule: Any) -> np.ndarray:
    """Percentiles as a network sees them that clips to a window: 0 at its lower end and below, 1 at its upper end.

    Args:
        percentiles: see `percentiles_of`.
        rule: an `Intensity` with `low` and `high`.
    """
    return np.clip((percentiles - rule.low) / (rule.high - rule.low), 0, 1)


def measures(percentiles: np.ndarray, rule: Any, *, photograph: bool = False) -> tuple[float | None, float | None]:
    """What is compared of a channel, in numbers that mean the same for all images that a network sees alike.

    Args:
        percentiles: see `percentiles_of`.
        rule: the `Intensity` by which the channel becomes network input.
        photograph: whether the image is one in colour, which may be as dark or as bright as it likes.

    Returns:
        Brightness: as `brightness` says; of a window the mean of the quartiles in it. None of photographs and of a
        fixed scale. Contrast: from the 1st to the 99th percentile, in the window or on the fixed scale; None of what
        is z-scored, which has no scale.
    """
    if rule.kind == "window":
        seen = in_window(percentiles, rule)
        return round(float(seen[1:-1].mean()), 6), round(float(seen[-1] - seen[0]), 6)
    if rule.kind == "fixed":
        return None, float(percentiles[-1] - percentiles[0])
    return (None if photograph else brightness(percentiles)), None
