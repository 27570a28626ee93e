"""AEL on pictures whose classes have 1000 : 100 : 10 : 1 of the pixels: what the confidence bank makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medseg import methods
from medseg.config.pipeline import DataSpec, NetworkSpec
from medseg.method import Clock
from medseg.networks.factory import NetworkFactory

SIZE = 96
SIDES = {1: 29, 2: 9, 3: 3}
"""Class -> side of its square: 841, 81 and 9 of 9216 pixels."""

LEVELS = np.array([0.0, 1.0, 2.0, 1.5], np.float32)
STEPS = 30


def draw_pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a square of each class, `(count, 1, 96, 96)`, and its labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((count, 1, SIZE, SIZE), np.uint8)
    for (label,) in labels:
        for value, side in SIDES.items():
            while True:
                row, column = rng.integers(0, SIZE - side, 2)
                square = label[row : row + side, column : column + side]
                if not square.any():
                    break
            square[:] = value
    images = LEVELS[labels] + 0.5 * rng.standard_normal(labels.shape).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(labels)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_rarer_a_class_the_less_sure_is_the_network_early_and_the_more_often_it_is_drawn(seed):
    data = DataSpec(
        labels={0: "background", 1: "large", 2: "small", 3: "tiny"}, modality=("OT",), spacing_mm=(1.0, 1.0, 1.0),
        patch=(SIZE, SIZE, 1), view="axial",
    )  # fmt: skip
    torch.manual_seed(seed)
    spec = NetworkSpec(name="unet", width=4, options={"norm": "batch"})
    method = methods.build("ael", NetworkFactory(spec, data))
    optimizer = torch.optim.AdamW([each for each in method.parameters() if each.requires_grad], 0.01)
    labeled, labels = draw_pictures(5, seed)
    unlabeled, _ = draw_pictures(20, 100 + seed)
    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        ours, theirs = rng.permutation(5)[:4], rng.permutation(20)[:4]
        batch = {
            "labeled": {"image": labeled[ours], "label": labels[ours]},
            "unlabeled": {"image": unlabeled[theirs]},
        }
        loss = torch.stack(list(method(batch, Clock(step, 5 * STEPS)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(Clock(step, 5 * STEPS))
    confidence = method.bank.confidence()
    assert confidence.argsort(descending=True).tolist() == [0, 1, 2, 3]
    drawn = method.bank.draw_probability(method.all_classes)
    assert drawn.argsort().tolist() == [0, 1, 2, 3]
    assert method.bank.rates().argmax() == 3
