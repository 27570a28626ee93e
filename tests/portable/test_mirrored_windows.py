"""Windows that are also predicted mirrored: along several axes at once, or along one at a time."""

from __future__ import annotations

import pytest
import torch

from medseg.portable.inference.multi_view import ViewsInferer
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.inference.windows import predict_mirrored
from medseg.portable.networks.adapters import Views

WEIGHTS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None, :, :, None]
"""A network that multiplies by these sees something else in a mirrored window."""


class Weigh(torch.nn.Module):
    """Two classes, of which the second has the weights as its logits."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([2.6 * torch.ones_like(windows), windows * WEIGHTS], 1)


@pytest.mark.parametrize(("one", "expected"), [(False, [[2.5, 2.5], [2.5, 2.5]]), (True, [[2, 7 / 3], [8 / 3, 3]])])
def test_the_mean_by_hand(one, expected):
    """The weights, mirrored along x [3 4; 1 2], along y [2 1; 4 3] and along both [4 3; 2 1]."""
    windows = torch.ones(1, 1, 2, 2, 1)
    logits = predict_mirrored(lambda seen: seen * WEIGHTS, windows, (0, 1, 2), one=one)
    torch.testing.assert_close(logits[0, 0, :, :, 0], torch.tensor(expected))


@pytest.mark.parametrize(("one", "expected"), [(False, [[0, 0], [0, 0]]), (True, [[0, 0], [1, 1]])])
def test_an_inferer_does_what_is_asked(one, expected):
    image = torch.ones(1, 1, 2, 2, 1)
    alone = SlabInferer((2, 2, 1), mirror_axes=(0, 1), restore=False)
    views = ViewsInferer((2, 2, 1), ["volume"], mirror_axes=(0, 1))
    for inferer, network in ((alone, Weigh()), (views, Views({"volume": Weigh()}))):
        inferer.mirror_one = one
        assert inferer(image, network)[0, 0, :, :, 0].tolist() == expected
