"""What the report of a comparison says besides its numbers: what was compared, by which command, where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medseg.workflows.compare.scores.rows import RunKey


@dataclass(frozen=True)
class ArmDescription:
    """One arm.

    Args:
        name: of the arm, as in the keys of the rows.
        task: its pipeline, as it was given.
        settings: its own `--set`, such as "stages.0.network.width=16".
        data: its manifest, where it is not that of the other arms.
        plan: what it was sized to, in one line with the iterations; empty where nothing is known.
    """

    name: str
    task: str
    settings: tuple[str, ...] = ()
    data: str = ""
    plan: str = ""


@dataclass(frozen=True)
class Picture:
    """A case with large errors, drawn.

    Args:
        file: PNG with the image, the reference and the prediction.
        key: of the run whose prediction is shown.
        case: name of the case.
        dice: mean over the structures; None where it is not known.
    """

    file: Path
    key: RunKey
    case: str
    dice: float | None = None


@dataclass(frozen=True)
class Description:
    """A comparison.

    Args:
        title: of the page.
        command: that repeats it, as one types it.
        arms: in their order; the others are compared with the first.
        data: the manifest, as it was given.
        judged: on which cases, as a phrase: "20 cases of the list test".
        effort: of each run, as a phrase: "15 minutes of training for each run" or "4000 iterations for each run".
        planned: all runs of the comparison; those without a finished row are named as missing.
        machine: what it ran on, in one line.
        versions: package -> version.
        tolerance_mm: of the surface Dice.
        unit: of distances: mm, or px where the images have no spacing.
        planar: whether the images are 2D, so that mIoU of the whole set is usual.
        has_background: of the data set.
        pictures: of the worst cases.
        notes: what a reader should know besides; a sentence each.
    """

    title: str
    command: str
    arms: tuple[ArmDescription, ...]
    data: str
    judged: str
    effort: str
    planned: tuple[RunKey, ...] = ()
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    tolerance_mm: float = 1.0
    unit: str = "mm"
    planar: bool = False
    has_background: bool = True
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
