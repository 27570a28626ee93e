"""A teacher whose weights are the moving average of its student's."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn


class AveragedTeacher(nn.Module):
    """The averaged network: evaluation mode always, no gradient, in checkpoints with the method that owns it.

    A. Tarvainen, H. Valpola: Mean teachers are better role models, NeurIPS 2017; arXiv 1703.01780. The decay rises as
    1 - 1/(i + 1) until it reaches its final value, so that the first weights are soon forgotten: after step 0 the
    teacher is the student. Parameters are averaged; buffers, such as the statistics of batch normalisation, are copied.

    Args:
        student: the network that learns; the teacher starts as its copy.
        decay: share of the teacher that a step keeps, in the end.

    Raises:
        ValueError: a decay outside [0, 1).
    """

    def __init__(self, student: nn.Module, *, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay {decay:g} of the teacher: must be at least 0 and less than 1")
        self.decay = decay
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the method is in."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Logits `(B, classes, *spatial)` float32, without gradient."""
        return self.network(image).float()

    @torch.no_grad()
    def follow(self, student: nn.Module, iteration: int) -> None:
        """Move towards the student after the 0-based step `iteration`."""
        decay = teacher_decay(iteration, self.decay)
        for own, new in zip(self.network.parameters(), student.parameters(), strict=True):
            own.lerp_(new.detach(), 1 - decay)
        for statistics, newest in zip(self.network.buffers(), student.buffers(), strict=True):
            statistics.copy_(newest)


def teacher_decay(iteration: int, decay: float) -> float:
    """Decay of a step: 0, 1/2, 2/3 and so on, at most `decay`."""
    return min(1 - 1 / (iteration + 1), decay)
