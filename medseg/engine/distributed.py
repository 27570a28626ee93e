"""Devices and processes: one process alone, or several under torchrun."""

from __future__ import annotations

import os
import warnings

import ignite.distributed as idist
import torch
from torch import nn

from medseg.engine.allocator import keep_freed_memory
from medseg.errors import ConfigError


def setup(device: str = "auto") -> torch.device:
    """Choose the device and, under torchrun, join the process group.

    Args:
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        ConfigError: a device that this machine does not have.
    """
    chosen = _resolve_device(device)
    under_torchrun = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if under_torchrun:
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        idist.initialize("nccl" if chosen.type == "cuda" else "gloo")
        # ignite makes its group on first use: without this, a handler that only rank 0 has waits for ever
        idist.sync()
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    elif chosen.type == "cpu":
        keep_freed_memory()
    return chosen


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device {device!r} is not known; one of auto, cpu, cuda, cuda:N, mps") from None
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device {device!r} is not supported; one of auto, cpu, cuda, cuda:N, mps")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps': not available on this machine")
    return chosen


def finish() -> None:
    """Leave the process group, if there is one."""
    if world() > 1:
        idist.finalize()


def rank() -> int:
    """This process's number, 0 when alone."""
    return idist.get_rank()


def world() -> int:
    """How many processes train together."""
    return idist.get_world_size()


def barrier() -> None:
    """Wait until every process has called it."""
    if world() > 1:
        idist.barrier()


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; every process has to call it."""
    return bool(idist.all_reduce(int(flag), "MAX"))


def gather_texts(text: str) -> list[str]:
    """The text of every process, in the order of their numbers; every process has to call it."""
    gathered = idist.all_gather(text)
    assert isinstance(gathered, list)
    return [str(each) for each in gathered]


def share_buffers(module: nn.Module) -> None:
    """Give every process the buffers that rank 0 has; every process has to call it.

    The statistics of batch norm are those of the patches that a process saw, and each saw others since its last step.
    """
    if world() > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def replicate(module: nn.Module) -> nn.Module:
    """The module itself, or its DistributedDataParallel when several processes train."""
    if world() == 1:
        return module
    # channels-last gradients of 1x1x1 convolutions: a matter of speed, warned of once per process
    warnings.filterwarnings("ignore", message="Grad strides do not match")
    return nn.parallel.DistributedDataParallel(module)
