"""DTC against its equations, written out slowly, and against the worked numbers of the paper's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from given_networks import Given

from medseg.method import Clock
from medseg.methods.dtc import DTC
from medseg.methods.supervised import Supervised
from medseg.ops import losses
from medseg.ops.schedules import sigmoid_rampup


class Fixed(torch.nn.Module):
    """A 'network' whose output is a parameter."""

    def __init__(self, output):
        super().__init__()
        self.output = torch.nn.Parameter(output)

    def forward(self, image):
        return self.output[: len(image)]


def batch_of(label, *, unlabeled=0, classes=2, boundary="half"):
    shape = label.shape[1:]
    targets = DTC(Given(torch.nn.Identity(), classes), boundary=boundary).targets()
    made = [targets(row) for row in label]
    batch = {"labeled": {"image": torch.zeros(len(label), 1, *shape), "label": torch.from_numpy(label)[:, None]}}
    for key in made[0]:
        batch["labeled"][key] = torch.from_numpy(np.stack([m[key] for m in made]))
    if unlabeled:
        batch["unlabeled"] = {"image": torch.zeros(unlabeled, 1, *shape)}
    return batch


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    label = (rng.random((2, 6, 5, 4)) < 0.4).astype(np.uint8)
    output = torch.from_numpy(rng.normal(0, 0.003, (4, 3, 6, 5, 4)).astype(np.float32))
    output[:, :2] *= 500
    return label, output


def test_every_term_equals_its_equation(case):
    label, output = case
    batch = batch_of(label, unlabeled=2)
    terms = DTC(Given(Fixed(output), 2))(batch, Clock(2999, 6000))

    z = np.tanh(output[:, 2].double().numpy())
    p = 1 / (1 + np.exp(-(output[:, 1] - output[:, 0]).double().numpy()))  # official: one channel, sigmoid
    phi = batch["labeled"]["distance"][:, 0].double().numpy()
    both = square_p = square_y = lsf = dtc = 0.0
    for b in range(4):
        for v in np.ndindex(6, 5, 4):
            inside = 1 / (1 + math.exp(min(1500 * z[b][v], 700)))
            dtc += (inside - p[b][v]) ** 2
            if b < 2:
                y = float(label[b][v])
                both, square_p, square_y = both + p[b][v] * y, square_p + p[b][v] ** 2, square_y + y**2
                lsf += (z[b][v] - phi[b][v]) ** 2
    assert terms["dice"].item() == pytest.approx(1 - (2 * both + 1e-5) / (square_p + square_y + 1e-5), abs=1e-5)
    assert terms["distance"].item() == pytest.approx(0.3 * lsf / (2 * 120), rel=1e-4)
    assert terms["consistency"].item() == pytest.approx(0.252051 * dtc / (4 * 120), rel=1e-4)
    assert terms["cross_entropy"].item() == 0


def test_ramp_takes_the_published_values():
    at = {
        0: 0.006738,
        149: 0.006738,
        150: 0.008625,
        1500: 0.060055,
        2999: 0.252051,
        3000: 0.286505,
        5999: 0.996880,
    }
    for iteration, value in at.items():
        assert sigmoid_rampup(iteration / 6000, 40) == pytest.approx(value, abs=1e-6)
    assert sigmoid_rampup(1.0, 40) == 1.0
    assert sigmoid_rampup(0.5) == pytest.approx(math.exp(-5 * 0.25))


def test_dice_takes_the_published_value():
    p = torch.tensor([0.9, 0.6, 0.2, 0.1])
    logits = torch.stack([torch.zeros(4), torch.logit(p)])[None]
    assert losses.soft_dice(logits, torch.tensor([[[1, 1, 0, 0]]])).item() == pytest.approx(0.068323, abs=1e-5)


def test_gradient_reach_of_the_transform_layer():
    def consistency_gradient(z):
        output = torch.zeros(1, 3, 1, 1, 1)
        output[:, 2] = math.atanh(z)
        network = Fixed(output)
        method = DTC(Given(network, 2))
        batch = batch_of(np.zeros((1, 1, 1, 1), np.uint8))
        method(batch, Clock(99, 100))["consistency"].backward()
        return network.output.grad.flatten()

    assert consistency_gradient(0.06)[2].abs() < 1e-9
    assert consistency_gradient(0.001)[2].abs() > 1e-3
    assert consistency_gradient(0.06)[1].abs() > 1e-3  # the segmentation head is moved wherever they disagree


def test_supervised_terms_do_not_touch_unlabelled_rows(case):
    label, output = case
    network = Fixed(output)
    terms = DTC(Given(network, 2), cross_entropy=1.0)(batch_of(label, unlabeled=2), Clock(0, 10))
    (terms["dice"] + terms["distance"] + terms["cross_entropy"]).backward()
    assert network.output.grad[2:].abs().max() == 0
    assert network.output.grad[:2].abs().max() > 0


def test_without_its_own_terms_it_is_supervised_dice_bit_for_bit(case):
    label, output = case
    batch = batch_of(label)
    ours, plain = Fixed(output.clone()), Fixed(output[:, :2].clone())
    sum(DTC(Given(ours, 2), beta=0.0, consistency=0.0)(batch, Clock(1, 2)).values()).backward()
    sum(Supervised(Given(plain, 2), cross_entropy=0.0)(batch, Clock(1, 2)).values()).backward()
    assert torch.equal(ours.output.grad[:, :2], plain.output.grad)


def test_no_unlabelled_images_uses_the_labelled_ones(case):
    label, output = case
    terms = DTC(Given(Fixed(output), 2))(batch_of(label), Clock(9, 10))
    assert terms["consistency"] > 0


def test_ignored_voxels_change_no_term(case):
    label, output = case
    label = label.copy()
    label[:, :2] = 255
    batch = batch_of(label)
    before = DTC(Given(Fixed(output), 2), cross_entropy=1.0)(batch, Clock(9, 10))
    moved = output.clone()
    moved[:, :, :2] += 1.0
    after = DTC(Given(Fixed(moved), 2), cross_entropy=1.0)(batch, Clock(9, 10))
    for name in before:
        assert before[name].item() == pytest.approx(after[name].item(), abs=1e-7), name


@pytest.mark.parametrize("fill", [0, 1])
def test_absent_and_full_classes_are_finite_and_consistent(fill):
    label = np.full((1, 4, 4, 4), fill, np.uint8)
    output = torch.zeros(1, 3, 4, 4, 4)
    output[:, 1] = 20.0 if fill else -20.0
    output[:, 2] = -3.0 if fill else 3.0
    terms = DTC(Given(Fixed(output), 2))(batch_of(label), Clock(9, 10))
    assert all(torch.isfinite(term) for term in terms.values())
    assert terms["consistency"].item() < 1e-6  # the perfect answer costs nothing
