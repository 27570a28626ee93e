"""Sums and batches over all processes that train together; without any, what is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed
from torch import Tensor

_ALONE = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Inside the block this process works as if it were the only one: it waits for no other.

    One process may so try what all of them will do later, such as a step whose time it measures.
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def _is_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and not _ALONE.get()


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor of all processes, in each of them; every process has to call it."""
    if _is_several():
        torch.distributed.all_reduce(values)
    return values


def gather_from_processes(values: Tensor) -> Tensor:
    """The tensors `(B, ...)` of all processes, `(processes B, ...)`, in the order of their ranks, in each of them."""
    if not _is_several():
        return values
    own = values.contiguous()
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, own)
    return torch.cat(parts)
