"""AEL and the mean teacher: options that only the authors' code has, padding, ignored voxels and several processes."""

from __future__ import annotations

import pytest
import torch
from given_networks import factory
from test_ael import bank_at, batch_of, logits_of

from medseg import methods
from medseg.errors import ConfigError
from medseg.method import Clock, Frozen
from medseg.ops.losses.segmentation import weighted_mean
from medseg.ops.semi_supervised import donors, mixing
from medseg.ops.semi_supervised.adaptive_cutmix import Predicted, random_cutmix
from medseg.ops.semi_supervised.confidence_bank import ConfidenceBank, draw_class


def certain(classes: list[int], confidence: list[float]) -> torch.Tensor:
    """Logits of a row of voxels, three classes, whose softmax gives the class the confidence."""
    return logits_of([confidence], [classes])[0].float()


def test_ignored_voxels_are_in_neither_sum_by_hand():
    """(0.81 x 0.1 + 0.64 x 0.3 + 0.25 x 1.2) / (0.81 + 0.64 + 0.25); with the ignored voxel's weight it were 0.278."""
    cost = torch.tensor([0.1, 0.9, 0.3, 1.2])
    confidence = torch.tensor([0.9, 0.6, 0.8, 0.5])
    inside = torch.tensor([True, False, True, True])
    assert float(weighted_mean(cost, confidence**2 * inside)) == pytest.approx(0.337059, abs=1e-6)


@pytest.mark.parametrize("name", ["ael", "mean_teacher"])
def test_voxels_outside_of_the_image_teach_nothing(name):
    torch.manual_seed(0)
    method = methods.build(name, factory(2, 3))
    learn = method._learn if name == "ael" else method._distance
    logits, targets = torch.randn(1, 3, 1, 5, requires_grad=True), torch.randn(1, 3, 1, 5)
    inside = torch.tensor([True, True, True, False, False]).view(1, 1, 1, 5)
    whole = learn(logits, targets, inside)
    whole.backward()
    assert float(logits.grad[..., 3:].abs().max()) == 0
    cut = learn(logits[..., :3], targets[..., :3])
    assert float(whole.detach()) == pytest.approx(float(cut.detach()), rel=1e-6)


@pytest.mark.parametrize("mix", ["adaptive", "random"])
def test_boxes_take_along_what_shows_their_image(mix):
    torch.manual_seed(0)
    inside = torch.rand(3, 1, 24, 32) > 0.3
    images = inside.float().expand(-1, 2, -1, -1)
    if mix == "adaptive":
        mixed = methods.build("ael", factory(2, 3))._mix(images, inside)
    else:
        mixed = random_cutmix(Predicted(images, torch.zeros(3, 3, 24, 32), inside), [1, 2, 0])
    assert torch.equal(mixed.images[:, :1] > 0, mixed.inside)
    assert not torch.equal(mixed.inside, inside)


def test_a_donor_of_the_bank_knows_what_shows_its_image():
    torch.manual_seed(0)
    method = methods.build("ael", factory(2, 3), area=0.0)
    method.bank = bank_at([0.5, 0.5, 0.5])
    images = torch.randn(2, 2, 24, 32)
    inside = torch.ones(2, 1, 24, 32, dtype=torch.bool)
    inside[..., 16:] = False
    images[(~inside).expand_as(images)] = 100.0
    for _ in range(3):
        mixed = method._mix(images, inside)
        assert torch.equal((mixed.images != 100).all(1, keepdim=True), mixed.inside)
    assert bool(method.unlabeled_donors.filled.any())


def test_padding_is_no_area_of_a_class():
    """1000 voxels and a share of 0.005: more than 5 are needed, and what lies outside does not count."""
    method = methods.build("ael", factory(2, 3))
    images, label = torch.zeros(1, 2, 25, 40), torch.full((1, 1, 25, 40), 255)
    label[0, 0, 0, :4] = 1
    label[0, 0, 1, :6] = 2
    method.adaptive_cutmix.keep(images, label)
    assert [method.unlabeled_donors.holds(value) for value in range(3)] == [False, False, True]


def test_ignored_voxels_do_not_make_a_class_large_enough_to_be_pasted():
    """Four voxels of a class are fewer than eight, though nothing else of the patch is labelled."""
    method = methods.build("ael", factory(2, 3))
    label = torch.full((1, 1, 24, 32), 255, dtype=torch.uint8)
    label[0, 0, 0, :4] = 1
    label[0, 0, 1, :8] = 2
    method.copy_paste.keep(torch.zeros(1, 2, 24, 32), label, [False, True, True])
    assert [method.labeled_donors.holds(value) for value in range(3)] == [False, False, True]


def test_a_donor_in_which_the_class_is_no_longer_seen_is_forgotten_and_another_image_taken():
    method = methods.build("ael", factory(2, 3))
    method.bank = bank_at([0.9, 0.5, 0.1])
    method.all_classes[:] = torch.tensor([False, True, False])
    method.unlabeled_donors.store(1, torch.zeros(2, 24, 32), torch.zeros(1, 24, 32))
    for parameter in method.teacher.parameters():
        parameter.zero_()  # all classes alike: the background is predicted everywhere
    images = torch.randn(2, 2, 24, 32)
    method._mix(images)
    assert not method.unlabeled_donors.holds(1)
    mixed = method._mix(images).images
    changed = mixed[0] != images[0]
    assert bool(changed.any())
    assert torch.equal(mixed[0][changed], images[1][changed])


def test_what_another_process_forgets_is_forgotten_in_all(monkeypatch):
    bank = donors.DonorBank(3, slots=2)
    for value in (1, 2):
        bank.store(value, torch.zeros(1, 4, 4))

    def of_two(found):
        found[2, 0] += 1  # the other process's
        return found

    monkeypatch.setattr(donors, "sum_over_processes", of_two)
    bank.forget([])
    assert [bank.holds(value) for value in range(3)] == [False, True, False]


def test_where_absent_is_zero_a_class_without_a_label_is_still_not_drawn():
    bank = ConfidenceBank(3, momentum=0.9, absent="zero")
    bank.update(*logits_of([[0.9, 0.4]], [[0, 1]]))
    assert bank.known.tolist() == [True, True, False]
    assert float(bank.draw_probability(torch.ones(3, dtype=torch.bool))[2]) == 0
    assert bank.rates().tolist() == pytest.approx([1 / 6, 1, 1], abs=1e-5)


@pytest.mark.parametrize(("steps", "left"), [(100, 0.9048), (1000, 0.3677)])
def test_decay_where_absent_is_zero(steps, left):
    bank = bank_at([1.0, 1.0], momentum=0.999, absent="zero")
    for _ in range(steps):
        bank.update(*logits_of([[0.9]], [[0]], classes=2))
    assert float(bank.average[1]) == pytest.approx(left, abs=1e-4)


def test_where_absent_is_zero_the_bank_becomes_frequency_times_confidence():
    """Confidence 0.8 in one of ten batches: 0.08."""
    bank = bank_at([0.9, 0.08], momentum=0.999, absent="zero")
    for step in range(500):
        value = int(step % 10 == 0)
        bank.update(*logits_of([[0.8]], [[value]], classes=2))
    assert float(bank.average[1]) == pytest.approx(0.08, abs=0.001)


def test_classes_are_drawn_as_often_as_their_probability_says():
    torch.manual_seed(0)
    chance = bank_at([0.9, 0.5, 0.1]).draw_probability(torch.ones(3, dtype=torch.bool))
    drawn = [draw_class(chance) for _ in range(10_000)]
    for value, wanted in enumerate((0.21198, 0.31624, 0.47178)):
        assert drawn.count(value) / 10_000 == pytest.approx(wanted, abs=3 * (wanted * (1 - wanted) / 10_000) ** 0.5)


def test_a_cold_softmax_draws_the_worst_class_more_often_by_hand():
    """exp(0.2), exp(1) and exp(1.8) over their sum."""
    bank = bank_at([0.9, 0.5, 0.1])
    drawn = bank.draw_probability(torch.ones(3, dtype=torch.bool), temperature=0.5)
    assert drawn.tolist() == pytest.approx((0.12227, 0.27212, 0.60561), abs=1e-5)


def test_doubtful_voxels_are_left_out_below_the_threshold():
    options = {"sampling": 0.0, "reweight": 0.0}
    student, teacher = torch.zeros(1, 3, 1, 2), certain([0, 1], [0.9, 0.6])
    student[:, 1, :, 1] = 5.0
    method = methods.build("ael", factory(2, 3), threshold=0.7, **options)
    assert float(method._learn(student, teacher)) == pytest.approx(1.098612, abs=1e-6)  # log 3, of the first alone


@pytest.mark.parametrize(("whose", "is_learnt"), [("student", True), ("teacher", False)])
def test_whose_class_sets_the_rate(whose, is_learnt):
    """The teacher says class 0, whose rate is 0; the student class 2, whose rate is 1."""
    method = methods.build("ael", factory(2, 3), sampled_by=whose)
    method.bank = bank_at([1.0, 0.5, 0.1])
    loss = method._learn(certain([2] * 50, [0.9] * 50), certain([0] * 50, [0.9] * 50))
    assert bool(loss > 0) is is_learnt


def test_consistency_of_labelled_images_is_of_labelled_voxels_and_off_by_default():
    torch.manual_seed(0)
    batch = batch_of(2)
    batch["labeled"]["label"][:] = 255
    clock = Clock(1, 2)
    assert "labeled_consistency" not in methods.build("ael", factory(2, 3))(batch, clock)
    method = methods.build("ael", factory(2, 3), labeled_consistency=True, paste="off")
    assert float(method(batch, clock)["labeled_consistency"].detach()) == 0
    batch["labeled"]["label"][:, :, :4] = 0
    assert float(method(batch, clock)["labeled_consistency"].detach()) > 0


@pytest.mark.parametrize("name", ["ael", "mean_teacher"])
def test_the_weight_rises_unless_the_run_starts_from_a_network_that_knows_the_classes(name):
    trained = factory(2, 3).segmenter()
    own = ("background", "class1", "class2")
    for labels, rampup in ((own, 0.0), (own[:2], 0.4), ((), 0.4)):
        networks = factory(2, 3, previous=Frozen(trained, labels))
        assert methods.build(name, networks).rampup == rampup
        assert methods.build(name, networks, rampup=0.2).rampup == 0.2
    assert methods.build(name, factory(2, 3)).rampup == 0.4


@pytest.mark.parametrize(
    ("share", "scale", "factor"),
    [
        (0.25, (0.1, 2.0), 0.55),
        (0.75, (0.1, 2.0), 1.5),
        (0.3, (0.5, 1.5), 0.8),
        (0.5, (1.2, 2.0), 1.6),
        (0.5, (0.2, 0.4), 0.3),
    ],
)
def test_half_of_the_donors_are_made_smaller(share, scale, factor):
    assert mixing.factor_of_share(share, scale) == pytest.approx(factor)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ConfigError, match="temperature 0: must be greater than 0"):
        methods.build("ael", factory(2, 3), temperature=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"paste_probability": 50}, "paste_probability 50: must be at least 0 and at most 1"),
        ({"least_rate": -0.1}, "least_rate -0.1: must be at least 0 and at most 1"),
        ({"threshold": 1.5}, "threshold 1.5: must be at least 0 and at most 1"),
        ({"reweight": -2}, "reweight -2: must be at least 0"),
        ({"pasted_classes": -1}, "pasted_classes -1: must be at least 0"),
        ({"paste_scale": (1.5, 0.5)}, r"paste_scale \[1.5, 0.5\]: must be greater than 0, the smaller factor first"),
        ({"paste_scale": (0, 1.5)}, r"paste_scale \[0, 1.5\]"),
        ({"not_pasted": ["sky"]}, "not_pasted has 'sky'; accepted are background, class1, class2"),
    ],
)
def test_numbers_that_would_mean_something_else_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        methods.build("ael", factory(2, 3), **options)


def test_classes_that_are_named_are_neither_drawn_nor_kept_for_pasting():
    method = methods.build("ael", factory(2, 3), not_pasted=["class1"], paste_probability=1.0)
    method.bank = bank_at([0.9, 0.1, 0.9])
    assert method.pastable.tolist() == [False, False, True]
    labeled = batch_of(2)["labeled"]
    _, labels = method._paste_classes(labeled["image"], labeled["label"], None)
    changed = labels != labeled["label"]
    assert bool(changed.any())
    assert bool((labels[changed] == 2).all())
    assert [method.labeled_donors.holds(value) for value in range(3)] == [False, False, True]
    everything = methods.build("ael", factory(2, 3), background_pasted=True)
    assert everything.pastable.tolist() == [True, True, True]


def test_background_that_may_be_a_structure_is_not_pasted():
    method = methods.build("ael", factory(2, 3), background_pasted=True, paste_probability=1.0)
    method.bank = bank_at([0.1, 0.1, 0.1])
    method.pastable[1:] = False
    labeled = batch_of(2)["labeled"]
    for covered, is_pasted in ((None, True), (torch.tensor([[True, True, False]] * 3), False)):
        _, labels = method._paste_classes(labeled["image"], labeled["label"], covered)
        assert bool((labels != labeled["label"]).any()) is is_pasted
