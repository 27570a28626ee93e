"""Random blur and coarser voxels of training patches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medseg.config.pipeline import Augment
from medseg.data import augment
from medseg.ops.augmentation.resolution import Blur, LowResolution
from medseg.ops.augmentation.transforms import stream_of

SIGMA = 0.7


def share_within(distance: float) -> float:
    """Of a Gaussian of `SIGMA`, the part below a distance."""
    return math.erf(distance / (SIGMA * math.sqrt(2)))


def test_blur_spreads_a_voxel_as_a_gaussian_in_the_plane_alone():
    image = torch.zeros(2, 9, 9, 1)
    image[0, 4, 4] = 1
    Blur().apply(image, (SIGMA, SIGMA, 0.0))
    middle, beside = share_within(0.5), (share_within(1.5) - share_within(0.5)) / 2
    assert float(image[0, 4, 4, 0]) == pytest.approx(middle**2, abs=1e-4)
    assert float(image[0, 4, 5, 0]) == pytest.approx(middle * beside, abs=1e-4)
    assert float(image[0, 3, 5, 0]) == pytest.approx(beside**2, abs=1e-4)
    assert float(image[0].sum()) == pytest.approx(1, abs=1e-5)
    assert not image[1].any()  # the other channel has nothing of it


def test_blur_keeps_even_images_up_to_their_edges():
    image = torch.full((1, 5, 4, 3), -2.5)
    Blur().apply(image, (1.0, 1.0, 1.0))
    assert torch.allclose(image, torch.tensor(-2.5), atol=1e-5)


def test_half_the_resolution_keeps_every_second_voxel_and_a_line_between():
    image = torch.arange(8.0).view(1, 8, 1, 1).repeat(1, 1, 2, 1)
    LowResolution().apply(image, (0.5, 0.5, 1.0))
    # kept are 1, 3, 5 and 7, which lie at 0.5, 2.5, 4.5 and 6.5 of the voxels
    assert image[0, :, 0, 0].tolist() == [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7]
    assert image[0, :, 1, 0].tolist() == [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7]


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_the_slices_that_a_planar_network_sees_are_not_mixed(name):
    """Three slices of one value each; the middle one, which has the label, is not made of those beside it."""
    settings = {each: {"probability": 0} for each in ("affine", "contrast", "gamma", "noise")}
    drawn = augment.draw(Augment(**settings, **{name: {"probability": 1}}), [1], (8, 8, 1), (1, 1, 1))
    slices = torch.tensor([1.0, 5.0, 2.0]).repeat(1, 8, 8, 1)
    image = torch.empty(1, 8, 8, 3)
    augment.apply(drawn, augment.Source(slices, None, torch.zeros(1)), (0, 0, 0), image, None)
    assert torch.allclose(image, slices, atol=1e-6)


def test_full_resolution_changes_nothing():
    image = torch.rand(2, 6, 5, 4)
    before = image.clone()
    LowResolution().apply(image, (1.0, 1.0, 1.0))
    assert torch.allclose(image, before)


@pytest.mark.parametrize("kind", [Blur, LowResolution])
def test_patches_are_as_often_changed_as_said(kind):
    name = kind.name
    often = kind(probability=0.25)
    drawn = [often.draw(stream_of([number], name), (8, 8, 8), (1, 1, 1)) for number in range(400)]
    values = [value[0] for value in drawn if value is not None]
    assert 70 <= len(values) <= 130
    low, high = (0.5, 1.0)
    assert low <= min(values) < low + 0.05
    assert high - 0.05 < max(values) <= high


def test_they_are_off_and_written_only_where_they_are_on():
    assert {"blur", "low_resolution"}.isdisjoint(Augment().model_dump())
    on = Augment(blur={"probability": 0.2})
    assert on.model_dump()["blur"] == {"probability": 0.2, "sigma": (0.5, 1.0)}
    assert "low_resolution" not in on.model_dump()


def test_labels_stay_sharp():
    label = np.zeros((1, 8, 8, 1), np.uint8)
    label[0, 4:] = 3
    settings = {name: {"probability": 0} for name in ("affine", "contrast", "gamma", "noise")}
    settings |= {"blur": {"probability": 1}, "low_resolution": {"probability": 1}}
    drawn = augment.draw(Augment(**settings), [1], (8, 8, 1), (1, 1, 1))
    source = augment.Source(torch.from_numpy(label).float(), torch.from_numpy(label), torch.zeros(1))
    image, of_label = torch.empty(1, 8, 8, 1), torch.empty(1, 8, 8, 1, dtype=torch.uint8)
    augment.apply(drawn, source, (0, 0, 0), image, of_label)
    assert of_label.numpy().tolist() == label.tolist()
    assert 0 < float(image[0, 4, 4, 0]) < 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"blur": {"sigma": (0, 1)}}, "greater than 0"),
        ({"low_resolution": {"factor": (-0.5, 1)}}, "greater than 0"),
        ({"low_resolution": {"probability": 2}}, "less than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        Augment(**settings)
