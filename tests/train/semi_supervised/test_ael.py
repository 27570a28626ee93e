"""AEL, mean teacher and CutMix against values worked out by hand; the worked numbers of the paper's card."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from given_networks import factory
from torch import nn

from medseg import methods
from medseg.errors import ConfigError
from medseg.method import Clock
from medseg.ops.augmentation.strong_views import jitter_intensities
from medseg.ops.contact_sheet import MixedImages
from medseg.ops.losses.segmentation import weighted_mean
from medseg.ops.semi_supervised import mixing
from medseg.ops.semi_supervised.confidence_bank import ConfidenceBank
from medseg.ops.semi_supervised.donors import DonorBank
from medseg.ops.semi_supervised.teacher import AveragedTeacher, teacher_decay

SIZE = {2: (24, 32), 3: (16, 16, 24)}


def logits_of(own: list[list[float]], labels: list[list[int]], classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one row whose softmax has the given probability for the voxel's own class, the rest spread evenly."""
    label = torch.tensor(labels)[:, None, None].to(torch.uint8)
    probability = torch.empty(len(own), classes, 1, len(own[0]), dtype=torch.float64)
    for image, (chances, values) in enumerate(zip(own, labels, strict=True)):
        for place, (chance, value) in enumerate(zip(chances, values, strict=True)):
            probability[image, :, 0, place] = (1 - chance) / (classes - 1)
            probability[image, value, 0, place] = chance
    return probability.log(), label


TWO_IMAGES = logits_of([[0.9, 0.7, 0.6, 0.2], [0.8, 0.8, 0.5, 0.4]], [[0, 0, 1, 2], [0, 0, 0, 1]])


def bank_at(values: list[float], **options: object) -> ConfidenceBank:
    """A bank long in use."""
    bank = ConfidenceBank(len(values), **options)
    bank.average.copy_(torch.tensor(values))
    bank.updates.fill_(100_000)
    return bank


def batch_of(dims: int, classes: int = 3, size: int = 3, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    shape = SIZE[dims]
    label = np.zeros((size, 1, *shape), np.uint8)
    label[:, :, 2:9, 2:9] = 1
    label[1:, :, 10:14, 10:15] = 2
    images = rng.standard_normal((2, size, 2, *shape), dtype=np.float32)
    labeled = {"image": torch.from_numpy(images[0]), "label": torch.from_numpy(label)}
    return {"labeled": labeled, "unlabeled": {"image": torch.from_numpy(images[1])}}


@pytest.mark.parametrize(("pooled", "new"), [(True, (0.74, 0.50, 0.20)), (False, (0.75, 0.50, 0.20))])
def test_confidence_of_two_images_by_hand(pooled, new):
    bank = ConfidenceBank(3, momentum=0.0, pooled=pooled)
    bank.update(*TWO_IMAGES)
    assert bank.confidence().tolist() == pytest.approx(new, abs=1e-6)


@pytest.mark.parametrize(("momentum", "moved"), [(0.9, (0.524, 0.5, 0.470)), (0.999, (0.50024, 0.5, 0.49970))])
def test_the_bank_moves_by_its_momentum(momentum, moved):
    bank = bank_at([0.5, 0.5, 0.5], momentum=momentum)
    bank.update(*TWO_IMAGES)
    assert bank.average.tolist() == pytest.approx(moved, abs=1e-6)


@pytest.mark.parametrize(("absent", "moved"), [("skip", (0.5616, 0.5, 0.47)), ("zero", (0.5616, 0.45, 0.423))])
def test_classes_that_a_batch_lacks(absent, moved):
    bank = bank_at([0.5, 0.5, 0.5], momentum=0.9, absent=absent)
    bank.update(*TWO_IMAGES)
    bank.update(*logits_of([[0.9, 0.9]], [[0, 0]]))
    assert bank.average.tolist() == pytest.approx(moved, abs=1e-6)


def test_a_class_that_is_never_there_decays_where_absent_is_zero():
    bank = bank_at([1.0, 1.0], momentum=0.999, absent="zero")
    only_background = logits_of([[0.9]], [[0]], classes=2)
    for _ in range(693):
        bank.update(*only_background)
    assert float(bank.average[1]) == pytest.approx(0.4999, abs=1e-4)


def test_the_first_update_is_not_pulled_to_zero():
    bank = ConfidenceBank(3, momentum=0.999)
    assert bank.confidence().tolist() == [0, 0, 0]
    bank.update(*TWO_IMAGES)
    assert bank.confidence().tolist() == pytest.approx((0.74, 0.50, 0.20), abs=1e-5)


def test_draw_probabilities_by_hand():
    bank = bank_at([0.9, 0.5, 0.1])
    everything = torch.ones(3, dtype=torch.bool)
    assert bank.draw_probability(everything).tolist() == pytest.approx((0.21198, 0.31624, 0.47178), abs=1e-5)
    root = bank.draw_probability(everything, root=True).tolist()
    assert root == pytest.approx((0.22933, 0.33902, 0.43165), abs=1e-5)


def test_a_class_without_a_labelled_voxel_is_not_drawn_and_does_not_set_the_rates():
    bank = bank_at([0.9, 0.5, 0.0])
    bank.updates[2] = 0
    everything = torch.ones(3, dtype=torch.bool)
    assert float(bank.draw_probability(everything)[2]) == 0
    assert bank.rates().tolist() == pytest.approx((0.2, 1, 1), abs=1e-5)
    assert ConfidenceBank(3).draw_probability(everything).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("exponent", "rates"), [(1, (0.1111, 0.5556, 1)), (2, (0.0123, 0.3086, 1)), (0.5, (0.3333, 0.7454, 1))]
)
def test_rates_by_hand(exponent, rates):
    assert bank_at([0.9, 0.5, 0.1]).rates(exponent=exponent).tolist() == pytest.approx(rates, abs=1e-4)


def test_rates_of_equal_confidences_are_one():
    assert bank_at([1.0, 1.0]).rates().tolist() == [1, 1]
    assert bank_at([0.3, 0.3]).rates().tolist() == [1, 1]
    assert bank_at([0.999, 0.5]).rates(least=0.05).tolist() == pytest.approx([0.05, 1])


def test_partly_labelled_images_count_what_they_cover():
    """By hand: two classes of equal logits beside the background, of which one is not covered: p(background) = 2/3."""
    bank = ConfidenceBank(3, momentum=0.0)
    bank.update(
        torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.tensor([[True, True, False]])
    )
    assert float(bank.confidence()[0]) == pytest.approx(2 / 3)


def test_weighted_means_by_hand():
    cost = torch.tensor([0.1, 0.9, 0.3, 1.2])
    confidence = torch.tensor([0.9, 0.6, 0.8, 0.5])
    drawn = torch.tensor([1.0, 1.0, 0.0, 1.0])
    assert float(weighted_mean(cost, confidence**2 * drawn)) == pytest.approx(0.496479, abs=1e-6)
    assert float(weighted_mean(cost, drawn)) == pytest.approx(0.733333, abs=1e-6)
    nothing = torch.zeros(4)
    cost.requires_grad_()
    value = weighted_mean(cost, nothing)
    value.backward()
    assert float(value.detach()) == 0
    assert float(cost.grad.abs().max()) == 0


def test_share_of_voxels_that_are_learnt_is_the_rate():
    method = methods.build("ael", factory(2, 3), reweight=0.0)
    method.bank = bank_at([0.9, 0.5, 0.1])
    torch.manual_seed(0)
    logits = torch.zeros(1, 3, 1000, 1000)
    logits[:, 1] = 5.0  # predicted everywhere: rate 0.5556
    logits.requires_grad_()
    method._learn(logits, torch.zeros(1, 3, 1000, 1000)).backward()
    kept = (logits.grad.abs().sum(1) > 0).float().mean()
    assert float(kept) == pytest.approx(0.5556, abs=0.002)


def test_decay_of_the_teacher_by_hand():
    decays = [teacher_decay(step, 0.99) for step in (0, 1, 9, 98, 99, 500)]
    assert decays == pytest.approx([0, 0.5, 0.9, 0.98990, 0.99, 0.99], abs=1e-5)


def test_the_teacher_is_the_student_after_the_first_step_and_then_follows():
    student = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    teacher = AveragedTeacher(student, decay=0.99)
    student[0].weight.data.fill_(4.0)
    teacher.follow(student, 0)
    assert float(teacher.network[0].weight) == 4.0
    student[0].weight.data.fill_(8.0)
    student[1].running_mean.fill_(3.0)
    teacher.follow(student, 1)
    assert float(teacher.network[0].weight) == 6.0
    assert float(teacher.network[1].running_mean) == 3.0
    assert not teacher.train().network[1].training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("dims", [2, 3])
def test_random_boxes_have_half_of_the_image(dims):
    torch.manual_seed(0)
    shape = (64, 80, 96)[:dims]
    for _ in range(200):
        box = mixing.random_box(shape)
        sides = [side.stop - side.start for side in box]
        for side, place, size in zip(sides, box, shape, strict=True):
            assert size // 2 <= side <= size
            assert place.start >= 0
            assert place.stop <= size
        assert np.prod(sides) / np.prod(shape) == pytest.approx(0.5, abs=0.03)


def test_a_component_has_its_own_box_and_small_ones_are_passed_over():
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[2:5, 3:9] = True  # 18 pixels
    mask[15, 15] = True
    assert mixing.component_box(mask, 17) == (slice(2, 5), slice(3, 9))
    assert mixing.component_box(mask, 18) is None
    mask[5, 9] = True  # touches by a corner
    assert mixing.component_box(mask, 17) == (slice(2, 6), slice(3, 10))
    boxes = {str(mixing.component_box(mask, 0)) for _ in range(50)}
    assert len(boxes) == 2


def test_mixed_images_and_targets_come_from_the_same_source():
    base, donor = torch.zeros(2, 1, 6, 6), torch.ones(2, 1, 6, 6)
    masks = mixing.box_masks([(slice(1, 3), slice(2, 5)), (slice(0, 0), slice(0, 0))], (6, 6), base.device)
    mixed = mixing.paste(base, donor, masks)
    assert float(mixed[0].sum()) == 6
    assert float(mixed[0, 0, 1:3, 2:5].sum()) == 6
    assert torch.equal(mixed[1], base[1])
    assert torch.equal(mixing.paste(base, donor, torch.ones_like(masks)), donor)


def test_other_images_are_never_the_image_itself():
    for count in (2, 3, 7):
        for _ in range(20):
            others = mixing.other_images(count)
            assert sorted(others) == list(range(count))
            assert all(other != number for number, other in enumerate(others))
    assert mixing.other_images(1) == [0]


def test_a_free_donor_keeps_its_values_and_ignores_what_is_outside():
    torch.manual_seed(0)
    image, label = torch.ones(1, 10, 12), torch.ones(1, 10, 12, dtype=torch.uint8)
    small, small_label = mixing.move_freely(image, label, (0.5, 0.5))
    assert int((small_label == 1).sum()) == 5 * 6
    assert int((small_label == 255).sum()) == 120 - 30
    assert torch.equal(small > 0, small_label == 1)
    large, large_label = mixing.move_freely(image, label, (2.0, 2.0))
    assert large.shape == image.shape
    assert bool((large_label == 1).all())


def test_the_donor_bank_keeps_the_last_of_each_class():
    bank = DonorBank(3, slots=2)
    assert not bank.holds(1)
    label = torch.ones(1, 4, 4, dtype=torch.uint8)
    for number in range(3):
        bank.store(1, torch.full((2, 4, 4), float(number)), label)
    assert sorted(float(image[0, 0, 0]) for image in bank.images[1]) == [1, 2]
    bank.forget([(1, 0)])
    assert bank.draw(1) == 1
    bank.forget([(1, 1)])
    assert not bank.holds(1)


def test_the_donor_bank_is_in_the_checkpoint():
    bank, other = DonorBank(3, slots=2), DonorBank(3, slots=2)
    bank.store(2, torch.randn(2, 4, 4), torch.ones(1, 4, 4, dtype=torch.uint8))
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.images, bank.images)
    assert other.holds(2)


def pasted(method, labeled, covered=None):
    """Paste with a bank that draws class 2 alone."""
    method.bank = bank_at([0.9, 0.9, 0.1])
    method.pastable[:] = torch.tensor([False, False, True])
    return method._paste_classes(labeled["image"], labeled["label"], covered)


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_pasted_is_the_donor_where_the_donor_has_the_class(dims):
    method = methods.build("ael", factory(dims, 3), pasted_classes=1, paste_probability=1.0)
    labeled = batch_of(dims)["labeled"]
    images, labels = pasted(method, labeled)
    changed = (labels != labeled["label"]) | (images != labeled["image"]).any(1, keepdim=True)
    assert bool(changed.any())
    assert bool((labels[changed] == 2).all())
    donor = labeled["image"][1:].permute(0, *range(2, dims + 2), 1).reshape(-1, 2)
    values = images.permute(0, *range(2, dims + 2), 1)[changed.squeeze(1)]
    assert all(bool((donor == value).all(1).any()) for value in values[:20])


def test_nothing_is_pasted_where_no_class_can_be():
    labeled = batch_of(2)["labeled"]
    for method in (methods.build("ael", factory(2, 3), paste="off"), methods.build("ael", factory(2, 3))):
        images, labels = method._paste_classes(labeled["image"], labeled["label"], None)  # an empty bank
        assert torch.equal(images, labeled["image"])
        assert torch.equal(labels, labeled["label"])


def test_a_class_that_an_image_does_not_cover_is_not_pasted_into_it():
    method = methods.build("ael", factory(2, 3), pasted_classes=1)
    labeled = batch_of(2)["labeled"]
    covered = torch.tensor([[True, True, False]] * 3)
    for seed in range(5):
        torch.manual_seed(seed)
        assert torch.equal(pasted(method, labeled, covered)[1], labeled["label"])


def test_a_rare_class_is_fetched_from_an_earlier_batch():
    method = methods.build("ael", factory(2, 3), pasted_classes=1)
    first, later = batch_of(2)["labeled"], batch_of(2, seed=1)["labeled"]
    later["label"][later["label"] == 2] = 0
    found = False
    for seed in range(4):
        torch.manual_seed(seed)
        pasted(method, first)
        found = found or bool((pasted(method, later)[1] == 2).any())
    assert found


@pytest.mark.parametrize("dims", [2, 3])
def test_with_everything_switched_off_it_is_cutmix(dims):
    shared = {"jitter": 0.2, "dice": 0.0, "cross_entropy": 1.0, "rampup": 0.4}
    off = {"reweight": 0.0, "sampling": 0.0, "cutmix": "random", "paste": "off"}
    torch.manual_seed(0)
    ael = methods.build("ael", factory(dims, 3), **shared, **off)
    torch.manual_seed(0)
    plain = methods.build("mean_teacher", factory(dims, 3), target="pseudo_labels", mix="cutmix", **shared)
    losses = []
    for method in (ael, plain):
        torch.manual_seed(7)
        terms = method(batch_of(dims), Clock(30, 100))
        losses.append({name: term.item() for name, term in terms.items()})
    assert losses[0] == losses[1]
    assert losses[0]["consistency"] > 0


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("options", [{}, {"paste": "free", "background_pasted": True}, {"absent": "zero"}])
def test_steps_of_ael_fill_the_banks_and_stay_finite(dims, options):
    torch.manual_seed(0)
    method = methods.build("ael", factory(dims, 3), area=0.0001, rampup=0.0, **options)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.01)
    for step in range(4):
        loss = torch.stack(list(method(batch_of(dims, seed=step), Clock(step, 4)).values())).sum()
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(Clock(step, 4))
    assert bool(method.unlabeled_donors.filled.any())
    assert method.labeled_donors.holds(1)
    assert method.labeled_donors.holds(2)
    assert bool((method.fractions[1:] > 0).all())


def test_the_bank_and_the_rates_are_watched():
    method = methods.build("ael", factory(2, 3), least_rate=0.05)
    method.bank = bank_at([0.9, 0.5, 0.1])
    watched = method.watched()
    assert watched["confidence"].tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert watched["rate"].tolist() == pytest.approx([1 / 9, 5 / 9, 1])


def test_one_unlabelled_image_and_one_predicted_class_are_no_error():
    method = methods.build("ael", factory(2, 3))
    method.bank = bank_at([0.9, 0.5, 0.1])
    method.teacher.network.apply(lambda module: None)
    for parameter in method.teacher.parameters():
        parameter.zero_()  # all classes alike: the background is predicted everywhere
    batch = batch_of(2)
    batch["unlabeled"]["image"] = batch["unlabeled"]["image"][:1]
    assert all(torch.isfinite(term) for term in method(batch, Clock(9, 10)).values())


def test_probabilities_by_hand_for_the_mean_teacher():
    """By hand: softmax (0.5, 0.5) against (0.9, 0.1): mean of 0.16 and 0.16."""
    method = methods.build("mean_teacher", factory(2, 2))
    target = torch.tensor([0.9, 0.1]).log().reshape(1, 2, 1, 1)
    assert float(method._distance(torch.zeros(1, 2, 1, 1), target)) == pytest.approx(0.16, abs=1e-6)
    method = methods.build("mean_teacher", factory(2, 2), target="pseudo_labels", threshold=0.95)
    assert float(method._distance(torch.zeros(1, 2, 1, 1), target)) == 0
    method.threshold = 0.85
    assert float(method._distance(torch.zeros(1, 2, 1, 1), target)) == pytest.approx(np.log(2), abs=1e-6)


def test_strong_views_move_nothing():
    torch.manual_seed(0)
    image = torch.randn(2, 3, 16, 16).cumsum(-1)
    assert jitter_intensities(image, 0.0) is image
    changed = jitter_intensities(image, 0.5)
    assert not torch.equal(changed, image)
    for one, other in zip(image.flatten(0, 1), changed.flatten(0, 1), strict=True):
        assert float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) > 0.9


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ael", {"momentum": 1.0}, "momentum 1 of the confidence bank"),
        ("ael", {"donors": 0}, "0 donors of each class"),
        ("ael", {"paste": "sometimes"}, "paste of method ael is 'sometimes'"),
        ("mean_teacher", {"decay": 1.5}, "decay 1.5 of the teacher"),
        ("mean_teacher", {"target": "labels"}, "target of method mean_teacher is 'labels'"),
    ],
)
def test_bad_options_are_named(name, options, words):
    with pytest.raises(ConfigError) as caught:
        methods.build(name, factory(2, 3), **options)
    assert words in str(caught.value)


def test_pictures_show_the_images_what_the_student_saw_and_the_classes_by_hand():
    shown = MixedImages()
    images = torch.zeros(1, 2, 2, 3, 3)  # of volumes the middle slice of the first channel
    mixed = images.clone()
    mixed[0, 0, 1, 2, 1] = 4.0
    targets = torch.zeros(1, 3, 2, 3, 3)
    targets[0, 1, 0, 0, 1] = 1.0
    targets[0, 2, 1, 1, 1] = 1.0
    shown.keep(images, mixed, targets)
    rows = shown.sheet()["mixed images"][0].reshape(3, 3, 2).mT  # x is drawn to the right, y downwards
    assert rows[0].eq(0).all()
    assert rows[1].nonzero().tolist() == [[1, 2]]
    assert rows[2].tolist() == [[0.5, 0.0, 0.0], [0.0, 1.0, 0.0]]
