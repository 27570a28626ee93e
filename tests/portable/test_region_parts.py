"""Regions in the parts that travel inside bundles: targets, painting, losses, probabilities, by hand."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg.engine.validation import ClassDice
from medseg.metrics import segmentation_metrics
from medseg.ops.losses.pixel_losses import RegionTerms
from medseg.portable.inference.label_sink import ProbabilityFile
from medseg.portable.inference.multi_view import ViewsInferer
from medseg.portable.inference.region_sink import fuse_regions, region_bytes, with_regions
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.regions import (
    KnownRegionsd,
    RegionDiceAndCrossEntropy,
    paint_regions,
    region_cross_entropy,
    region_dice,
    region_targets,
)

MEMBERS = ((1, 2, 3), (2, 3), (3,))
LABEL = torch.tensor([[[0, 1, 2, 3, 255]]])


def test_targets_are_unions():
    assert region_targets(LABEL, MEMBERS)[0].tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]


def test_later_regions_paint_over_earlier_ones():
    present = region_targets(torch.tensor([[[0, 1, 2, 3]]]), MEMBERS)[0] > 0
    assert paint_regions(present, [1, 2, 3]).tolist() == [0, 1, 2, 3], "back to the label"
    assert paint_regions(present, [3, 2, 1]).tolist() == [0, 1, 1, 1]
    alone = torch.tensor([[False], [False], [True]])
    assert paint_regions(alone, [1, 2, 3]).tolist() == [3], "a core without its tumour stays"


def slow_terms(logits: Tensor, label: Tensor, covered: Tensor) -> tuple[float, float]:
    """Dice and cross-entropy written out, voxel by voxel."""
    dices, costs, counted = [], 0.0, 0
    for region, values in enumerate(MEMBERS):
        both = sizes = 0.0
        for image in range(len(logits)):
            for voxel in range(logits.shape[2]):
                value = int(label[image, 0, voxel])
                if value == 255 or not covered[image, region]:
                    continue
                p = 1 / (1 + exp(-float(logits[image, region, voxel])))
                y = float(value in values)
                both += p * y
                sizes += p * p + y * y
                costs -= y * log(p) + (1 - y) * log(1 - p)
                counted += 1
        if bool(covered[:, region].any()):
            dices.append(1 - (2 * both + 1e-5) / (sizes + 1e-5))
    return sum(dices) / len(dices), costs / counted


@pytest.mark.parametrize("told", ["everything", "some regions"])
def test_losses_are_those_written_out(told):
    """Nothing of a voxel that is ignored counts, nor of a region that a label does not tell."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator)
    label = torch.tensor([[[0, 1, 2, 3, 255]], [[3, 255, 1, 0, 0]]])
    covered = torch.ones(2, 3, dtype=torch.bool)
    if told == "some regions":
        covered = torch.tensor([[True, False, False], [False, False, True]])
    dice, cost = slow_terms(logits, label, covered)
    assert region_dice(logits, label, MEMBERS, covered).item() == pytest.approx(dice, abs=1e-5)
    assert region_cross_entropy(logits, label, MEMBERS, covered).item() == pytest.approx(cost, abs=1e-5)
    if told == "everything":
        assert RegionDiceAndCrossEntropy(MEMBERS)(logits, label).item() == pytest.approx(dice + cost, abs=1e-5)
    background = torch.ones(2, 1, dtype=torch.bool)
    terms = RegionTerms(MEMBERS, dice=2.0, cross_entropy=3.0, loss="cross_entropy")
    found = terms(logits, label, torch.cat([background, covered], 1))
    assert found["dice"].item() == pytest.approx(2 * dice, abs=1e-5)
    assert found["cross_entropy"].item() == pytest.approx(3 * cost, abs=1e-5)


def test_what_is_not_known_has_no_gradient():
    logits = torch.zeros(1, 3, 5, requires_grad=True)
    covered = torch.tensor([[True, True, False]])
    (region_dice(logits, LABEL, MEMBERS, covered) + region_cross_entropy(logits, LABEL, MEMBERS, covered)).backward()
    assert logits.grad is not None
    assert bool((logits.grad[0, :2, :4] != 0).all())
    assert not logits.grad[0, 2].any()
    assert not logits.grad[0, :, 4].any()
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    for loss in (region_dice, region_cross_entropy):
        assert loss(logits, LABEL, MEMBERS, nothing).item() == 0
    with pytest.raises(ValueError, match="loss locally_adaptive is for classes that do not overlap"):
        RegionTerms(MEMBERS, dice=1, cross_entropy=1, loss="locally_adaptive")
    with pytest.raises(ValueError, match="loss cross_entropy has no options, got window"):
        RegionTerms(MEMBERS, dice=1, cross_entropy=1, loss="cross_entropy", loss_options={"window": 3})


def test_a_stored_probability_tells_whether_the_region_is_there():
    """0.5 exactly is not above a half, and the least that is above is rounded to the same byte."""
    logits = torch.tensor([[-100.0, -1e-4, 0.0, 1e-4, 100.0, log(3)]])
    assert region_bytes(logits)[0].tolist() == [0, 127, 127, 128, 255, 191]


def test_the_mean_of_models_decides_and_agrees_with_what_is_stored():
    """Of bytes 100 and 156 the mean is 128; of 127 and 128 it is a half, which is not above a half."""
    first = torch.tensor([[100, 127, 255], [255, 0, 200]], dtype=torch.uint8)
    second = torch.tensor([[156, 128, 254], [0, 0, 56]], dtype=torch.uint8)
    labels, mean = fuse_regions([first, second], [1, 2])
    assert mean.tolist() == [[128, 127, 255], [127, 0, 128]]
    assert labels.tolist() == [1, 0, 2]
    alone, same = fuse_regions([first], [1, 2])
    assert same.tolist() == first.tolist()
    assert alone.tolist() == [2, 0, 2]


class Ramp(nn.Module):
    """Logits of two regions from one channel: above 0.2 and above 0.6."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image - 0.2, image - 0.6], 1)


@pytest.mark.parametrize("wanted", [False, True])
def test_windows_are_painted_with_the_values_of_the_files(wanted, tmp_path):
    ramp = torch.linspace(0, 1, 11)
    image = ramp.view(1, 1, 11, 1, 1).expand(1, 1, 11, 9, 8).contiguous()
    inferer = with_regions(SlabInferer((8, 8, 8), label_values=[0, 4, 9]), [1, 2])
    file = ProbabilityFile(tmp_path / "p")
    if wanted:
        inferer.probabilities = file.make
    found = inferer(image, Ramp())[0, 0, :, 4, 4].tolist()
    assert found[:2] == [0, 0]
    assert found[3:6] == [4, 4, 4]
    assert found[7:] == [9] * 4
    if wanted:
        assert file.array.shape == (2, 11, 9, 8)
        stored = torch.from_numpy(np.array(file.array)) >= 128
        labels = paint_regions(stored, [1, 2])[:, 4, 4]
        assert [0, 4, 9][int(labels[7])] == 9
        assert labels.tolist() == [[0, 4, 9].index(value) for value in found]


def test_channels_and_orders_that_do_not_fit_are_refused():
    image = torch.zeros(1, 1, 8, 8, 8)
    with pytest.raises(ValueError, match="has 2 channels; one for each of 3 regions is needed"):
        with_regions(SlabInferer((8, 8, 8)), [1, 2, 3])(image, Ramp())
    for order in ([], [0, 1], [1, 1], [2, 3], ["x"]):
        with pytest.raises(ValueError, match="accepted are the numbers from 1 on"):
            with_regions(SlabInferer((8, 8, 8)), order)
    with pytest.raises(ValueError, match="regions are asked of a ViewsInferer"):
        with_regions(ViewsInferer((8, 8, 8), views=["axial"]), [1])


def test_stock_metrics_get_masks_of_regions():
    known = KnownRegionsd(["pred", "label"], MEMBERS)
    logits = torch.tensor([[1.0, 1, -1, 1, 1], [-1, 1, -1, 1, 1], [1, -1, -1, 1, 1]])
    found = known({"pred": logits, "label": LABEL[0]})
    assert found["pred"].tolist() == [[1, 1, 0, 1, 0], [0, 1, 0, 1, 0], [1, 0, 0, 1, 0]]
    assert found["label"].tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]
    painted = known({"pred": torch.tensor([[3, 2, 0, 1, 1]], dtype=torch.uint8), "label": LABEL[0]})
    assert painted["pred"].tolist() == [[1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_scores_are_those_of_unions():
    """Of the whole 3 voxels are in both of 4 and 3, of the core 1 of 1 and 2, of what enhances none of 1 and 1."""
    label = torch.tensor([0, 1, 2, 3, 255]).view(1, 5, 1, 1)
    prediction = torch.tensor([1, 1, 3, 1, 3]).view(1, 5, 1, 1)
    expected = {1: 6 / 7, 2: 2 / 3, 3: 0.0}
    metric = ClassDice(4, torch.device("cpu"), members=MEMBERS)
    metric.update(([prediction], [label], [torch.ones(4, dtype=torch.bool)]))
    assert metric.compute()["classes"] == pytest.approx(list(expected.values()), abs=1e-5)
    maps = (tensor.numpy()[0] for tensor in (prediction, label))
    found = segmentation_metrics(*maps, label_values=dict(zip((1, 2, 3), MEMBERS, strict=True)), spacing_mm=(1, 1, 1))
    assert {value: metrics["dice"] for value, metrics in found.items()} == pytest.approx(expected)
    assert [found[value]["reference_ml"] for value in (1, 2, 3)] == pytest.approx([0.003, 0.002, 0.001])
