"""The locally adaptive loss beyond the paper: millimetres, weights of classes, an exponent that waits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from given_networks import factory
from slow_locally_adaptive import Twin

from medseg import methods
from medseg.errors import ConfigError
from medseg.method import Clock
from medseg.ops.losses.locally_adaptive import LocallyAdaptiveLoss
from medseg.ops.losses.pixel_losses import SupervisedTerms, pixel_loss

ROW = torch.tensor([[[[2.0, 0.0, 0.0]], [[0.0, 0.0, 3.0]]]], dtype=torch.float64)
ROW_LABEL = torch.tensor([[[[0, 0, 1]]]], dtype=torch.uint8)
"""Whose windows of 3 with sigma 0.8 have the losses 0.226039, 0.427621 and 0.048587."""


@pytest.mark.parametrize("power", [1, 5])
@pytest.mark.parametrize("distance", ["chessboard", "euclidean"])
@pytest.mark.parametrize(("shape", "kernel", "edges"), [((6, 7), (3, 5), (2.0, 0.5)), ((3, 3, 4), 3, (1.0, 1.5, 4.0))])
def test_equals_the_slow_twin(shape, kernel, edges, distance, power):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, 3, *shape)))
    label = torch.from_numpy(rng.integers(0, 3, size=(2, 1, *shape)).astype(np.uint8))
    label[:, :, 0, :2] = 255
    dims = len(shape)
    loss = LocallyAdaptiveLoss(
        dims, kernel=kernel, power=power, sigma=1.3, distance=distance, distance_unit="mm", spacing_mm=edges,
        class_weights={"b": 0.5, "c": 3.0}, labels=("a", "b", "c"),
    )  # fmt: skip
    lengths = (kernel,) * dims if isinstance(kernel, int) else kernel
    twin = Twin(lengths, power, 1.3, distance=distance, edges=edges, weights=(1.0, 0.5, 3.0))
    assert float(loss(logits, label)) == pytest.approx(twin(logits, label), rel=1e-10)
    if power == 5 and distance == "euclidean":
        assert torch.autograd.gradcheck(lambda values: loss(values, label), (logits.requires_grad_(),))


@pytest.mark.parametrize(("power", "worked_out"), [(1, 0.234082), (5, 0.346058)])
def test_millimetres_by_hand(power, worked_out):
    """Neighbours at 2 mm with a sigma of 1.6 mm weigh what neighbours at 1 voxel do with 0.8 voxels, 0.457833."""
    loss = LocallyAdaptiveLoss(2, kernel=(1, 3), power=power, sigma=1.6, distance_unit="mm", spacing_mm=(1.0, 2.0))
    assert float(loss(ROW, ROW_LABEL)) == pytest.approx(worked_out, abs=1e-6)


def test_the_default_sigma_is_of_the_shortest_edge_by_hand():
    """Sigma 0.8 mm: a neighbour at 2 mm weighs exp(-4 / 1.28) = 0.043937, so that the losses are
    log(1 + e^-1.915824) = 0.137342, log(1 + e^-0.084176) = 0.651945 and 0.048587."""
    loss = LocallyAdaptiveLoss(2, kernel=(1, 3), power=1, distance_unit="mm", spacing_mm=(1.0, 2.0))
    assert float(loss(ROW, ROW_LABEL)) == pytest.approx((0.137342 + 0.651945 + 0.048587) / 3, abs=1e-6)
    even = LocallyAdaptiveLoss(2, kernel=(1, 3), power=1, distance_unit="mm", spacing_mm=(2.0, 2.0))
    assert float(even(ROW, ROW_LABEL)) == pytest.approx(0.234082, abs=1e-6), "as in voxels"


@pytest.mark.parametrize(
    ("power", "worked_out"),
    [
        (1, (0.226039 + 0.427621 + 3 * 0.048587) / 5),
        (5, ((0.226039**5 + 0.427621**5 + 0.145762**5) / 5) ** 0.2),  # 0.312723
    ],
)
def test_weights_of_classes_by_hand(power, worked_out):
    loss = LocallyAdaptiveLoss(2, kernel=(1, 3), power=power, class_weights={"b": 3}, labels=("a", "b"))
    assert float(loss(ROW, ROW_LABEL)) == pytest.approx(worked_out, abs=1e-6)


def test_a_class_of_weight_0_teaches_nothing_and_alone_gives_no_loss():
    loss = LocallyAdaptiveLoss(2, kernel=(1, 3), class_weights={"b": 0}, labels=("a", "b"))
    logits = ROW.clone().requires_grad_()
    loss(logits, ROW_LABEL).backward()
    assert float(logits.grad[..., 2].abs().max()) == 0
    assert float(logits.grad.abs().max()) > 0
    alone = loss(logits, torch.ones_like(ROW_LABEL))
    alone.backward()
    assert float(alone.detach()) == 0
    assert torch.isfinite(logits.grad).all()


def test_an_image_of_weight_0_is_in_no_mean_of_images():
    """By hand: the row's windows of class a have losses of 0.226039 and 0.427621; the other image is all of class b."""
    loss = LocallyAdaptiveLoss(
        2, kernel=(1, 3), power=1, over="image", class_weights={"b": 0}, labels=("a", "b")
    )  # fmt: skip
    labels = torch.cat([ROW_LABEL, torch.ones_like(ROW_LABEL)])
    found = loss(torch.cat([ROW, ROW]), labels)
    assert float(found) == pytest.approx((0.226039 + 0.427621) / 2, abs=1e-6)


def test_the_exponent_waits_for_the_end_of_the_warm_up():
    """By hand: the plain mean until a tenth of the run is over, then the power of 5."""
    networks = factory(2, 2)
    options = {"kernel": [1, 3], "warmup": 0.1}
    terms = SupervisedTerms(networks, dice=0, cross_entropy=1, loss="locally_adaptive", loss_options=options)
    found = []
    for clock in (Clock(0, 100), Clock(9, 100), Clock(10, 100), None):
        found.append(float(terms(ROW, ROW_LABEL, None, clock)["locally_adaptive"]))
    assert found == pytest.approx([0.234082, 0.234082, 0.346058, 0.346058], abs=1e-6)


@pytest.mark.parametrize("name", ["supervised", "mean_teacher", "ael", "crest"])
def test_every_method_tells_the_loss_where_in_the_run_it_is(name, monkeypatch):
    seen = []
    usual = LocallyAdaptiveLoss.__call__

    def spied(self, logits, label, covered=None, fraction=1.0):
        seen.append(fraction)
        return usual(self, logits, label, covered, fraction)

    monkeypatch.setattr(LocallyAdaptiveLoss, "__call__", spied)
    torch.manual_seed(0)
    method = methods.build(name, factory(2, 3), loss="locally_adaptive", loss_options={"kernel": 1, "warmup": 0.5})
    image, label = torch.randn(2, 2, 16, 16), torch.randint(0, 3, (2, 1, 16, 16)).to(torch.uint8)
    batch = {"labeled": {"image": image, "label": label}, "unlabeled": {"image": image}, "all": {"image": image}}
    assert torch.isfinite(sum(method(batch, Clock(1, 4)).values()))
    assert seen == [0.25]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"warmup": 5}, "warmup 5: must be at least 0 and at most 1"),
        ({"class_weights": {"liver": 2}}, "class_weights has 'liver'; accepted are background, class1, class2"),
        ({"class_weights": {"class1": -1}}, "class_weights has -1 for class1: must be at least 0 and finite"),
        ({"class_weights": [1, 2, 3]}, "class_weights of loss locally_adaptive is [1, 2, 3]"),
        ({"distance": "manhattan"}, "distance of loss locally_adaptive is 'manhattan'"),
        ({"distance_unit": "cm"}, "distance_unit of loss locally_adaptive is 'cm'"),
        ({"spacing_mm": [1, 1]}, "has no option 'spacing_mm'"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ConfigError) as caught:
        methods.build("supervised", factory(2, 3), loss="locally_adaptive", loss_options=options)
    assert words in str(caught.value)


def test_without_a_spacing_there_are_no_millimetres():
    with pytest.raises(ValueError, match=r"spacing_mm \[\]: one of each of the 3 axes"):
        LocallyAdaptiveLoss(3, distance_unit="mm")
    with pytest.raises(ValueError, match="pooling 'mean': one of weight, count"):
        LocallyAdaptiveLoss(3, pooling="mean")
    loss = pixel_loss("locally_adaptive", 3, {"distance_unit": "mm"}, spacing_mm=(1, 1, 3))
    assert loss.edges == (1, 1, 3)
