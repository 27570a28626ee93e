"""Pooling of maps into a score for each class, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medseg.ops.tags.pooling import focal_penalty, ngwp

LOGITS = torch.tensor([[[[0.0, 0.0]], [[0.0, 2.0]]]])  # background (0, 0), a class (0, 2) at two places


def test_two_places() -> None:
    assert float(ngwp(LOGITS)[0, 1]) == pytest.approx(0.739918, abs=1e-6)
    assert float(focal_penalty(LOGITS)[0, 1]) == pytest.approx(-0.010568, abs=1e-6)
    total = (ngwp(LOGITS) + focal_penalty(LOGITS))[:, 1]
    cost = torch.nn.functional.binary_cross_entropy_with_logits
    assert float(cost(total, torch.ones(1))) == pytest.approx(0.393543, abs=1e-6)
    assert float(cost(total, torch.zeros(1))) == pytest.approx(1.122892, abs=1e-6)


def test_less_than_the_mean_and_nothing_for_zeros() -> None:
    assert float(ngwp(LOGITS)[0, 1]) < float(LOGITS[0, 1].mean()) == 1.0
    zeros = torch.zeros(1, 3, 2, 2)
    assert torch.equal(ngwp(zeros), torch.zeros(1, 3))
    expected = (2 / 3) ** 3 * math.log(0.01 + 1 / 3)
    torch.testing.assert_close(focal_penalty(zeros), torch.full((1, 3), expected))
    assert expected == pytest.approx(-0.316757, abs=1e-6)


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4)])
def test_places_have_no_order(shape: tuple[int, ...]) -> None:
    logits = torch.randn(2, 3, *shape)
    order = torch.randperm(logits[0, 0].numel())
    shuffled = logits.flatten(2)[:, :, order].view_as(logits)
    torch.testing.assert_close(ngwp(shuffled), ngwp(logits))
    torch.testing.assert_close(focal_penalty(shuffled), focal_penalty(logits))


def test_padding_does_not_count() -> None:
    logits = torch.randn(2, 3, 4, 6)
    inside = torch.zeros(2, 1, 4, 6, dtype=torch.bool)
    inside[..., :4] = True
    torch.testing.assert_close(ngwp(logits, inside), ngwp(logits[..., :4]))
    torch.testing.assert_close(focal_penalty(logits, inside), focal_penalty(logits[..., :4]))
    nothing = torch.zeros_like(inside)
    assert torch.isfinite(ngwp(logits, nothing)).all()
    assert torch.isfinite(focal_penalty(logits, nothing)).all()
