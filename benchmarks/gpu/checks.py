"""What only a GPU can refute: repeatable trainings, fp16's scaler through a resume, NCCL."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pieces import Step, pure_loss, train
from scans import generate
from setting import Setting
from steps import as_trained
from tasks import volume_task
from timing import measure
from torch import nn

TABLE = "checks"
LOGGED = 10
"""The first step that a training writes into its log."""


def repeatable(setting: Setting) -> None:
    """Two trainings of the same seed must end in the same bits."""
    first = last(training(setting, "bf16-1", "bf16"))
    second = last(training(setting, "bf16-2", "bf16"))
    same = agree(first["method"], second["method"])
    verdict(setting, "two trainings in bf16 with the same seed end in the same weights", same)


def resumed(setting: Setting) -> None:
    """A training in fp16 that is stopped by a signal and resumed must end as one that was not, its scaler too."""
    whole = last(training(setting, "fp16-whole", "fp16"))
    folder = setting.work / "checks" / "fp16-stopped"
    shutil.rmtree(folder, ignore_errors=True)  # before the watcher looks for its log
    watcher = threading.Thread(target=stop_when_begun, args=(folder / "metrics.jsonl",), daemon=True)
    watcher.start()
    with suppress(KeyboardInterrupt):
        training(setting, folder.name, "fp16")
    watcher.join()
    stopped = last(folder)
    kept = LOGGED <= stopped["iteration"] < setting.sizes.checked
    found = f"a checkpoint of step {stopped['iteration']} of {setting.sizes.checked}"
    verdict(setting, f"fp16, SIGTERM after step {LOGGED}: no finished step is lost", kept, found=found)
    training(setting, folder.name, "fp16", resume=True)
    end = last(folder)
    scaler = f"{stopped['scaler']} -> {end['scaler']}" if end["scaler"] else "off on this device"
    verdict(setting, "fp16 resumed: the same scaler as without a stop", end["scaler"] == whole["scaler"], scaler=scaler)
    verdict(setting, "fp16 resumed: the same weights as without a stop", agree(end["method"], whole["method"]))


def training(setting: Setting, name: str, amp: str, *, resume: bool = False) -> Path:
    """A real training of `dtc_la` on small patches."""
    sizes = setting.sizes
    patch = [max(8, n // 32 * 16) for n in sizes.patch]
    overrides = [
        f"data.patch={patch}",
        "data.spacing_mm=[1, 1, 1]",
        f"stages.0.network.width={sizes.width}",
        f"stages.0.schedule.iterations={sizes.checked}",
        f"stages.0.schedule.amp={amp if setting.device.type == 'cuda' else 'auto'}",
    ]
    manifest = generate(setting.work / "scans", sizes.scan)
    folder = setting.work / "checks" / name
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    return train("dtc_la", manifest, folder, overrides=overrides, resume=resume)


def stop_when_begun(log: Path) -> None:
    """Send the process a TERM, as a scheduler would, once the first line is in its log."""
    while not (log.exists() and log.stat().st_size):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)


def last(folder: Path) -> dict[str, Any]:
    """Its last checkpoint."""
    return torch.load(folder / "last.pt", map_location="cpu", weights_only=True)


def agree(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors are the same bit for bit."""
    return all(torch.equal(first[key], second[key]) for key in first)


def verdict(setting: Setting, what: str, holds: bool | None, **more: object) -> None:
    """One row."""
    setting.journal.add(TABLE, what=what, holds=holds, details=", ".join(f"{k}: {v}" for k, v in more.items()))


def nccl(setting: Setting) -> None:
    """A group of one process: its sums, and a replica's gradients beside those of the method itself.

    Two processes cannot share one GPU under NCCL, so that nothing here tells what communication costs.
    """
    as_trained()
    device = setting.device
    backend = "nccl" if device.type == "cuda" else "gloo"
    rendezvous = setting.work / "nccl"
    rendezvous.unlink(missing_ok=True)
    dist.init_process_group(
        backend,
        init_method=f"file://{rendezvous.absolute()}",
        rank=0,
        world_size=1,
        device_id=torch.device("cuda", 0) if backend == "nccl" else None,
    )
    try:
        group_of_one(setting, backend)
    finally:
        dist.destroy_process_group()


def group_of_one(setting: Setting, backend: str) -> None:
    """The rows of `nccl`."""
    device = setting.device
    numbers = torch.arange(1000, dtype=torch.float64, device=device)
    summed = numbers.clone()
    dist.all_reduce(summed)
    dist.barrier()
    verdict(setting, f"{backend}, one process: all_reduce and barrier", torch.equal(summed, numbers))
    task = volume_task(setting)
    dtype = torch.bfloat16 if device.type == "cuda" else None
    step = Step(task, device, dtype=dtype, channels_last=True)
    batch = task.ready(device, 1)[0]
    replica = nn.parallel.DistributedDataParallel(step.method)
    alone = gradients(step, step.method, batch)
    together = gradients(step, replica, batch)
    verdict(setting, f"{backend}, one process: a replica's gradients are the method's", agree(alone, together))
    plain = measure(lambda: gradients(step, step.method, batch), device, rounds=setting.sizes.rounds)
    wrapped = measure(lambda: gradients(step, replica, batch), device, rounds=setting.sizes.rounds)
    ratio = f"{wrapped.median / plain.median:.3f} of the method's"
    verdict(setting, f"{backend}, one process: time of a replica's forward and backward pass", None, ratio=ratio)


def gradients(step: Step, module: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    """Of every parameter, after one forward and one backward pass with the same random numbers."""
    torch.manual_seed(0)
    step.method.zero_grad(set_to_none=True)
    with step.settings.precision.autocast():
        loss = pure_loss(module, batch)
    loss.backward()
    named = step.method.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
