"""Cases of which only some structures are labelled: the other classes are merged with the background."""

from __future__ import annotations

import math

import pytest
import torch

from medseg.ops.losses import segmentation as losses


def slow_probabilities(logits: torch.Tensor, covered: list[bool]) -> list[float]:
    """Of one voxel, by the definition: what is not covered counts as background."""
    weights = [math.exp(value) for value in logits.tolist()]
    each = [weight / sum(weights) for weight in weights]
    merged = [p if c else 0.0 for p, c in zip(each, covered, strict=True)]
    merged[0] = each[0] + sum(p for p, c in zip(each[1:], covered[1:], strict=True) if not c)
    return merged


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 2, 3, generator=generator)
    label = torch.tensor([[[0, 1, 0], [1, 255, 0]], [[2, 0, 2], [0, 0, 255]], [[0, 1, 2], [2, 1, 0]]])[:, None]
    covered = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]], dtype=torch.bool)
    return logits.requires_grad_(), label.to(torch.uint8), covered


def twin(logits: torch.Tensor, label: torch.Tensor, covered: torch.Tensor) -> tuple[float, float]:
    """Dice loss and cross-entropy, voxel by voxel."""
    total, count = 0.0, 0
    classes = [c for c in range(1, 4) if bool(covered[:, c].any())]
    both = dict.fromkeys(classes, 0.0)
    sizes = dict.fromkeys(classes, 0.0)
    for image in range(len(logits)):
        for place in range(6):
            said = int(label[image, 0].flatten()[place])
            if said == 255:
                continue
            p = slow_probabilities(logits[image].flatten(1)[:, place].detach(), covered[image].tolist())
            total -= math.log(p[said])
            count += 1
            for c in classes:
                both[c] += p[c] * (said == c)
                sizes[c] += p[c] ** 2 + (said == c)
    dice = [1 - (2 * both[c] + 1e-5) / (sizes[c] + 1e-5) for c in classes]
    return sum(dice) / len(dice), total / count


def test_losses_are_those_of_the_merged_classes() -> None:
    logits, label, covered = batch()
    dice, entropy = twin(logits, label, covered)
    assert losses.soft_dice(logits, label, covered).item() == pytest.approx(dice, abs=1e-6)
    assert losses.cross_entropy(logits, label, covered).item() == pytest.approx(entropy, abs=1e-6)


def test_by_hand() -> None:
    # one voxel, labelled background, all classes equally likely: with two of four covered 3/4 are background
    logits, label = torch.zeros(1, 4, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    covered = torch.tensor([[True, True, False, False]])
    assert losses.cross_entropy(logits, label, covered).item() == pytest.approx(-math.log(0.75))
    assert losses.cross_entropy(logits, label).item() == pytest.approx(-math.log(0.25))


def test_a_class_that_is_not_covered_is_not_pushed_away_from_what_may_be_it() -> None:
    logits, label, covered = batch()
    (losses.soft_dice(logits, label, covered) + losses.cross_entropy(logits, label, covered)).backward()
    gradient = logits.grad
    assert gradient is not None
    assert bool(torch.isfinite(gradient).all())
    # where the label is 0, background and what is merged with it rise and fall together, by their probabilities
    ratio = gradient[0, 2:] / gradient[0, :1]
    expected = (logits.softmax(1)[0, 2:] / logits.softmax(1)[0, :1]).detach()
    torch.testing.assert_close(ratio[..., 0, 0], expected[..., 0, 0])


def test_labels_that_cover_everything_change_nothing() -> None:
    logits, label, covered = batch()
    full = torch.ones_like(covered)
    torch.testing.assert_close(losses.soft_dice(logits, label, full), losses.soft_dice(logits, label))
    torch.testing.assert_close(losses.cross_entropy(logits, label, full), losses.cross_entropy(logits, label))


def test_a_batch_that_covers_no_structure_teaches_no_dice() -> None:
    logits, label, covered = batch()
    nothing = torch.zeros_like(covered)
    loss = losses.soft_dice(logits, label, nothing)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not bool(logits.grad.any())
