"""Components of a finished label map: what is kept, of maps drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medseg.portable.inference.components import checked_rules, keep_components, with_components
from medseg.portable.inference.multi_view import ViewsInferer
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.networks.adapters import Planar, Views

LARGEST = {"keep": "largest"}


def drawn() -> torch.Tensor:
    """Label 1 in pieces of 4, 2 (touching only by a corner of it) and 1 voxels; label 2 in pieces of 3 and 1."""
    labels = torch.zeros(8, 6, 4, dtype=torch.uint8)
    labels[0, 0, 0:4] = 1  # 4 voxels
    labels[1, 1, 0] = labels[1, 2, 0] = 1  # 2 voxels that touch those by an edge: one component of 6
    labels[5, 0, 0] = 1  # 1 voxel
    labels[7, 5, 0:3] = 2  # 3 voxels
    labels[3, 3, 3] = 2  # 1 voxel
    return labels


def counts(labels: torch.Tensor) -> dict[int, int]:
    values, found = labels.unique(return_counts=True)
    return dict(zip(values.tolist(), found.tolist(), strict=True))


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({}, {1: 7, 2: 4}),
        ({1: LARGEST}, {1: 6, 2: 4}),
        ({1: LARGEST, 2: LARGEST}, {1: 6, 2: 3}),
        ({2: {"smallest_mm3": 6.0}}, {1: 7, 2: 3}),  # voxels of 2 mm3: 3 are just 6
        ({2: {"smallest_mm3": 6.1}}, {1: 7}),
        ({1: {"smallest_mm3": 2}}, {1: 7, 2: 4}),
        ({5: LARGEST}, {1: 7, 2: 4}),  # nowhere
    ],
)
def test_what_stays(rules, kept):
    labels = keep_components(drawn(), rules, voxel_mm3=2.0)
    found = counts(labels)
    assert {value: count for value, count in found.items() if value} == kept
    assert found[0] == labels.numel() - sum(kept.values())
    unchanged = labels != 0
    assert torch.equal(labels[unchanged], drawn()[unchanged])


def test_what_is_removed_gets_the_value_of_the_background():
    labels = keep_components(drawn() + 3, {4: LARGEST}, background=3)
    assert counts(labels) == {3: 8 * 6 * 4 - 10, 4: 6, 5: 4}


@pytest.mark.parametrize(("smallest_mm3", "kept"), [(23.9, 24), (24, 24), (24.1, 0)])
def test_a_solid_block_is_judged_by_its_volume_too(smallest_mm3, kept):
    labels = torch.zeros(5, 5, 5, dtype=torch.uint8)
    labels[1:3, 1:3, 1:4] = 1  # fills its bounding box; 12 voxels of 2 mm3
    keep_components(labels, {1: {"smallest_mm3": smallest_mm3}}, voxel_mm3=2.0)
    assert int(labels.sum()) * 2 == kept


@pytest.mark.parametrize(
    "rule",
    [
        {"keep": "smallest"},
        {"keep": "largest", "smallest_mm3": 3},
        {"smallest_mm3": 0},
        {"smallest_mm3": True},
        {},
        "a",
    ],
)
def test_other_rules_are_refused(rule):
    with pytest.raises(ValueError, match=r"components of the label 1 is .*; accepted are"):
        checked_rules({"1": rule})


def test_a_label_is_a_number_and_a_volume_needs_the_size_of_a_voxel():
    with pytest.raises(ValueError, match="has the key 'liver'; accepted are label values"):
        with_components(SlabInferer((4, 4, 4)), {"liver": LARGEST})
    with pytest.raises(ValueError, match="the size of its voxels"):
        keep_components(drawn(), {1: {"smallest_mm3": 2}})


class Threshold(nn.Module):
    """Class 1 where the image is bright."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.5 - image, image - 0.5], 1)


def two_pieces() -> MetaTensor:
    """A bright piece of 8 voxels and one of 2; on disk the first axis runs backwards and voxels have 0.5 mm3."""
    image = torch.zeros(1, 1, 12, 10, 8)
    image[0, 0, 2:4, 2:4, 2:4] = 1
    image[0, 0, 9, 8, 5:7] = 1
    stored = torch.diag(torch.tensor([-1.0, 0.5, 1.0, 1.0]).double())
    stored[0, 3] = 11.0
    network = torch.diag(torch.tensor([1.0, 0.5, 1.0, 1.0]).double())
    return MetaTensor(
        image, meta={"affine": network, "original_affine": stored, "spatial_shape": np.array([12, 10, 8])}
    )


@pytest.mark.parametrize(
    ("rules", "voxels"),
    [({}, 10), ({"1": LARGEST}, 8), ({"1": {"smallest_mm3": 4}}, 8), ({"1": {"smallest_mm3": 1}}, 10)],
)
def test_both_inferers_apply_them_on_the_files_grid(rules, voxels):
    slabs = with_components(SlabInferer((8, 8, 8)), rules)(two_pieces(), Threshold())
    networks = Views({"axial": Planar(Threshold(), 2), "coronal": Planar(Threshold(), 1)})
    inferer = ViewsInferer((8, 8, 8), ("axial", "coronal"))
    views = with_components(inferer, rules)(two_pieces(), networks)
    for labels in (slabs, views):
        assert int((labels == 1).sum()) == voxels
        assert bool((labels[0, 0, 8:10, 2:4, 2:4] == 1).all())  # backwards, as on disk


def test_probabilities_stay_as_they_are():
    kept = []

    def make(shape):
        kept.append(np.zeros(shape, np.uint8))
        return kept[-1]

    for rules in ({}, {"1": LARGEST}):
        inferer = with_components(SlabInferer((8, 8, 8)), rules)
        inferer.probabilities = make
        inferer(two_pieces(), Threshold())
    assert (kept[0].argmax(0) == 1).sum() == 10
    np.testing.assert_array_equal(*kept)
