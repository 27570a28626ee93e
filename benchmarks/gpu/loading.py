"""Whether the loader keeps up: batches per second by workers, and the step with it beside the step without."""

from __future__ import annotations

import time

import torch
from pieces import Step, Task
from setting import Setting
from steps import BF16, Format, as_trained
from tasks import SUPERVISED, volume_task
from timing import free, measure, synchronize

ALONE = "loader alone: a batch of 2 labelled (with distance maps) + 2 unlabelled patches"
TOGETHER = "training as shipped: channels last, batches from its own loader"
WORKERS = 4
"""What `medseg train` takes on a GPU."""


def alone(setting: Setting) -> None:
    """The loader with nobody else at work; the batches that workers had ahead are not counted."""
    task = volume_task(setting)
    for workers in (0, 1) if setting.tiny else (1, 2, WORKERS, 8):
        ahead = 2 * workers + 2
        batches = iter(task.loader(setting.device, workers=workers, total=ahead + setting.sizes.loaded))
        for _ in range(ahead):
            next(batches)
        began = time.perf_counter()
        made = sum(1 for _ in batches)
        seconds = (time.perf_counter() - began) / made
        setting.journal.add(ALONE, workers=workers, **{"s per batch": seconds, "batches": made})


def together(setting: Setting) -> None:
    """Real steps with real batches, for both trainings of part 2."""
    as_trained()
    for name, changes in (("dtc_la", ()), ("supervised", SUPERVISED)):
        pace(setting, name, volume_task(setting, changes))
        free(setting.device)


def pace(setting: Setting, name: str, task: Task, steps: int | None = None) -> float:
    """Seconds per step of a training with its loader, entered beside the step with batches ready on the device."""
    form = BF16 if setting.device.type == "cuda" else Format("fp32", tf32=False)  # what `medseg train` does there
    form.use()
    device, sizes = setting.device, setting.sizes
    step = Step(task, device, dtype=form.dtype, channels_last=True)
    ready = task.ready(device, sizes.steps)
    alone = measure(lambda: step.run(ready, len(ready)), device, rounds=sizes.rounds).median / len(ready)
    seconds = loaded(step, task, device, steps or sizes.loaded)
    setting.journal.add(
        TOGETHER,
        training=name,
        format=form.name,
        **{
            "s per step": seconds,
            "s per step, batches ready": alone,
            "waiting": max(0.0, 1 - alone / seconds),
            "keeps up (within 5 %)": seconds <= 1.05 * alone,
        },
    )
    return seconds


def loaded(step: Step, task: Task, device: torch.device, total: int) -> float:
    """Seconds per step once the workers have started."""
    first = max(1, total // 3)
    times: dict[int, float] = {}

    def tick(done: int) -> None:
        if done in (first, total):
            synchronize(device)
            times[done] = time.perf_counter()

    workers = WORKERS if device.type == "cuda" else 1
    step.run(task.loader(device, workers=workers, total=total), total, tick)
    return (times[total] - times[first]) / (total - first)
