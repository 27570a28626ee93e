"""DMPCT's rule for pseudo-labels, by hand; and its loss, by a slow twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from given_networks import Given

from medseg import methods
from medseg.errors import ConfigError
from medseg.method import Clock, Predictions


def rule(**options):
    return methods.build_rule("dmpct", 3, **options)


def votes_of(probabilities, full=False):
    """Votes of maps `(V, C, n)`."""
    maps = torch.tensor(probabilities)[..., None, None]
    confidences, labels = maps.max(1)
    stored = (maps * 255).round().to(torch.uint8)
    return Predictions(list(labels.to(torch.uint8)), list(confidences.half()), list(stored) if full else None)


CARD = np.array(  # (voxel, plane, class): axial, sagittal, coronal
    [
        [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.6, 0.3]],
        [[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.5, 0.2, 0.3]],
        [[0.1, 0.2, 0.7], [0.4, 0.35, 0.25], [0.3, 0.45, 0.25]],
        [[0.9, 0.05, 0.05], [0.1, 0.45, 0.45], [0.45, 0.45, 0.10]],
    ],
    np.float32,
).transpose(1, 2, 0)


def relabelled(votes, round_number=1, **options):
    assert not rule(**options).looks_at_all
    return rule(**options).label(votes, {}, round_number).flatten().tolist()


def test_the_loss_is_the_cross_entropy_of_all_known_pixels():
    torch.manual_seed(0)
    paper = methods.build("supervised", Given(torch.nn.Conv2d(1, 3, 1), 3, 2), dice=0.0)
    image = torch.randn(2, 1, 5, 4)
    label = torch.randint(0, 3, (2, 1, 5, 4), dtype=torch.uint8)
    label[0, 0, 2] = 255
    terms = paper({"labeled": {"image": image, "label": label}}, Clock(0, 1))
    logits = paper.network(image)
    losses = []
    for b in range(2):
        for i in range(5):
            for j in range(4):
                if label[b, 0, i, j] != 255:
                    z = logits[b, :, i, j].double()
                    losses.append(-(z[int(label[b, 0, i, j])] - z.exp().sum().log()))
    assert terms["cross_entropy"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert terms["dice"] == 0


def test_the_worked_numbers_of_the_vote():
    assert relabelled(votes_of(CARD)) == [1, 1, 2, 0]


def test_where_no_two_planes_agree_may_be_left_out():
    assert relabelled(votes_of(CARD), ignore_disagreement=True) == [1, 1, 255, 0]
    two = votes_of(CARD[:2])
    assert 255 not in relabelled(two, ignore_disagreement=True)


@pytest.mark.parametrize(("views", "counted"), [(1, "1 view"), (2, "2 views"), (3, None)])
def test_where_no_two_can_disagree_it_is_said(views, counted):
    expected = f"ignore_disagreement is true, and changes nothing with {counted}: it looks for two of three or more"
    assert rule(ignore_disagreement=True).cautions(views) == ([expected] if counted else [])
    assert rule().cautions(views) == []


def test_background_of_which_some_plane_is_not_confident_may_be_left_out():
    maps = np.array(  # three planes of two classes, five voxels
        [
            [[0.95, 0.95, 0.95, 0.95, 0.2], [0.05, 0.05, 0.05, 0.05, 0.8]],
            [[0.92, 0.85, 0.92, 0.40, 0.1], [0.08, 0.15, 0.08, 0.60, 0.9]],
            [[0.91, 0.99, 0.45, 0.99, 0.9], [0.09, 0.01, 0.55, 0.01, 0.1]],
        ],
        np.float32,
    )
    first_round = {"background_confidence": 0.9, "background_confidence_rounds": 1}
    assert relabelled(votes_of(maps)) == [0, 0, 0, 0, 1]
    assert relabelled(votes_of(maps), background_confidence=0.9) == [0, 255, 255, 255, 1]
    assert relabelled(votes_of(maps), 2, background_confidence=0.9) == [0, 255, 255, 255, 1]
    assert relabelled(votes_of(maps), 1, **first_round) == [0, 255, 255, 255, 1]
    assert relabelled(votes_of(maps), 2, **first_round) == [0, 0, 0, 0, 1]
    assert relabelled(votes_of(maps), background_confidence=0) == [0, 0, 255, 255, 1]
    assert relabelled(votes_of(maps, full=True), background_confidence=1, fusion="mean")[:4] == [255] * 4


def test_confidence_in_the_place_of_agreement():
    # of the most confident plane that gives the label: 0.7, 0.5, 0.7, 0.9; the two last voxels have one supporter
    assert relabelled(votes_of(CARD), confidence=0.45) == [1, 1, 2, 0]
    assert relabelled(votes_of(CARD), confidence=0.6) == [1, 255, 2, 0]
    assert relabelled(votes_of(CARD), confidence=0.8) == [255, 255, 255, 0]
    assert relabelled(votes_of(CARD), confidence=0) == relabelled(votes_of(CARD))
    # without a vote for background: the last voxel is of class 1, of which one plane says 0.45
    assert relabelled(votes_of(CARD), fusion="any", confidence=0.6) == [1, 255, 2, 255]
    together = {"confidence": 0.6, "ignore_disagreement": True, "background_confidence": 0.95}
    assert relabelled(votes_of(CARD), **together) == [1, 255, 255, 255]


def test_confidence_in_the_mean_of_the_planes():
    # means of the classes: .3 .533 .167; .333 .367 .3; .267 .333 .4; .483 .317 .2
    votes = votes_of(CARD, full=True)
    assert relabelled(votes, fusion="mean", confidence=0.3) == [1, 1, 2, 0]
    assert relabelled(votes, fusion="mean", confidence=0.38) == [1, 255, 2, 0]
    assert relabelled(votes, fusion="mean", confidence=0.41) == [1, 255, 255, 0]
    assert relabelled(votes, fusion="mean", confidence=0.6) == [255, 255, 255, 255]


@pytest.mark.parametrize("shape", [(7, 6, 1), (5, 4, 3)], ids=["2d", "3d"])
@pytest.mark.parametrize("fusion", ["vote", "any", "mean"])
def test_confidence_is_that_of_a_slow_twin(shape, fusion):
    torch.manual_seed(0)
    maps = torch.rand(3, 3, *shape).softmax(1)
    stored = (maps * 255).round().to(torch.uint8)
    confidences, labels = maps.max(1)
    votes = Predictions(list(labels.to(torch.uint8)), list(confidences.half()), list(stored))
    plain = rule(fusion=fusion).label(votes, {}, 1)
    found = rule(fusion=fusion, confidence=0.405).label(votes, {}, 1)
    for place in np.ndindex(*shape):
        label = int(plain[place])
        if fusion == "mean":
            probability = np.mean([int(view[(label, *place)]) / 255 for view in stored])
        else:
            own = [
                view[place] for view, said in zip(votes.confidences, votes.labels, strict=True) if said[place] == label
            ]
            probability = float(max(own))
        assert int(found[place]) == (label if probability >= 0.405 else 255)
    assert 0 < int((found == 255).sum()) < found.numel()


def test_planes_that_say_background_may_have_no_vote():
    assert relabelled(votes_of(CARD), fusion="any") == [1, 1, 2, 1]


def test_the_mean_is_another_rule():
    maps = np.array([[0.95, 0.05], [0.45, 0.55], [0.45, 0.55]], np.float32)[..., None]
    assert relabelled(votes_of(maps)) == [1]
    assert relabelled(votes_of(maps, full=True), fusion="mean") == [0]


def test_one_plane_teaches_itself():
    assert relabelled(votes_of(CARD[:1])) == CARD[0].argmax(0).tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fusion": "median"}, "fusion of rule dmpct is 'median': .* 'vote', 'any' or 'mean'"),
        ({"background_confidence": 90}, "background_confidence is 90.* from 0 to 1"),
        ({"background_confidence_rounds": 0}, "dmpct: background_confidence_rounds is 0; accepted are 1 and more"),
        ({"background_confidence_rounds": -1}, "dmpct: background_confidence_rounds is -1; accepted are 1 and more"),
        ({"confidence": 1.5}, "rule dmpct: confidence is 1.5; accepted is a probability from 0 to 1"),
        ({"background_confidence": "most"}, "background_confidence of rule dmpct is 'most': .* valid number"),
        (
            {"background_confidence_rounds": "two"},
            "confidence_rounds of rule dmpct is 'two': .* valid integer",
        ),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        rule(**options)
