"""DTC's consistency with changed copies of the images, which is not in its paper, and the disagreement watched."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from every_method import make_batch
from given_networks import ByChannel, factory
from lives import assert_same

from medseg.method import Clock
from medseg.methods.dtc import DTC, disagreement, views_of
from medseg.portable.networks.encoder_decoder import EncoderDecoder

CLOCK = Clock(99, 100)
WEIGHT = math.exp(-5 * (1 / 40) ** 2)
"""Of the consistency at `CLOCK`: 39 of 40 steps are over."""


class Placed(EncoderDecoder):
    """Features are the channels of the image, each voxel multiplied by a number of its place; keeps what it saw."""

    def __init__(self, places):
        super().__init__()
        self.places = places
        self.spatial_dims, self.width = places.ndim, 3
        self.seen, self.said = [], []

    def encode(self, image):
        self.seen.append(image)
        return [image]

    def decode(self, features):
        said = features[0] * self.places
        if said.requires_grad:
            said.retain_grad()
        self.said.append(said)
        return said


class OfPlaces(ByChannel):
    """Two classes: channels 0 and 1 are logits, channel 2 a distance before tanh, all of them by place."""

    def __init__(self, places, spacing_mm=None):
        super().__init__(2, places.ndim, 3)
        self.network = Placed(places)
        self.patch = tuple(places.shape)
        self.spacing_mm = self.native_mm = spacing_mm or (1.0,) * places.ndim

    def encoder_decoder(self):
        return self.network


def batch_of(images, unlabeled=None):
    label = torch.zeros(len(images), 1, *images.shape[2:], dtype=torch.uint8)
    distance = torch.zeros_like(images[:, :1])
    labeled = {"image": images, "label": label, "distance": distance, "distance_valid": torch.ones_like(distance)}
    return {"labeled": labeled} | ({} if unlabeled is None else {"unlabeled": {"image": unlabeled}})


def made(places, **options):
    return DTC(OfPlaces(places), **options)


def random_images(shape, count=3, seed=0):
    """Logits of some size, and distances whose signs matter while their map is not flat everywhere."""
    images = torch.randn(count, 3, *shape, generator=torch.Generator().manual_seed(seed))
    images[:, 2] *= 0.003
    return images


ROW = torch.tensor([[1.0, 0.0, -1.0]])
ALIKE = torch.tensor([0.0, math.log(3), 0.1]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
"""One image of one row, everywhere alike: p is 3/4, 1/2, 1/4, and the distances say 0, 1/2, 1."""


@pytest.mark.parametrize(
    ("options", "gap", "unlike"),
    [
        ({}, (0.75**2 + 0 + 0.75**2) / 3, 2 / 3),
        ({"changed_copy": "mirrored"}, (0.25**2 + 0 + 0.25**2) / 3, 0),
        ({"changed_copy": "mirrored", "copy_output": "mask"}, (0.25**2 + 0 + 0.25**2) / 3, 0),
    ],
)
def test_a_row_by_hand(options, gap, unlike):
    method = made(ROW, steepness=1e5, **options)
    terms = method(batch_of(ALIKE), CLOCK)
    assert terms["consistency"].item() == pytest.approx(WEIGHT * gap, rel=1e-5)
    assert method.watched()["disagreement"].item() == pytest.approx(unlike)


def changed_slowly(kind, image, number, noise):
    """The copy of one image `(3, *spatial)`, by NumPy's words."""
    if kind == "noise":
        return image + 0.2 * noise
    if kind == "mirrored":
        return np.flip(image, 1 + number)
    return np.rot90(image, 1 + number, (1, 2))


def back_slowly(kind, image, number):
    if kind == "noise":
        return image
    if kind == "mirrored":
        return np.flip(image, 1 + number)
    return np.rot90(image, -1 - number, (1, 2))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
@pytest.mark.parametrize("output", ["distances", "mask"])
@pytest.mark.parametrize("kind", ["noise", "mirrored", "turned"])
def test_the_consistency_is_its_equation(kind, output, shape):
    places = 1 + torch.rand(shape, generator=torch.Generator().manual_seed(4))
    options = {"changed_copy": kind, "copy_output": output} | ({"noise": 0.2} if kind == "noise" else {})
    method = made(places, **options)
    images = random_images(shape)
    torch.manual_seed(7)
    found = method(batch_of(images[:1], images[1:]), CLOCK)["consistency"].item()

    torch.manual_seed(7)
    ways = {"noise": 1, "mirrored": len(shape), "turned": 3}[kind]
    numbers = torch.randint(ways, (3,)).tolist()
    noise = torch.randn(images.shape).numpy()
    assert kind == "noise" or len(set(numbers)) > 1, "each image has its own"
    total = 0.0
    for index, number in enumerate(numbers):
        first = images[index].numpy() * places.numpy()
        copy = changed_slowly(kind, images[index].numpy(), number, noise[index]) * places.numpy()
        second = back_slowly(kind, copy, number)
        of_distances, of_mask = (second, first) if output == "distances" else (first, second)
        for voxel in np.ndindex(*shape):
            zero, one = float(of_mask[(0, *voxel)]), float(of_mask[(1, *voxel)])
            inside = 1 / (1 + math.exp(min(1500 * math.tanh(float(of_distances[(2, *voxel)])), 700)))
            total += (inside - 1 / (1 + math.exp(zero - one))) ** 2
    assert found == pytest.approx(WEIGHT * total / (3 * math.prod(shape)), rel=1e-4)


@pytest.mark.parametrize("kind", ["mirrored", "turned"])
def test_where_every_place_is_alike_a_turned_copy_costs_what_the_image_costs(kind):
    batch = batch_of(random_images((4, 4, 3)))
    alike = torch.ones(4, 4, 3)
    plain, copied = made(alike)(batch, CLOCK), made(alike, changed_copy=kind)(batch, CLOCK)
    assert copied["consistency"].item() == pytest.approx(plain["consistency"].item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["noise", "mirrored", "turned"])
@pytest.mark.parametrize("output", ["distances", "mask"])
def test_the_other_terms_see_the_images_alone(kind, output):
    batch = batch_of(random_images((4, 4, 3)))
    weights = {"cross_entropy": 1.0, "exclusivity": 1.0}
    places = torch.rand(4, 4, 3)
    plain = made(places, **weights)(batch, CLOCK)
    copied = made(places, changed_copy=kind, copy_output=output, **weights)(batch, CLOCK)
    assert {name for name in plain if not torch.equal(plain[name], copied[name])} == {"consistency"}


def test_noise_has_the_size_that_is_asked_for_and_is_each_images_own():
    networks = OfPlaces(torch.ones(32, 32, 8))
    method = DTC(networks, changed_copy="noise", noise=0.2)
    images = torch.zeros(2, 3, 32, 32, 8)
    method(batch_of(images), CLOCK)
    first, second = networks.network.seen
    assert torch.equal(first, images)
    assert second.std().item() == pytest.approx(0.2, rel=0.02)
    assert abs(second.mean().item()) < 0.01
    assert not torch.equal(second[0], second[1])


@pytest.mark.parametrize(("output", "learns", "only_near_zero"), [("distances", 0, 1), ("mask", 1, 0)])
def test_the_mask_learns_from_the_distances_of_the_other_pass(output, learns, only_near_zero):
    """Which of the two passes has a gradient of the consistency, in the channels of its mask and of its distances."""
    networks = OfPlaces(torch.ones(1, 3))
    method = DTC(networks, changed_copy="noise", copy_output=output, noise=0.0)
    images = torch.zeros(1, 3, 1, 3)
    images[0, 2, 0] = torch.tensor([0.001, 0.06, -0.06])
    method(batch_of(images.requires_grad_()), CLOCK)["consistency"].backward()
    of_passes = [torch.zeros_like(images) if said.grad is None else said.grad for said in networks.network.said]
    mask, distances = of_passes[learns][0, 1, 0].abs(), of_passes[only_near_zero][0, 2, 0].abs()
    assert (mask > 1e-3).all()
    assert distances[0] > 1e-3
    assert distances[1:].max() < 1e-9
    assert of_passes[only_near_zero][0, :2].abs().max() == 0
    assert of_passes[learns][0, 2].abs().max() == 0


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("output", ["distances", "mask"])
@pytest.mark.parametrize("kind", ["noise", "mirrored", "turned"])
def test_the_consistency_trains_the_network_and_both_heads(kind, output, dims):
    torch.manual_seed(0)
    networks = factory(dims, 3, name="unet", options={"norm": "batch"})
    method = DTC(networks, changed_copy=kind, copy_output=output, head_blocks=1, steepness=5.0)
    terms = method(make_batch(method, dims), CLOCK)
    terms["consistency"].backward()
    idle = [
        name for name, each in method.named_parameters() if each.grad is None or not torch.isfinite(each.grad).all()
    ]
    assert idle == []
    for part in (method.network.network, method.network.head, method.distance_head):
        assert any(parameter.grad.abs().max() > 0 for parameter in part.parameters())


def test_running_statistics_are_of_the_images_alone():
    states = []
    for kind in ("none", "noise"):
        torch.manual_seed(0)
        method = DTC(factory(3, 3, name="unet", options={"norm": "batch"}), changed_copy=kind, head_blocks=1)
        method(make_batch(method, 3), CLOCK)
        states.append({name: value.clone() for name, value in method.named_buffers()})
    counts = {int(value) for name, value in states[1].items() if name.endswith("num_batches_tracked")}
    assert counts == {1}, "the pass of the copy counts nowhere"
    assert_same(*states)


@pytest.mark.parametrize("kind", ["noise", "mirrored", "turned"])
def test_the_copies_follow_the_generator_that_checkpoints_keep(kind):
    method = made(torch.rand(4, 4, 3), changed_copy=kind)
    batch = batch_of(random_images((4, 4, 3), count=6))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    drawn = [method(batch, CLOCK)["consistency"] for _ in range(3)]
    assert len({value.item() for value in drawn}) == 3
    torch.set_rng_state(state)
    assert torch.equal(method(batch, CLOCK)["consistency"], drawn[0])


@pytest.mark.parametrize(
    ("kind", "patch", "spacing_mm", "ways"),
    [
        ("none", (8, 8, 8), (1.0, 1.0, 1.0), 1),
        ("noise", (8, 8, 8), (1.0, 1.0, 1.0), 1),
        ("mirrored", (8, 8, 8), (1.0, 1.0, 1.0), 3),
        ("mirrored", (8, 8, 1), (1.0, 1.0, 1.0), 2),
        ("mirrored", (8, 6), (1.0, 2.0), 2),
        ("turned", (8, 8, 8), (1.0, 1.0, 1.0), 9),
        ("turned", (8, 8, 6), (1.0, 1.0, 1.0), 3),
        ("turned", (8, 8, 8), (1.0, 1.0, 3.0), 3),
        ("turned", (8, 7, 6), (1.0, 1.0, 1.0), 3),
        ("turned", (8, 8), (1.0, 1.0), 3),
        ("turned", (8, 6), (1.0, 1.0), 1),
    ],
)
def test_a_copy_lies_otherwise_and_keeps_its_shape(kind, patch, spacing_mm, ways):
    networks = OfPlaces(torch.ones(patch), spacing_mm)
    image = torch.arange(math.prod(patch)).view(1, 1, *patch)
    views = views_of(kind, networks)
    copies = [view(image) for view in views]
    assert len(copies) == ways
    assert all(copy.shape == image.shape for copy in copies)
    assert len({tuple(copy.flatten().tolist()) for copy in copies}) == ways
    if kind in ("mirrored", "turned"):
        assert not any(torch.equal(copy, image) for copy in copies)
    for view, copy in zip(views, copies, strict=True):
        assert torch.equal(view.inverse()(copy), image)


def test_disagreement_counts_voxels_in_which_any_structure_differs():
    probability = torch.tensor([[0.6, 0.2, 0.2], [0.2, 0.5, 0.3], [0.2, 0.3, 0.5], [0.3, 0.3, 0.4], [0.9, 0.1, 0.0]])
    inside = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    probability, inside = probability.T[None, :, :, None], inside.T[None, :, :, None]
    mask = torch.ones(1, 1, 5, 1, dtype=torch.bool)
    assert disagreement(inside, probability, mask).item() == pytest.approx(3 / 5)
    mask[0, 0, 2:4] = False
    assert disagreement(inside, probability, mask).item() == pytest.approx(1 / 3)


def test_nothing_is_watched_before_the_first_step():
    assert made(torch.ones(2, 2)).watched() == {}
