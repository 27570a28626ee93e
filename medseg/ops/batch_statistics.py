"""Further passes through a network that leave the running statistics of its batch norms as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
