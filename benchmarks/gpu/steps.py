"""Seconds and memory of a training step in every number format and layout, beside the authors' recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pieces import Reference, Step, Task
from setting import Setting
from tasks import PLANAR, planar_task, volume_task
from timing import Timing, free, measure

TABLE = "3D step: DTC, V-Net, 2 labelled + 2 unlabelled patches, batches ready on the device"
PLANAR_TABLE = "2D step, batches ready on the device"


@dataclass(frozen=True)
class Format:
    """A number format.

    Args:
        name: in the table.
        dtype: of autocast; None: float32.
        tf32: whether float32 convolutions and products may round their factors to 10 bits, as torch lets
            convolutions do unless told otherwise.
    """

    name: str
    dtype: torch.dtype | None = None
    tf32: bool = True

    def use(self) -> None:
        """Set what is a setting of the whole process."""
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cuda.matmul.allow_tf32 = self.tf32


FP32 = Format("fp32", tf32=False)
TF32 = Format("TF32")
BF16 = Format("bf16", torch.bfloat16)
FP16 = Format("fp16 with loss scaling", torch.float16)


def volume(setting: Setting) -> None:
    """The 3D step; the authors' recipe is timed before all others and after them."""
    as_trained()
    task = volume_task(setting)
    before = {form.name: authors(setting, task, form, "authors' recipe, before") for form in (FP32, TF32)}
    for form in (BF16, TF32, FP16, FP32):
        for channels_last in (True, False):
            ours(setting, task, form, before["TF32"], channels_last=channels_last)
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.benchmark = True
    ours(setting, task, BF16, before["TF32"], channels_last=True, name="ours, cuDNN's fastest, not repeatable")
    as_trained()
    authors(setting, task, TF32, "authors' recipe, after")


def compiled(setting: Setting) -> None:
    """The 3D step with the network compiled; the first step compiles and is told apart."""
    as_trained()
    task = volume_task(setting)
    compiler = "aot_eager" if setting.tiny else "inductor"  # a dry run need not wait for a compiler
    before = authors(setting, task, TF32, "authors' recipe, before torch.compile")
    for channels_last in (True,) if setting.tiny else (True, False):
        ours(setting, task, BF16, before, channels_last=channels_last, name="ours, torch.compile", compiler=compiler)


def planar(setting: Setting) -> None:
    """The steps of the 2D methods."""
    as_trained()
    for name in PLANAR:
        task = planar_task(setting, name)
        for form in (TF32, BF16):
            for channels_last in (False, True):
                run = stepping(setting, task, form, channels_last)
                timing = measure(run, setting.device, rounds=setting.sizes.rounds)
                add(setting, PLANAR_TABLE, name, form, timing, layout=layout_of(channels_last))
                del run  # or the next would be made while this one is still there


def as_trained() -> None:
    """What `medseg train` sets: cuDNN may only take algorithms that give the same bits each time."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def authors(setting: Setting, task: Task, form: Format, name: str) -> Timing:
    """The published recipe: float32, contiguous, distance maps made between forward and backward pass."""
    form.use()
    device, sizes = setting.device, setting.sizes
    free(device)
    reference = Reference(task.spec, sizes.width, device)
    batches = task.ready(device, sizes.steps)

    def run() -> None:
        for batch in batches:
            reference.step(batch)

    timing = measure(run, device, rounds=min(3, sizes.rounds))
    add(setting, TABLE, name, form, timing, layout="contiguous")
    return timing


def ours(
    setting: Setting,
    task: Task,
    form: Format,
    peer: Timing,
    *,
    channels_last: bool,
    name: str = "ours",
    compiler: str | None = None,
) -> None:
    """One row; how many times faster than the peer's median of TF32."""
    run = stepping(setting, task, form, channels_last, compiler)
    first = measure(run, setting.device, rounds=1, warm_up=0)
    timing = measure(run, setting.device, rounds=setting.sizes.rounds)
    more = {"authors' TF32 / this": peer.median / timing.median}
    if compiler:
        more["s to compile"] = first.median - timing.median
    add(setting, TABLE, name, form, timing, layout=layout_of(channels_last), **more)


def stepping(
    setting: Setting, task: Task, form: Format, channels_last: bool, compiler: str | None = None
) -> Callable[[], None]:
    """A few steps, as they are timed."""
    form.use()
    device, count = setting.device, setting.sizes.steps
    free(device)
    step = Step(task, device, dtype=form.dtype, channels_last=channels_last, compiler=compiler)
    batches = task.ready(device, count)
    return lambda: step.run(batches, count)


def layout_of(channels_last: bool) -> str:
    """Its name in the tables."""
    return "channels last" if channels_last else "contiguous"


def add(setting: Setting, table: str, name: str, form: Format, timing: Timing, **more: float | str) -> None:
    """One row; seconds are those of one step."""
    setting.journal.add(
        table,
        what=name,
        format=form.name,
        layout=more.pop("layout"),
        **{"s per step": timing.median / setting.sizes.steps, "slowest / fastest": timing.spread},
        **{"peak GiB": timing.peak_gib},
        **more,
    )
