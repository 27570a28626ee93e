"""Further passes through a network that leave the running statistics of its batch norms as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Inside the block batch norms use the statistics of the batch, and keep the running ones as they are."""
    tracking = [each for each in module.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    for each in tracking:
        each.track_running_stats = False
    try:
        yield
    finally:
        for each in tracking:
            each.track_running_stats = True


@contextmanager
def repeated_pass(module: nn.Module) -> Iterator[None]:
    """Inside the block, where a pass is computed again for its gradient, it counts in no running statistics.

    Torch's checkpoints want the very operations of the first pass: norms go on tracking, with momentum 0.
    """
    tracking = [each for each in module.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    momenta = [each.momentum for each in tracking]
    counts = [each.num_batches_tracked for each in tracking if each.num_batches_tracked is not None]
    before = [count.clone() for count in counts]
    for each in tracking:
        each.momentum = 0.0
    try:
        yield
    finally:
        for each, momentum in zip(tracking, momenta, strict=True):
            each.momentum = momentum
        with torch.no_grad():
            for count, value in zip(counts, before, strict=True):
                count.copy_(value)
