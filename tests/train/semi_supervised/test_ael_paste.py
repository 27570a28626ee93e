"""Pasting into the right part of the body, hard examples, and what AEL does with data that teach little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from given_networks import factory
from test_ael import bank_at, batch_of, logits_of

from medseg import methods
from medseg.data.augment import Draw
from medseg.data.body_place import place_in_body
from medseg.errors import ConfigError
from medseg.method import Clock
from medseg.ops.augmentation.transforms import Affine, Flip, Rot90
from medseg.ops.losses.hard_examples import HardExampleLoss
from medseg.ops.semi_supervised.body_alignment import align_to_body


class Body:
    """A volume of which the body is the slices 2 to 12, 0 to 5 and 4 to 8."""

    body = ("00" + "1" * 11 + "000", "111111", "0000" + "1" * 5)


def place(scale: float = 0.1, *, first: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    return torch.cat([torch.eye(3) * scale, torch.tensor(first)[:, None]], 1)


def test_a_place_counts_from_the_first_slice_with_tissue_to_the_last_by_hand():
    """First voxel (4, 0, 8): (2/10, 0, 4/4); a step is 1/10, 1/5 and 1/4."""
    found = place_in_body(Body(), Draw({}, {}), (4, 0, 8), (6, 6, 4), (0, 1, 2))
    assert found[:, 3].tolist() == pytest.approx([0.2, 0.0, 1.0])
    assert found[:, :3].diagonal().tolist() == pytest.approx([0.1, 0.2, 0.25])
    assert int((found[:, :3] != 0).sum()) == 3


def test_of_planes_the_axis_across_is_left_out():
    found = place_in_body(Body(), Draw({}, {}), (4, 0, 8), (6, 6, 1), (0, 1))
    assert found.tolist() == [pytest.approx([0.1, 0, 0.2]), pytest.approx([0, 0.2, 0])]


@pytest.mark.parametrize(
    ("transforms", "values"),
    [
        ({"flip": Flip(axes=(0, 2))}, {"flip": (0, 2)}),
        ({"rot90": Rot90(axes=(0, 1))}, {"rot90": 1}),
        ({"rot90": Rot90(axes=(0, 1)), "flip": Flip(axes=(1,))}, {"rot90": 3, "flip": (1,)}),
        ({"affine": Affine()}, {"affine": np.array([[0.9, 0.2, 0], [-0.2, 0.9, 0], [0, 0, 1.1]])}),
        ({"affine": Affine(), "flip": Flip(axes=(0,))}, {"affine": np.diag([0.5, 1.0, 1.0]), "flip": (0,)}),
    ],
)
def test_a_place_goes_along_with_turns_flips_and_zoom(transforms, values):
    """Every voxel of a patch of coordinates, changed as the draw says, is where the place says."""
    draw, patch, start = Draw(transforms, values), (7, 5, 3), (3, 1, 2)
    wanted = draw.source_shape(patch)
    offsets = np.stack(np.meshgrid(*[np.arange(length) for length in wanted], indexing="ij")).reshape(3, -1)
    middle = (np.array(wanted) - 1)[:, None] / 2
    matrix = np.eye(3) if draw.matrix is None else draw.matrix
    coordinates = torch.from_numpy(matrix @ (offsets - middle) + middle + np.array(start)[:, None])
    coordinates = coordinates.reshape(3, *wanted)
    for kind, value in draw.spatial():
        coordinates = kind.apply(coordinates, value)
    body = (coordinates - torch.tensor([2, 0, 4]).view(3, 1, 1, 1)) / torch.tensor([10, 5, 4]).view(3, 1, 1, 1)
    found = place_in_body(Body(), draw, start, patch, (0, 1, 2)).double()
    voxels = torch.stack(torch.meshgrid(*[torch.arange(length) for length in patch], indexing="ij")).double()
    said = torch.einsum("ab,bxyz->axyz", found[:, :3], voxels) + found[:, 3].view(3, 1, 1, 1)
    assert torch.allclose(said, body, atol=1e-6)


def test_a_donor_is_moved_by_whole_voxels_by_hand():
    """The donor begins a voxel earlier along the first axis of the body: its voxels move one back."""
    image = torch.arange(24.0).reshape(1, 4, 3, 2)
    label = torch.arange(24, dtype=torch.uint8).reshape(1, 4, 3, 2)
    moved, moved_label = align_to_body(image, label, place(), place(first=(0.1, 0.0, 0.0)))
    assert torch.equal(moved[:, :3], image[:, 1:])
    assert torch.equal(moved_label[:, :3], label[:, 1:])
    assert bool((moved_label[:, 3] == 255).all())


def test_a_mirrored_donor_is_mirrored_back():
    image, label = torch.randn(1, 4, 3, 2), torch.randint(0, 3, (1, 4, 3, 2), dtype=torch.uint8)
    mirrored = place(first=(0.3, 0.0, 0.0))
    mirrored[0, 0] = -0.1
    back, back_label = align_to_body(image.flip(1), label.flip(1), mirrored, place())
    assert torch.equal(back, image)
    assert torch.equal(back_label, label)


def test_a_smaller_body_is_brought_to_the_size_of_the_other():
    """Half as many voxels from end to end: each voxel of the donor becomes two along each axis."""
    label = torch.arange(64, dtype=torch.uint8).reshape(1, 4, 4, 4)
    image, larger = align_to_body(label.float(), label, place(0.2), place(0.1, first=(-0.01, -0.01, -0.01)))
    assert larger[0, :, 0, 0].tolist() == [0, 0, 16, 16]
    assert larger[0, 0, 0].tolist() == [0, 0, 1, 1]
    assert torch.equal(image, larger.float())


def moved_body(method, shift: float):
    """Paste class 2 of an earlier patch into one that lies elsewhere in its body; what is added, and where it was."""
    method.bank = bank_at([0.9, 0.9, 0.1])
    method.pastable[:] = torch.tensor([False, False, True])
    torch.manual_seed(0)
    labeled = batch_of(3, size=3)["labeled"]
    places = torch.stack([place()] * 3)
    method._paste_classes(labeled["image"], labeled["label"], None, places)
    empty = torch.zeros_like(labeled["label"])
    elsewhere = torch.stack([place(first=(0.0, shift, 0.0))] * 3)
    _, labels = method._paste_classes(labeled["image"], empty, None, elsewhere)
    return (labels[0, 0] == 2).nonzero(), (labeled["label"][1, 0] == 2).nonzero()


def test_voxels_are_pasted_where_the_body_of_the_other_patient_has_them():
    options = {"pasted_classes": 1, "paste_probability": 1.0}
    pasted, original = moved_body(methods.build("ael", factory(3, 3), **options), 0.2)
    assert torch.equal(pasted, original - torch.tensor([0, 2, 0]))  # two voxels further along the second axis
    pasted, original = moved_body(methods.build("ael", factory(3, 3), paste="in_place", **options), 0.2)
    assert torch.equal(pasted, original)


def test_what_the_other_patch_does_not_show_vanishes_and_is_counted():
    method = methods.build("ael", factory(3, 3), pasted_classes=1, paste_probability=1.0)
    pasted, _ = moved_body(method, 9.0)
    assert not len(pasted)
    assert float(method.watched()["vanished"]) == 3
    moved_body(method, 0.1)
    assert float(method.watched()["vanished"]) == 0


def test_a_class_that_vanishes_when_it_is_resized_leaves_the_image_as_it_is_and_is_counted():
    method = methods.build("ael", factory(2, 3), pasted_classes=1, paste_probability=1.0, paste="free",
                           paste_scale=(0.05, 0.05))  # fmt: skip
    method.bank = bank_at([0.9, 0.9, 0.1])
    method.pastable[:] = torch.tensor([False, False, True])
    labeled = batch_of(2)["labeled"]
    images, labels = method._paste_classes(labeled["image"], labeled["label"], None)
    assert torch.equal(images, labeled["image"])
    assert torch.equal(labels, labeled["label"])
    assert method.copy_paste.vanished == 3


# Hard examples.


@pytest.mark.parametrize(
    ("probability", "share", "learnt"),
    [(0.7, 0.0, [0.6, 0.2]), (0.7, 0.5, [0.6, 0.2]), (0.3, 0.75, [0.6, 0.2, 0.8]), (0.0, 0.0, []), (1.0, 0.0, None)],
)
def test_hard_examples_by_hand(probability, share, learnt):
    """Own-class probabilities 0.9, 0.6, 0.2 and 0.8 of four voxels; a fifth is ignored."""
    own = [0.9, 0.6, 0.2, 0.8]
    logits, label = logits_of([[*own, 0.1]], [[0, 1, 2, 0, 0]])
    label[..., 4] = 255
    found = HardExampleLoss(probability=probability, share=share)(logits, label)
    costs = -np.log(own if learnt is None else learnt) if learnt != [] else np.zeros(1)
    assert float(found) == pytest.approx(costs.mean(), abs=1e-6)


def test_easy_and_ignored_voxels_have_no_gradient_and_all_255_is_zero():
    logits, label = logits_of([[0.9, 0.6, 0.2]], [[0, 1, 2]])
    logits.requires_grad_()
    label[..., 2] = 255
    HardExampleLoss(share=0.0)(logits, label).backward()
    assert (logits.grad.abs().sum((0, 1, 2)) > 0).tolist() == [False, True, False]
    label[:] = 255
    assert float(HardExampleLoss()(logits, label).detach()) == 0


def test_classes_that_a_label_does_not_cover_count_as_background():
    """By hand: two classes of equal logits beside the background, of which one is not covered: 2/3."""
    covered = torch.tensor([[True, True, False]])
    found = HardExampleLoss()(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.uint8), covered)
    assert float(found) == pytest.approx(-np.log(2 / 3), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": 2.0}, "share 2: must be at least 0 and at most 1"),
        ({"probability": -1.0}, "probability -1: must be at least 0"),
        ({"least": 1}, "loss hard_examples has no option 'least'; it has probability, share"),
        ({"share": "all"}, "share of loss hard_examples is 'all'"),
    ],
)
def test_bad_options_of_hard_examples_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        methods.build("ael", factory(2, 3), loss="hard_examples", loss_options=options)


def test_hard_examples_take_the_place_of_cross_entropy():
    method = methods.build("ael", factory(2, 3), loss="hard_examples", loss_options={"probability": 0.5})
    terms = method(batch_of(2), Clock(1, 4))
    assert float(terms["hard_examples"].detach()) > 0
    assert "cross_entropy" not in terms


# Data that teach little.


def test_a_batch_without_foreground_leaves_the_bank_of_the_others_and_a_finite_loss():
    method = methods.build("ael", factory(2, 3))
    method.bank.update(*logits_of([[0.9, 0.6, 0.2]], [[0, 1, 2]]))
    before = method.bank.confidence()[1:].clone()
    batch = batch_of(2)
    batch["labeled"]["label"][:] = 0
    terms = method(batch, Clock(1, 4))
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    assert torch.equal(method.bank.confidence()[1:], before)


def test_a_confidence_that_rounding_brought_above_one_is_one():
    bank = bank_at([1.0000002, 0.5])
    assert bank.confidence().tolist() == [1.0, 0.5]
    drawn = bank.draw_probability(torch.ones(2, dtype=torch.bool), root=True)
    assert bool(torch.isfinite(drawn).all())
    assert bank.rates().tolist() == [0, 1]
