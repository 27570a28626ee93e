"""How uncertain models are of a study: which of the unlabelled ones a rater should annotate next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from torch import Tensor

from medseg.bundle.runner import BundleRunner, ViewPrediction, prediction_errors
from medseg.serve.models import Model
from medseg.serve.prediction import RUNNING, device_called


def disagreement(models: Sequence[Model], image: Path, device: str | None = None) -> float:
    """How much the predictions of a study differ, from 0, where all are one, to 1.

    Predictions are the label maps of every view of every model; the value is 1 minus the mean Dice of all pairs of
    them, of all structures together: voxels that both give the same structure against those that either gives any.
    Where there is one prediction only, it is the network's uncertainty: 1 minus the mean probability of its label, over
    the voxels that it gives a structure.

    Args:
        models: with the same labels.
        image: file of the study.
        device: of the networks.

    Raises:
        DataError: the image cannot be used.
    """
    label_maps: list[Tensor] = []
    uncertainties: list[float] = []
    for model in models:
        of_views, uncertainty = _label_maps(model, image, device)
        label_maps += of_views
        uncertainties.append(uncertainty)
    if len(label_maps) == 1:
        return uncertainties[0]
    return float(np.mean([1 - overlap(one, other) for one, other in combinations(label_maps, 2)]))


def overlap(one: Tensor, other: Tensor) -> float:
    """Dice of all structures together of two label maps; 1 where both are empty."""
    sizes = int((one > 0).sum()) + int((other > 0).sum())
    same = int(((one == other) & (one > 0)).sum())
    return 2 * same / sizes if sizes else 1.0


def _label_maps(model: Model, image: Path, device: str | None) -> tuple[list[Tensor], float]:
    """Label maps `(X, Y, Z)` of a model's views, and the uncertainty of the last one."""
    with RUNNING, prediction_errors(image):
        runner = BundleRunner(model.bundle, device_called(device))
        views, _ = runner.predict_views(runner.read([image]))
        return [view.labels for view in views], _uncertainty(views[-1])


def _uncertainty(view: ViewPrediction) -> float:
    """1 minus the mean probability of the label over the structures; 0 where there are none."""
    inside = view.confidence[view.labels > 0].float()
    return float(1 - inside.mean()) if len(inside) else 0.0
