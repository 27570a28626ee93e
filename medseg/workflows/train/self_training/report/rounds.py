"""What the page of a self-training run is made of: each round, and the run as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.workflows.train.self_training.report.added_images import Added


@dataclass
class Round:
    """The results of one round.

    Args:
        number: 0 is the teacher's.
        pseudo: statistics of the pseudo-labels that it was trained on, see `pseudo_label_statistics`; None for the
            teacher.
        dice: on the validation cases: view, and "fused" -> mean over the structures; empty without such cases.
        classes: structure -> Dice of the fused labels on them.
        slices: case -> file that `report.figures.keep_slices` wrote.
        seconds: of training, of predicting and fusing.
        added: of classified images those that the round adds, see `report.added_images`; empty: others.
    """

    number: int
    pseudo: dict[str, Any] | None = None
    dice: dict[str, float] = field(default_factory=dict)
    classes: dict[str, float | None] = field(default_factory=dict)
    slices: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    added: Added = field(default_factory=dict)

    @property
    def statistics(self) -> dict[str, Any]:
        """Of its pseudo-labels; only for rounds that have them."""
        assert self.pseudo is not None
        return self.pseudo


@dataclass(frozen=True)
class RunDescription:
    """What the page says of the whole run.

    Args:
        title: name of the pipeline.
        views: of the networks.
        structures: names of the foreground classes.
        planned: rounds that were asked for.
        counts: section -> cases.
        ct: whether the scans are CT.
        notes: warnings of the run.
        labelled_ml: structure -> mean volume in the labelled cases, ml; empty if it is not known.
        unit: of volumes: ml, or thousand pixels where the images have no spacing.
        score: what `Round.dice` and `Round.classes` are: Dice, or recall where images are classified.
        advice: which round to use, where it is not the last one.
    """

    title: str
    views: tuple[str, ...]
    structures: tuple[str, ...]
    planned: int
    counts: Mapping[str, int]
    ct: bool
    notes: Sequence[str] = ()
    labelled_ml: Mapping[str, float] = field(default_factory=dict)
    score: str = "Dice"
    unit: str = "ml"
    advice: str | None = None

    @property
    def samples(self) -> str:
        """What a rule keeps or leaves."""
        return "images" if self.score == "recall" else "voxels"
