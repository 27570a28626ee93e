"""Windows that count alike: voxel for voxel as MONAI's sliding window does by default."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from medseg.portable.inference.multi_view import UniformViewsInferer
from medseg.portable.inference.sliding_window import SlabInferer, UniformSlabInferer
from medseg.portable.inference.windows import importance
from medseg.portable.networks.adapters import Views

SHAPES = [
    ((40, 33, 29), (16, 16, 16), 0.5),
    ((33, 40, 20), (16, 12, 8), (0.25, 0.5, 0.75)),
    ((9, 31, 24), (16, 16, 16), 0.5),
    ((8, 8, 90), (8, 8, 12), 0.75),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv3d(6, 3, 3, padding=1)).eval()


@pytest.mark.parametrize(("shape", "window", "overlap"), SHAPES)
def test_labels_are_those_of_monai(shape, window, overlap):
    net = network()
    image = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = sliding_window_inference(image, window, 2, net, overlap, mode="constant", padding_mode="replicate")[0]
    alone = UniformSlabInferer(window, overlap, restore=False, padding="edge")
    views = UniformViewsInferer(window, ["volume"], overlap, padding="edge")
    two = logits.topk(2, 0).values
    decided = two[0] - two[1] > 1e-5
    assert decided.float().mean() > 0.999
    for inferer, asked in ((alone, net), (views, Views({"volume": net}))):
        labels = inferer(image, asked)[0, 0]
        assert torch.equal(labels[decided].long(), logits.argmax(0)[decided])
    gaussian = SlabInferer(window, overlap, restore=False, padding="edge")(image, net)[0, 0]
    assert not torch.equal(gaussian[decided].long(), logits.argmax(0)[decided])


def test_what_a_window_weighs():
    assert importance((3, 2, 1), torch.device("cpu"), "uniform").tolist() == torch.ones(3, 2, 1).tolist()
    assert importance((5, 5, 5), torch.device("cpu")).argmax() == 62, "its middle"
