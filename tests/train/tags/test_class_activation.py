"""Class-activation maps and their accumulation, by numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medseg.ops.tags.class_activation import (
    activation_maps,
    coarsest_within,
    keep_present,
    mean_over_positions,
    relative_maps,
    tag_loss,
)
from medseg.ops.tags.map_accumulation import Snapshots

pytestmark = pytest.mark.usefixtures("undrawn")


def test_one_hot_features_give_the_weight_there_and_its_share_as_logit():
    features = torch.zeros(1, 4, 2, 3)
    features[0, 2, 0, 1] = 1
    weight = torch.zeros(2, 4)
    weight[1, 2] = 2
    maps = activation_maps(features, weight)
    expected = torch.zeros(1, 2, 2, 3)
    expected[0, 1, 0, 1] = 2
    assert torch.equal(maps, expected)
    assert mean_over_positions(maps).tolist() == [[0, pytest.approx(2 / 6)]]


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 5)])
def test_the_mean_of_the_maps_is_what_the_classifier_says_of_the_mean(shape):
    torch.manual_seed(0)
    features, weight = torch.randn(2, 6, *shape), torch.randn(3, 6)
    logits = mean_over_positions(activation_maps(features, weight))
    torch.testing.assert_close(logits, features.flatten(2).mean(2) @ weight.T, atol=1e-5, rtol=0)
    convolution = weight.view(3, 6, *[1] * len(shape))
    torch.testing.assert_close(activation_maps(features, convolution), activation_maps(features, weight))


def test_maps_are_divided_by_their_maximum_and_dead_ones_stay_zero():
    maps = torch.tensor([[[[2.0, -1.0, 0.5]], [[-3.0, -1.0, 0.0]]]])
    relative = relative_maps(maps)
    torch.testing.assert_close(relative[0, 0, 0], torch.tensor([0.999995, 0, 0.249999]), atol=1e-6, rtol=0)
    assert relative[0, 1].tolist() == [[0, 0, 0]]


def test_absent_and_unknown_classes_have_no_map():
    maps = torch.ones(2, 3, 2, 2)
    kept = keep_present(maps, torch.tensor([[1, 0, 255], [0, 1, 1]]))
    assert kept.amax((2, 3)).tolist() == [[1, 0, 0], [0, 1, 1]]


def test_tags_that_are_not_known_are_left_out_of_the_loss():
    assert tag_loss(torch.zeros(2, 3), torch.tensor([[1, 0, 255], [0, 0, 1]])).item() == pytest.approx(math.log(2))
    logits = torch.tensor([[2.0, 50.0]])
    assert tag_loss(logits, torch.tensor([[1, 255]])).item() == pytest.approx(math.log1p(math.exp(-2)))
    assert tag_loss(logits, torch.tensor([[255, 255]])).item() == 0


def test_the_feature_map_is_the_coarsest_within_the_stride():
    strides = [(1, 1, 1), (2, 2, 1), (4, 4, 2), (8, 8, 4)]
    assert [coarsest_within(strides, largest) for largest in (1, 3, 4, 7, 100)] == [0, 1, 2, 2, 3]
    with pytest.raises(ValueError, match="finest feature map has 2"):
        coarsest_within([(2, 2)], 1)


def test_channels_that_do_not_fit_the_classifier_are_refused():
    with pytest.raises(ValueError, match="takes 3 channels, the features have 4"):
        activation_maps(torch.zeros(1, 4, 2, 2), torch.zeros(2, 3))


# Accumulation.


class Scaled(nn.Module):
    """Two maps: the image times a weight, and its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image * self.weight, -image * self.weight], 1)


def test_snapshots_say_the_maximum_of_what_the_module_said_at_their_times():
    module = Scaled()
    kept = Snapshots(module, [0.5, 1.0])
    image = torch.tensor([[[[2.0, -1.0, 1.0]]]])
    for iteration, weight in enumerate([5.0, 1.0, 7.0, -1.0]):
        module.weight.data.fill_(weight)
        kept.follow(module, iteration, 4)
    assert [each.weight.item() for each in kept.copies] == [1.0, -1.0]
    # of weight 1: (1, 0, .5) and (0, 1, 0); of weight -1: the other way round
    torch.testing.assert_close(kept(image)[0, :, 0], torch.tensor([[1, 1, 0.5], [1, 1, 0.5]]), atol=1e-4, rtol=0)
    assert not [parameter for parameter in kept.parameters() if parameter.requires_grad]
    assert not kept.train().training


@pytest.mark.parametrize("fractions", [[], [0.0, 1.0], [1.5]])
def test_times_of_snapshots_outside_the_run_are_refused(fractions):
    with pytest.raises(ValueError, match=r"fractions of the run in \(0, 1\]"):
        Snapshots(Scaled(), fractions)
