"""The locally adaptive loss against values worked out by hand and a slow twin written from the paper's equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from given_networks import factory
from slow_locally_adaptive import Twin

from medseg import methods
from medseg.errors import ConfigError
from medseg.method import Clock
from medseg.ops.losses import segmentation as losses
from medseg.ops.losses.locally_adaptive import LocallyAdaptiveLoss, default_sigma, minkowski_mean
from medseg.ops.losses.pixel_losses import pixel_loss

ROW = torch.tensor([[[[2.0, 0.0, 0.0]], [[0.0, 0.0, 3.0]]]], dtype=torch.float64)
ROW_LABEL = torch.tensor([[[[0, 0, 1]]]], dtype=torch.uint8)
SHAPES = {2: (7, 9), 3: (4, 5, 6)}


def scene(dims: int, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits of two images, and labels in blocks with an ignored border."""
    rng = np.random.default_rng(seed)
    shape = SHAPES[dims]
    logits = torch.from_numpy(rng.normal(size=(2, classes, *shape)))
    label = rng.integers(0, classes, size=(2, 1, *shape)).astype(np.uint8)
    label[:, :, 1:3, 1:4] = 1
    label[:, :, 0] = 255
    return logits, torch.from_numpy(label)


@pytest.mark.parametrize(
    ("pooling", "power", "worked_out"),
    [("weight", 1, 0.234082), ("weight", 5, 0.346058), ("count", 1, 0.284018), ("count", 5, 0.401561)],
)
def test_three_pixels_by_hand(pooling, power, worked_out):
    loss = LocallyAdaptiveLoss(2, kernel=(1, 3), power=power, pooling=pooling, sigma=0.8)
    assert float(loss(ROW, ROW_LABEL)) == pytest.approx(worked_out, abs=1e-6)


def test_minkowski_means_by_hand():
    values = torch.tensor([[1.0, 2.0, 4.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    means = [float(minkowski_mean(values, mask, power)) for power in (1, 2, 5, 20)]
    assert means == pytest.approx([2.3333, 2.6458, 3.2314, 3.7862], abs=1e-4)
    assert means == sorted(means)


@pytest.mark.parametrize("pooling", ["weight", "count"])
@pytest.mark.parametrize(("dims", "kernel"), [(2, (3, 3)), (2, (5, 5)), (2, (1, 3)), (3, (3, 3, 3)), (3, (1, 3, 5))])
def test_equals_the_slow_twin(dims, kernel, pooling):
    logits, label = scene(dims)
    for power in (1, 5):
        fast = float(LocallyAdaptiveLoss(dims, kernel=kernel, power=power, pooling=pooling)(logits, label))
        twin = Twin(kernel, power, default_sigma(max(kernel)), pooling)
        assert fast == pytest.approx(twin(logits, label), rel=1e-10)


@pytest.mark.parametrize("dims", [2, 3])
def test_without_neighbours_it_is_cross_entropy_in_value_and_gradient(dims):
    logits, label = scene(dims)
    first, second = (logits.float().requires_grad_() for _ in range(2))
    ours = LocallyAdaptiveLoss(dims, kernel=1, power=1)(first, label)
    theirs = losses.cross_entropy(second, label)
    ours.backward()
    theirs.backward()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dims", [2, 3])
def test_without_neighbours_it_is_cross_entropy_to_the_last_digits(dims):
    logits, label = scene(dims)
    first, second = (logits.clone().requires_grad_() for _ in range(2))
    ours = LocallyAdaptiveLoss(dims, kernel=1, power=1)(first, label)
    theirs = torch.nn.functional.cross_entropy(second, label.squeeze(1).long(), ignore_index=255)
    ours.backward()
    theirs.backward()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-12)
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("power", [1, 5])
@pytest.mark.parametrize("kernel", [1, 3])
def test_equal_logits_give_the_logarithm_of_the_number_of_classes(kernel, power):
    label = scene(2)[1]
    for pooling in ("weight", "count"):
        loss = LocallyAdaptiveLoss(2, kernel=kernel, power=power, pooling=pooling)
        assert float(loss(torch.zeros(2, 4, 7, 9), label)) == pytest.approx(1.386294, abs=1e-6)


def test_constant_logits_of_each_class_are_pooled_to_themselves():
    label = scene(2)[1]
    of_class = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 4.0]])
    logits = of_class[torch.where(label == 255, 0, label).long().squeeze(1)].movedim(-1, 1)
    plain = float(losses.cross_entropy(logits, label))
    assert float(LocallyAdaptiveLoss(2, power=1)(logits, label)) == pytest.approx(plain, rel=1e-5)
    assert float(LocallyAdaptiveLoss(2, power=1, pooling="count")(logits, label)) > plain


def test_a_constant_on_all_classes_of_a_voxel_changes_nothing():
    logits, label = scene(3)
    moved = logits + torch.randn(2, 1, *SHAPES[3], dtype=torch.float64)
    loss = LocallyAdaptiveLoss(3)
    assert float(loss(moved, label)) == pytest.approx(float(loss(logits, label)), rel=1e-12)


def test_where_no_neighbour_has_the_class_it_is_cross_entropy():
    label = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8).repeat(3, 4)[None, None]
    logits = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    ours = LocallyAdaptiveLoss(2, kernel=3, power=1)(logits, label)
    assert float(ours) == pytest.approx(float(losses.cross_entropy(logits, label)), rel=1e-6)


@pytest.mark.parametrize("pooling", ["weight", "count"])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_gradient_is_that_of_the_formula(dims, pooling):
    logits, label = scene(dims)
    loss = LocallyAdaptiveLoss(dims, kernel=3, pooling=pooling)
    assert torch.autograd.gradcheck(lambda values: loss(values, label), (logits.requires_grad_(),))


def test_a_window_of_one_class_teaches_voxels_of_another_nothing():
    logits, label = scene(2)
    logits.requires_grad_()
    windows = LocallyAdaptiveLoss(2, kernel=3).windows(logits, label)
    windows[label.squeeze(1) == 1].sum().backward()
    assert float(logits.grad[(label != 1).expand_as(logits)].abs().max()) == 0
    assert float(logits.grad.abs().max()) > 0


def test_ignored_voxels_are_as_if_cut_off():
    logits, label = scene(2)
    logits.requires_grad_()
    loss = LocallyAdaptiveLoss(2, kernel=3)
    whole = loss(logits, label)
    whole.backward()
    assert float(logits.grad[:, :, 0].abs().max()) == 0
    cut = loss(logits[:, :, 1:], label[:, :, 1:])
    assert float(cut.detach()) == pytest.approx(float(whole.detach()), rel=1e-12)


def test_where_all_is_ignored_nothing_is_learnt():
    logits = torch.randn(2, 3, 5, 5, requires_grad=True)
    loss = LocallyAdaptiveLoss(2)(logits, torch.full((2, 1, 5, 5), 255, dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(logits.grad.abs().max()) == 0


@pytest.mark.parametrize("over", ["batch", "image"])
def test_of_an_empty_batch_nothing_is_learnt(over):
    logits = torch.randn(0, 3, 5, 5, requires_grad=True)
    loss = LocallyAdaptiveLoss(2, over=over)(logits, torch.zeros(0, 1, 5, 5, dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == 0


def test_perfect_logits_have_a_finite_gradient():
    label = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 500.0
    logits.requires_grad_()
    loss = LocallyAdaptiveLoss(2)(logits, label)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(logits.grad).all()


def test_large_half_precision_logits_stay_finite():
    logits, label = scene(2)
    large = (logits.sign() * 60000).to(torch.float16).requires_grad_()
    loss = LocallyAdaptiveLoss(2)(large, label)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(large.grad).all()


def test_turned_and_mirrored_images_have_the_same_loss():
    logits, label = scene(2)
    loss = LocallyAdaptiveLoss(2)
    value = float(loss(logits, label))
    for change in (lambda x: x.flip(-1), lambda x: x.rot90(1, (-2, -1))):
        assert float(loss(change(logits), change(label))) == pytest.approx(value, rel=1e-10)


def test_a_volume_of_one_slice_is_an_image():
    logits, label = scene(2)
    flat = LocallyAdaptiveLoss(2, kernel=3)(logits, label)
    deep = LocallyAdaptiveLoss(3, kernel=(1, 3, 3))(logits[:, :, None], label[:, :, None])
    assert float(deep) == pytest.approx(float(flat), rel=1e-12)


def test_mean_of_each_image_is_another_than_that_of_the_batch():
    logits, label = scene(2)
    each = [float(LocallyAdaptiveLoss(2)(logits[i : i + 1], label[i : i + 1])) for i in range(2)]
    assert float(LocallyAdaptiveLoss(2, over="image")(logits, label)) == pytest.approx(np.mean(each), rel=1e-10)
    pooled = (np.mean(np.array(each) ** 5)) ** 0.2  # both have as many windows
    assert float(LocallyAdaptiveLoss(2)(logits, label)) == pytest.approx(pooled, rel=1e-10)


def test_centres_on_a_grid():
    logits, label = scene(2)
    loss = LocallyAdaptiveLoss(2, kernel=3, power=1, stride=2)
    windows = loss.windows(logits, label)[:, ::2, ::2]
    known = (label != 255).squeeze(1)[:, ::2, ::2]
    assert float(loss(logits, label)) == pytest.approx(float(windows[known].mean()), rel=1e-12)


def test_classes_that_a_label_does_not_cover_are_background():
    """By hand: one voxel, three classes of equal logits, class 2 not covered: p(background) = 2/3."""
    covered = torch.tensor([[True, True, False]])
    label = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    loss = LocallyAdaptiveLoss(2, kernel=1, power=5)(torch.zeros(1, 3, 1, 1), label, covered)
    assert float(loss) == pytest.approx(math.log(1.5), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": 4}, "kernel [4, 4]: a window has a voxel in its middle"),
        ({"kernel": -1}, "lengths are odd"),
        ({"kernel": [3, 3, 3]}, "one of each of the 2 axes"),
        ({"power": 0.5}, "power 0.5"),
        ({"sigma": 0}, "sigma 0: must be greater than 0"),
        ({"stride": 0}, "stride 0: must be at least 1"),
        ({"pooling": "mean"}, "pooling of loss locally_adaptive is 'mean'"),
        ({"window": 3}, "has no option 'window'; it has kernel, power, pooling"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ConfigError) as caught:
        methods.build("supervised", factory(2, 3), loss="locally_adaptive", loss_options=options)
    assert words in str(caught.value)


def test_an_unknown_loss_is_answered_with_the_known_ones():
    with pytest.raises(
        ConfigError, match="loss 'focal' is not known; one of cross_entropy, binary_cross_entropy, locally_adaptive"
    ):
        methods.build("supervised", factory(2, 3), loss="focal")
    with pytest.raises(ConfigError, match="loss cross_entropy has no options, got kernel"):
        methods.build("supervised", factory(2, 3), loss_options={"kernel": 3})


def test_what_cannot_be_meant_is_said():
    logits, label = scene(2)
    with pytest.raises(ValueError, match=r"a label has the class 2; the network has the classes 0 to 1"):
        LocallyAdaptiveLoss(2)(logits[:, :2], label)
    with pytest.raises(ValueError, match="one output channel"):
        LocallyAdaptiveLoss(2)(logits[:, :1], label)
    with pytest.warns(UserWarning, match="look like probabilities"):
        LocallyAdaptiveLoss(2)(logits.softmax(1), label)
    with pytest.warns(UserWarning, match="reaches over the whole image"):
        LocallyAdaptiveLoss(2, kernel=15)(logits, label)
    with pytest.warns(UserWarning, match="nearly the maximum"):
        LocallyAdaptiveLoss(2, power=50)


def test_damaged_logits_are_seen():
    logits, label = scene(2)
    logits[0, 0, 3, 3] = math.nan
    assert math.isnan(float(LocallyAdaptiveLoss(2)(logits, label)))


@pytest.mark.parametrize("dims", [2, 3])
def test_it_takes_the_place_of_cross_entropy_in_a_method(dims):
    torch.manual_seed(0)
    method = methods.build("supervised", factory(dims, 3), loss="locally_adaptive", loss_options={"kernel": 3})
    method.eval()  # without dropout
    image = torch.randn(2, 2, *[16] * dims)
    label = torch.randint(0, 3, (2, 1, *[16] * dims)).to(torch.uint8)
    terms = method({"labeled": {"image": image, "label": label}}, Clock(0, 10))
    logits = method.network(image)
    assert float(terms["locally_adaptive"].detach()) == pytest.approx(
        float(pixel_loss("locally_adaptive", dims, {"kernel": 3})(logits, label, None).detach()), rel=1e-5
    )
    terms["locally_adaptive"].backward()
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in method.parameters())
