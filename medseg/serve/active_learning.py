"""How unsure models are of a study: which of the unlabelled ones a rater should see next."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medseg.errors import DataError
from medseg.portable.inference.multi_view import ViewsInferer
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.serve.models import Model
from medseg.serve.prediction import RUNNING, device_called


def disagreement(models: Sequence[Model], image: Path, device: str | None = None) -> float:
    """From 0, all opinions are one, to 1.

    Opinions are the label maps of every view of every model; the value is 1 minus the mean Dice of all pairs of them,
    of all structures together: voxels that both give the same structure against those that either gives any. Where
    there is one opinion only, it is what that network lacks of certainty: 1 minus the mean probability of its label,
    over the voxels that it gives a structure.

    Args:
        models: with the same labels.
        image: file of the study.
        device: of the networks.

    Raises:
        DataError: the image cannot be used.
    """
    opinions: list[Tensor] = []
    doubts: list[float] = []
    for model in models:
        labels, doubt = _opinions(model, image, device)
        opinions += labels
        doubts.append(doubt)
    if len(opinions) == 1:
        return doubts[0]
    return float(np.mean([1 - overlap(a, b) for a, b in combinations(opinions, 2)]))


def overlap(one: Tensor, other: Tensor) -> float:
    """Dice of all structures together of two label maps; 1 where both are empty."""
    sizes = int((one > 0).sum()) + int((other > 0).sum())
    same = int(((one == other) & (one > 0)).sum())
    return 2 * same / sizes if sizes else 1.0


def _opinions(model: Model, image: Path, device: str | None) -> tuple[list[Tensor], float]:
    """Label maps `(X, Y, Z)` of a model's views, and the doubt of its last one."""
    bundle = model.bundle
    labels: list[Tensor] = []
    doubts: list[float] = []

    def take(found: Tensor, confidence: Tensor) -> None:
        labels.append(found)
        inside = confidence[found > 0].float()
        doubts.append(float(1 - inside.mean()) if len(inside) else 0.0)

    with RUNNING:
        network, inferer = bundle.network.to(device_called(device)), copy(bundle.inferer)
        prepared = _prepared(bundle.preprocessing.transforms, image)[None]
        if isinstance(inferer, ViewsInferer):
            inferer.sink = lambda _, found, confidence: take(found, confidence)
            inferer(prepared, network)
        else:
            take(*_with_confidence(inferer, prepared, network))
    return labels, doubts[-1]


def _with_confidence(inferer: SlabInferer, image: Tensor, network: torch.nn.Module) -> tuple[Tensor, Tensor]:
    kept: list[np.ndarray] = []

    def make(shape: tuple[int, ...]) -> np.ndarray:
        kept[:] = [np.zeros(shape[::-1], np.float16).transpose()]
        return kept[0]

    inferer.confidence = make
    found = inferer(image, network)
    plain = found.as_tensor() if isinstance(found, MetaTensor) else found
    return plain[0, 0].cpu(), torch.from_numpy(kept[0])


def _prepared(transforms: Sequence, image: Path) -> Tensor:
    item: dict = {"image": str(image)}
    try:
        for transform in transforms:
            item = transform(item)
    except (ValueError, RuntimeError) as error:
        raise DataError(f"cannot be prepared ({error})", path=image) from error
    return item["image"]
