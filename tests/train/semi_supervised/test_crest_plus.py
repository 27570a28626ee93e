"""CReST+: which labels count for the target of the alignment, and when it says that alignment is out of place."""

from __future__ import annotations

import warnings

import pytest
import torch
from given_networks import factory
from test_crest import batch_of

from medseg import methods
from medseg.method import Clock, Method
from medseg.methods.crest import SLOTS

Q = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)


def labeled(*shares: float, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels of 10 x 10 pixels, of each image this share class 1 and the rest class 0."""
    label = torch.zeros(len(shares), 1, 10, 10, dtype=torch.uint8)
    for image, share in zip(label, shares, strict=True):
        image.view(-1)[: round(100 * share)] = 1
    return {"label": label, **more}


def crest(**options: object) -> Method:
    return methods.build("crest", factory(2, 3), **options)


def test_shares_are_the_mean_of_the_batches_until_these_are_many():
    method = crest()
    for share, mean in ((0.2, 0.2), (0.4, 0.3), (0.9, 0.5)):
        method._follow_shares(Q, labeled(share))
        assert method.shares.tolist() == pytest.approx([1 - mean, mean, 0])
    for _ in range(20):  # of which nothing counts
        method._follow_shares(Q, labeled(0.9, evenly=torch.tensor([False])))
    method._follow_shares(Q, labeled(0.1))
    assert float(method.shares[1]) == pytest.approx((0.2 + 0.4 + 0.9 + 0.1) / 4)
    method.labelled.fill_(5000)
    method._follow_shares(Q, labeled(0.9))
    assert float(method.shares[1]) == pytest.approx(0.999 * 0.4 + 0.001 * 0.9)


def test_labels_that_a_rule_made_do_not_count():
    """In later generations nine of ten labels may be predictions, of which rare classes keep more."""
    method = crest()
    method._follow_shares(Q, labeled(0.2, 0.9, predicted=torch.tensor([False, True])))
    assert float(method.shares[1]) == pytest.approx(0.2)
    method._follow_shares(Q, labeled(0.9, 0.9, predicted=torch.tensor([True, True])))
    assert float(method.shares[1]) == pytest.approx(0.2)


def test_patches_that_are_centred_on_a_class_do_not_count():
    """p_model is of patches that lie anywhere: of those the label of the first has a fifth of class 1."""
    method = crest()
    method._follow_shares(Q, labeled(0.2, 0.9, evenly=torch.tensor([True, False])))
    assert float(method.shares[1]) == pytest.approx(0.2)
    method._follow_shares(Q, labeled(0.9, 0.9, evenly=torch.tensor([False, False])))
    assert float(method.shares[1]) == pytest.approx(0.2)


@pytest.mark.parametrize("done", [SLOTS, 300])
def test_where_every_patch_is_centred_on_a_class_it_says_that_nothing_is_aligned(done):
    method = crest(alignment=True)
    method.seen.fill_(SLOTS)
    for step in (SLOTS - 2, 298):
        method.after_step(Clock(step, 300))
    with pytest.warns(UserWarning, match=r"nothing is aligned.*data\.foreground below 1"):
        method.after_step(Clock(done - 1, 300))


def test_labels_that_cover_some_classes_only_do_not_count():
    method = crest()
    covered = torch.tensor([[True, True, False], [True, True, True]])
    method._follow_shares(Q, labeled(0.9, 0.4, covered=covered))
    assert float(method.shares[1]) == pytest.approx(0.4)


def test_before_any_label_nothing_is_aligned():
    method = crest(alignment=True)
    nothing = {"label": torch.full((1, 1, 10, 10), 255, dtype=torch.uint8)}
    for _ in range(2):
        method._follow_shares(Q, nothing)
        assert method._align(Q).flatten().tolist() == pytest.approx(Q.flatten().tolist(), abs=1e-5)
    method._follow_shares(Q, labeled(0.3))
    assert float(method.shares[1]) == pytest.approx(0.3)


def test_predictions_outside_of_the_image_do_not_count():
    method = crest(decay=0.0, threshold=0.0, jitter=0.0, cutout=0.0)
    q = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).T.view(1, 3, 1, 3)
    inside = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    method._follow_shares(q, labeled(0.3), inside)
    assert method.recent[0].tolist() == pytest.approx([0.7, 0.3, 0.0])


def test_the_loss_is_the_mean_over_what_shows_the_image():
    torch.manual_seed(0)
    method = crest(threshold=0.0, jitter=0.0, cutout=0.0).eval()
    batch = batch_of(2)
    inside = torch.zeros(2, 1, 24, 16, dtype=torch.bool)
    inside[:, :, :8] = True
    batch["all"]["inside"] = inside
    logits = method.network(batch["all"]["image"]).detach().float()
    cost = -logits.log_softmax(1).max(1).values
    found = method(batch, Clock(0, 9))["consistency"].detach()
    assert float(found) == pytest.approx(float(cost[:, :8].mean()), rel=1e-4)
    assert float(method.watched()["learnt"]) == 1
    assert set(method.watched()) == {"learnt", "predicted share", "labelled share"}


def end_of_generation(number: int, seen: int, *shares: float) -> list[str]:
    """What is said at the end of a generation whose labels have half of class 0 and half of class 1."""
    method = crest(alignment=True)
    method.round_number = number
    method.shares.copy_(torch.tensor([0.5, 0.5, 0.0]))
    method.recent.copy_(torch.tensor(shares).expand(SLOTS, 3))
    method.seen.fill_(seen)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        method.after_step(Clock(7, 9))
        assert not found
        method.after_step(Clock(8, 9))
    return [str(each.message) for each in found]


def test_shares_of_another_kind_are_warned_of_at_the_end_of_the_first_generation():
    (line,) = end_of_generation(0, SLOTS, 0.9, 0.1, 0.0)
    assert "predicted is class1 0.1 instead of 0.5:" in line
    assert end_of_generation(0, SLOTS, 0.8, 0.2, 0.0) == []
    assert end_of_generation(1, SLOTS, 0.9, 0.1, 0.0) == []  # whose target is another on purpose
    assert end_of_generation(0, SLOTS - 1, 0.9, 0.1, 0.0) == []  # too few batches to tell
