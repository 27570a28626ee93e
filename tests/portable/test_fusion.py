"""The vote of views: the card's numbers, its properties, and the slow rule on full probabilities."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg.portable.inference import view_fusion
from medseg.portable.inference.view_fusion import all_differ, fuse_mean, fuse_votes, unanimous


def slow_vote(probabilities: np.ndarray) -> int:
    """The rule at one voxel from full probabilities `(V, C)`: plurality, then the largest probability, then label."""
    labels = [int(np.argmax(p)) for p in probabilities]
    most = max(labels.count(label) for label in labels)
    tied = sorted({label for label in labels if labels.count(label) == most})
    best = {t: max(p[t] for p, label in zip(probabilities, labels, strict=True) if label == t) for t in tied}
    return max(tied, key=lambda label: (best[label], -label))


def top(probabilities: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and confidences `(V, N)` of `(V, N, C)`."""
    labels = torch.from_numpy(probabilities.argmax(-1).astype(np.uint8))
    return labels, torch.from_numpy(probabilities.max(-1).astype(np.float16))


def random_maps(views: int, classes: int, voxels: int, seed: int) -> np.ndarray:
    """Probabilities that float16 holds exactly, with many ties."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 17, (views, voxels, classes)) / 64).astype(np.float16)


BY_HAND = [  # planes A, S, C at four voxels, and what comes out
    ([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.6, 0.3]], 1),
    ([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.5, 0.2, 0.3]], 1),
    ([[0.1, 0.2, 0.7], [0.4, 0.35, 0.25], [0.3, 0.45, 0.25]], 2),
    ([[0.9, 0.05, 0.05], [0.1, 0.45, 0.45], [0.45, 0.45, 0.10]], 0),
]


@pytest.mark.parametrize("order", permutations(range(3)))
def test_voxels_by_hand_in_every_order_of_the_planes(order):
    maps = np.array([p for p, _ in BY_HAND]).transpose(1, 0, 2)[list(order)]
    assert fuse_votes(*top(maps)).tolist() == [label for _, label in BY_HAND]


@given(st.integers(1, 5), st.integers(2, 17), st.integers(0, 10**6))
def test_label_and_confidence_are_enough(views, classes, seed):
    maps = random_maps(views, classes, 60, seed)
    fused = fuse_votes(*top(maps))
    assert fused.tolist() == [slow_vote(maps[:, i]) for i in range(60)]


@given(st.integers(1, 5), st.integers(2, 17), st.integers(0, 10**6))
def test_views_that_say_background_may_have_no_vote(views, classes, seed):
    maps = random_maps(views, classes, 60, seed)
    expected = []
    for i in range(60):
        seen = [p for p in maps[:, i] if np.argmax(p)]
        expected.append(slow_vote(np.array(seen)) if seen else 0)
    labels, confidences = top(maps)
    assert fuse_votes(labels, confidences, 0).tolist() == expected
    values = torch.tensor([200, *range(1, classes)], dtype=torch.uint8)  # background need not be the smallest value
    assert fuse_votes(values[labels.int()], confidences, 200).tolist() == [label or 200 for label in expected]


@given(st.integers(2, 17), st.integers(0, 10**6))
def test_all_differ_takes_the_largest_probability_of_any_view_and_class(classes, seed):
    maps = np.random.default_rng(seed).dirichlet(np.ones(classes), (3, 200)).astype(np.float16)
    labels, confidences = top(maps)
    fused, differ = fuse_votes(labels, confidences), all_differ(labels)
    full = maps.max(0).argmax(-1)
    assert torch.equal(fused[differ], torch.from_numpy(full.astype(np.uint8))[differ])
    two = (labels[0] == labels[1]) | (labels[0] == labels[2]) | (labels[1] == labels[2])
    assert torch.equal(differ, ~two)


@given(st.integers(0, 10**6))
def test_properties(seed):
    maps = random_maps(3, 5, 80, seed)
    labels, confidences = top(maps)
    fused = fuse_votes(labels, confidences)
    for order in permutations(range(3)):
        assert torch.equal(fuse_votes(labels[list(order)], confidences[list(order)]), fused)
    whole = unanimous(labels)
    assert torch.equal(fused[whole], labels[0][whole])
    assert torch.equal(fuse_votes([labels[0]] * 3, list(confidences)), labels[0])
    agreeing = labels.clone()
    agreeing[1] = agreeing[0]
    assert torch.equal(fuse_votes(agreeing, torch.rand(3, 80).half()), agreeing[0])
    two_classes = labels.clamp(max=1)
    assert torch.equal(fuse_votes(two_classes, confidences), two_classes.median(0).values)


def test_independent_errors_are_voted_away_and_identical_ones_are_not():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 8, 200_000).astype(np.uint8)
    wrong = (truth + rng.integers(1, 8, (3, len(truth)))) % 8
    planes = np.where(rng.random((3, len(truth))) < 0.1, wrong, truth).astype(np.uint8)
    confidences = np.where(planes == truth, 0.9, 0.6).astype(np.float16)
    fused = fuse_votes(torch.from_numpy(planes), torch.from_numpy(confidences)).numpy()
    assert (fused == truth).mean() > 0.972 + 0.02  # p^3 + 3 p^2 (1 - p), and what the confident plane saves
    same = torch.from_numpy(planes[:1]).expand(3, -1)
    assert torch.equal(fuse_votes(same, torch.from_numpy(confidences)), same[0])


def test_layout_and_blocks_do_not_matter(monkeypatch):
    labels = torch.randint(0, 4, (3, 5, 6, 7), dtype=torch.uint8)
    confidences = torch.rand(3, 5, 6, 7).half()
    whole = fuse_votes(labels, confidences)
    monkeypatch.setattr(view_fusion, "BLOCK", 11)
    stored = [label.permute(2, 1, 0).contiguous().permute(2, 1, 0) for label in labels]
    fused = fuse_votes(stored, confidences)
    assert torch.equal(fused, whole)
    assert fused.stride() == stored[0].stride()


def test_mean_is_another_rule():
    maps = np.array([[0.95, 0.05], [0.45, 0.55], [0.45, 0.55]])
    assert fuse_votes(*top(maps[:, None])).item() == 1
    assert fuse_mean(list(torch.from_numpy(maps)[:, :, None])).item() == 0


@pytest.mark.parametrize("kind", ["float", "bytes"])
def test_mean_of_memory_mapped_maps(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(view_fusion, "BLOCK", 40)
    exact = np.random.default_rng(1).dirichlet(np.full(6, 0.3), (3, 4, 5, 6)).transpose(0, 4, 1, 2, 3)
    kept = []
    for i, each in enumerate(exact):
        stored = (each * 255).round().astype(np.uint8) if kind == "bytes" else each.astype(np.float32)
        kept.append(np.memmap(tmp_path / f"{i}", stored.dtype, "w+", shape=stored.shape))
        kept[-1][:] = stored
    mean = exact.mean(0)
    ordered = np.sort(mean, 0)
    clear = ordered[-1] - ordered[-2] > 2 / 255
    fused = fuse_mean(kept).numpy()
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(fused[clear], mean.argmax(0)[clear])


def test_mistakes_are_refused():
    small, large = torch.zeros(2, 3, 4, dtype=torch.uint8), torch.zeros(2, 3, 5, dtype=torch.uint8)
    half = torch.zeros(2, 3, 4).half()
    with pytest.raises(ValueError, match=r"different shapes: \(2, 3, 4\), \(2, 3, 5\)"):
        fuse_votes([small, large], [half, half])
    with pytest.raises(ValueError, match="float16"):
        fuse_votes([small, small], [half])
    with pytest.raises(ValueError, match="nothing"):
        fuse_votes([], [])
    with pytest.raises(ValueError, match="do not sum to 1"):
        fuse_mean([torch.full((3, 2, 2), 0.5)] * 2)
