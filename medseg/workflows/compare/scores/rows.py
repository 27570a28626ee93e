"""What a comparison counts: the runs it made, and each structure of each case that they were judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunKey:
    """Which run of a comparison.

    Args:
        arm: name of the arm.
        seed: of the training.
        labels: labelled cases that it learnt from, where the comparison asks for several numbers of them.
        fold: of a cross-validation, from 0.
    """

    arm: str
    seed: int
    labels: int | None = None
    fold: int | None = None


@dataclass(frozen=True)
class RunRow:
    """One run, finished or failed.

    Args:
        key: which run.
        message: why it failed; empty: it is finished.
        iterations: steps of the training, over all its networks.
        cpu_seconds: of the training and all its processes.
        wall_seconds: from its start to its end, over all resumptions.
        peak_bytes: largest memory of the training and its processes.
    """

    key: RunKey
    message: str = ""
    iterations: int | None = None
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class CaseRow:
    """One structure of one case, as one run predicts it.

    Args:
        key: which run.
        case: name of the case.
        subject: whose image it is; the case's name where the manifest says nothing.
        structure: name of the class; the background has counts and no metrics.
        metrics: names as in `medseg evaluate` ("dice", "hd95", ...); None: not defined, as in the evaluation.
        shared: voxels that are this class in both the prediction and the reference.
        predicted: voxels of this class in the prediction, where the reference is known.
        reference: voxels of this class in the reference.
    """

    key: RunKey
    case: str
    subject: str
    structure: str
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    shared: int = 0
    predicted: int = 0
    reference: int = 0
