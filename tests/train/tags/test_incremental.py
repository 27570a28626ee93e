"""Losses and targets for new classes beside old ones, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medseg.ops.losses.segmentation import binary_cross_entropy
from medseg.ops.tags import incremental as step
from medseg.ops.tags.constant_tags import refuse_constant_tags

KNOWN = torch.tensor([0, 1])
MAPS = torch.tensor([0.10, 0.55, 0.30, 0.05]).view(1, 4, 1, 1)  # background, an old class, two new ones
OLD = torch.tensor([0.2, 0.9, 0.0, 0.0]).view(1, 4, 1, 1)
TAGS = torch.tensor([[0, 1, 0]], dtype=torch.uint8)  # nobody looks at the old one; the first new one is there


def targets(alpha: float) -> torch.Tensor:
    return step.soft_targets(step.keep_present(MAPS, TAGS), OLD, KNOWN, alpha)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0.0, [0.1, 0.9, 0.3, 0]), (0.5, [0.05, 0.9, 0.65, 0]), (0.9, [0.01, 0.9, 0.93, 0]), (1.0, [0, 0.9, 1, 0])],
)
def test_soft_targets(alpha: float, expected: list[float]) -> None:
    found = targets(alpha)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected))
    assert found[0, 1] == OLD[0, 1]
    assert found[0, 3] == 0
    assert found[0, 0] <= OLD[0, 0]


def test_the_loss_of_soft_targets() -> None:
    every = torch.ones(1, 4, dtype=torch.bool)
    assert torch.equal(step.taught_classes(targets(0.5), TAGS, KNOWN), every)
    assert float(step.soft_target_loss(torch.zeros(1, 4, 1, 1), targets(0.5), every)) == pytest.approx(4 * math.log(2))
    least = targets(0.5).clamp(1e-6, 1 - 1e-6).logit()
    assert float(step.soft_target_loss(least, targets(0.5), every)) == pytest.approx(1.171045, abs=1e-4)


def test_what_lies_outside_of_an_image_is_not_taught() -> None:
    """Two voxels, the second of which is padding; its logits of 9 would cost more than the ln 2 of each class."""
    inside = torch.tensor([True, False]).view(1, 1, 1, 2)
    logits = torch.tensor([0.0, 9.0]).expand(1, 4, 1, 2)
    both = targets(0.5).expand(1, 4, 1, 2)
    every = torch.ones(1, 4, dtype=torch.bool)
    assert float(step.soft_target_loss(logits, both, every, inside)) == pytest.approx(4 * math.log(2))
    assert float(step.soft_target_loss(logits, both, every)) > 4
    halves = torch.full((1, 4, 1, 2), 0.5)
    assert float(step.localization_prior_loss(logits, halves, KNOWN, inside)) == pytest.approx(math.log(2))


def test_an_image_whose_hard_targets_miss_a_class_teaches_nothing() -> None:
    maps = torch.tensor([0.6, 0.0, 0.4, 0.0]).view(1, 4, 1, 1)
    hard = step.soft_targets(maps, OLD, KNOWN, 1.0)
    taught = step.taught_classes(hard, TAGS, KNOWN)
    assert not taught.any()
    logits = torch.zeros(1, 4, 1, 1, requires_grad=True)
    loss = step.soft_target_loss(logits, hard, taught)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert step.taught_classes(step.soft_targets(maps, OLD, KNOWN, 0.5), TAGS, KNOWN).all()


def test_a_tag_that_nobody_knows_teaches_nothing() -> None:
    tags = torch.tensor([[0, 255, 0]], dtype=torch.uint8)
    found = step.taught_classes(step.soft_targets(step.keep_present(MAPS, tags), OLD, KNOWN, 0.5), tags, KNOWN)
    assert found.tolist() == [[True, True, False, True]]


def test_an_image_without_a_new_class_teaches_background() -> None:
    none = torch.zeros(1, 3, dtype=torch.uint8)
    found = step.soft_targets(step.keep_present(MAPS, none), OLD, KNOWN, 0.5)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.2, 0.9, 0.0, 0.0]))
    assert step.taught_classes(found, none, KNOWN).all()


def test_the_loss_of_given_labels() -> None:
    label = torch.tensor([0, 2, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    old = OLD.expand(1, 4, 1, 3)
    zeros = torch.zeros(1, 4, 1, 3, requires_grad=True)
    loss = step.given_label_loss(zeros, label, old, KNOWN)
    assert float(loss.detach()) == pytest.approx(4 * math.log(2))
    loss.backward()
    # sigmoid(0) - target over the voxels that tell of a class: of the background .2 and 0, of new ones 0 or 1
    expected = torch.tensor([[0.3, 0.5, 0], [-0.4, -0.4, -0.4], [0.5, -0.5, 0], [0.5, 0.5, 0]])
    shares = torch.tensor([2.0, 3.0, 2.0, 2.0])
    torch.testing.assert_close(zeros.grad[0, :, 0], expected / shares[:, None])


def test_given_labels_that_do_not_cover_a_class_say_nothing_of_it() -> None:
    label = torch.tensor([0, 2], dtype=torch.uint8).view(1, 1, 1, 2)
    covered = torch.tensor([[True, False, True, False]])
    zeros = torch.zeros(1, 4, 1, 2, requires_grad=True)
    step.given_label_loss(zeros, label, OLD.expand(1, 4, 1, 2), KNOWN, covered).backward()
    assert [bool(of_class.any()) for of_class in zeros.grad[0]] == [True, True, True, False]
    assert zeros.grad[0, 0, 0].tolist() == [0, 0.5], "a voxel of label 0 may be of the class that nobody looked for"


def test_the_prior() -> None:
    half = torch.full((1, 2, 1, 1), 0.5)
    assert float(step.localization_prior_loss(torch.zeros(1, 2, 1, 1), half, KNOWN)) == pytest.approx(math.log(2))
    nearly = torch.full((1, 2, 1, 1), 0.9)
    best = step.localization_prior_loss(torch.full((1, 2, 1, 1), 2.197225), nearly, KNOWN)
    assert float(best) == pytest.approx(0.325083, abs=1e-6)
    scores = torch.randn(2, 4, 3, 3, requires_grad=True)
    step.localization_prior_loss(scores, torch.rand(2, 4, 3, 3), KNOWN).backward()
    assert torch.equal(scores.grad[:, 2:], torch.zeros(2, 2, 3, 3))
    assert scores.grad[:, :2].all()


def test_the_old_network_in_the_order_of_the_new_one() -> None:
    logits = torch.tensor([0.0, 2.0, -2.0]).view(1, 3, 1, 1)
    known = torch.tensor([0, 3, 1])
    sigmoids = step.old_probabilities(logits, known, 4, independent=True).flatten()
    torch.testing.assert_close(sigmoids, torch.tensor([0.5, 0.119203, 0.0, 0.880797]))
    softmax = step.old_probabilities(logits, known, 4, independent=False).flatten()
    torch.testing.assert_close(softmax, torch.tensor([0.117310, 0.015876, 0.0, 0.866813]), atol=1e-5, rtol=0)


def test_sure_voxels_and_their_loss() -> None:
    maps = torch.tensor([[0.8, 0.5, 0.3, 0.1], [0.1, 0.3, 0.45, 0.5]]).view(1, 2, 1, 4)
    sure = step.confident_labels(maps)
    assert sure[0, :, 0].tolist() == [[True, False, False, False], [False, False, True, True]]
    zeros = torch.zeros(1, 2, 1, 4)
    there, absent = torch.ones(1, 1, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.uint8)
    usable = [step.found_as_tagged(sure, tags) for tags in (there, absent, there * 255)]
    assert [found.tolist() for found in usable] == [[True], [False], [False]]
    assert float(step.balanced_cross_entropy(zeros, sure, usable[0])) == pytest.approx(0.173287, abs=1e-6)
    assert float(step.balanced_cross_entropy(zeros, sure, usable[1])) == 0


def test_a_voxel_of_two_classes_is_not_sure() -> None:
    maps = torch.tensor([[0.5, 0.1], [0.5, 0.9]]).view(1, 2, 1, 2)
    assert step.confident_labels(maps, share=0.5)[0, :, 0].tolist() == [[False, False], [False, True]]


def test_a_sigmoid_for_each_class() -> None:
    logits = torch.tensor([[1.0, 0.0], [-1.0, 3.0], [0.5, 7.0]]).view(1, 3, 1, 2)
    label = torch.tensor([[[[1, 255]]]], dtype=torch.uint8)
    expected = math.log(1 + math.e) + math.log(1 + math.e) + math.log(1 + math.exp(0.5))
    assert float(binary_cross_entropy(logits, label)) == pytest.approx(expected, abs=1e-6)
    covered = torch.tensor([[True, True, False]])
    assert float(binary_cross_entropy(logits, label, covered)) == pytest.approx(2 * math.log(1 + math.e), abs=1e-6)
    background = torch.zeros_like(label)
    alone = math.log(1 + math.exp(-1))  # of class 1; the background may be class 2
    assert float(binary_cross_entropy(logits[..., :1], background[..., :1], covered)) == pytest.approx(alone, abs=1e-6)


def test_tags_that_all_images_have() -> None:
    refuse_constant_tags([{1: True}, {1: False, 2: True}, {2: False}], {1: "ball", 2: "box"})
    with pytest.raises(ValueError, match="the tags of box: in 2 images present, in 0 absent"):
        refuse_constant_tags([{1: True, 2: True}, {1: False, 2: True}], {1: "ball", 2: "box"})
