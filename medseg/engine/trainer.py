"""The training step, whole and in the order in which it happens, as a MONAI trainer."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.engines import Trainer
from torch import Tensor, nn

from medseg.config.pipeline import Schedule
from medseg.engine.accumulation import more_parts, split_batch
from medseg.errors import MedsegError
from medseg.method import Batch, Clock, Method
from medseg.portable.inference.out_of_memory import out_of_memory
from medseg.progress import say


class DivergenceError(MedsegError):
    """The loss was not finite in two steps in a row."""


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 by instructions of its own (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public question
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


@dataclass(frozen=True)
class Precision:
    """Number format of the step.

    Args:
        device: where the step runs.
        dtype: None for float32 throughout, else what autocast uses.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    scaler: torch.amp.GradScaler = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # float16 alone needs loss scaling: bfloat16 has float32's range
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        object.__setattr__(self, "scaler", scaler)

    @classmethod
    def of_schedule(cls, amp: str, device: torch.device) -> Precision:
        """The format that a schedule's `amp` asks for.

        On a CPU it is float32 unless bf16 is asked for and the processor has instructions for it: half formats are tens
        of times slower on others.
        """
        if device.type == "cpu" and amp == "bf16" and cpu_has_bf16():
            return cls(device, torch.bfloat16)
        if device.type != "cuda":
            if amp in ("bf16", "fp16"):
                needed = "a processor with AVX512-BF16 or AMX, or a CUDA device" if amp == "bf16" else "a CUDA device"
                warnings.warn(f"amp: {amp} needs {needed}; training in float32 on {device}", stacklevel=2)
            return cls(device)
        if amp == "off":
            return cls(device)
        bf16 = torch.cuda.is_bf16_supported() if amp == "auto" else amp == "bf16"
        return cls(device, torch.bfloat16 if bf16 else torch.float16)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


@dataclass(frozen=True)
class StepSettings:
    """Number format, gradient clipping and memory layout of a step.

    Args:
        precision: device and number format.
        grad_clip: largest norm of the gradient.
        channels_last: memory layout of network and images.
    """

    precision: Precision
    grad_clip: float | None = None
    channels_last: bool = False

    @classmethod
    def of_schedule(cls, schedule: Schedule, device: torch.device) -> StepSettings:
        """The settings that a schedule asks for on a device."""
        return cls(Precision.of_schedule(schedule.amp, device), schedule.grad_clip, schedule.channels_last)


def use_channels_last(module: nn.Module, dims: int) -> None:
    """Lay a network's weights out channels-last, for 2 or 3 spatial dimensions; those of other convolutions stay."""
    layout = torch.channels_last_3d if dims == 3 else torch.channels_last
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == dims + 2 and tensor.is_floating_point():
            tensor.data = tensor.data.to(memory_format=layout)


def to_device(batch: Batch, device: torch.device, channels_last: bool) -> dict[str, dict[str, Tensor]]:
    """Move a batch; images become channels-last, which convolutions run fastest on."""
    moved: dict[str, dict[str, Tensor]] = {}
    for stream, tensors in batch.items():
        moved[stream] = {}
        for key, tensor in tensors.items():
            value = tensor.to(device, non_blocking=True)
            if channels_last and key == "image":
                layout = torch.channels_last_3d if value.ndim == 5 else torch.channels_last
                value = value.contiguous(memory_format=layout)
            moved[stream][key] = value
    return moved


class MethodTrainer(Trainer):
    """Minimises a method's loss over the iterations that a loader yields.

    MONAI's decollation is off: it would silently pair labelled with unlabelled patches. The gradient scaler is ours,
    because `Trainer.run` replaces MONAI's on every start and so loses its scale on resuming.

    Args:
        method: the loss; its own parameters are trained.
        optimizer: over `method.parameter_groups`.
        loader: yields the batches of iterations `start .. total - 1`, in order.
        total: iterations of the whole run.
        start: iterations that are already done.
        settings: number format, clipping, memory layout.
        replica: `method` or its `DistributedDataParallel`.
        names: cases of an iteration, for the message when the loss is not finite.

    Attributes:
        parts: in how many a batch is taken, since memory ran out; see `medseg.engine.accumulation`.

    Raises:
        BatchTooLargeError: memory runs out, and a batch cannot be taken in smaller parts.
        DivergenceError: two non-finite losses in a row; a single such step is left out.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        loader: Iterable[Batch],
        *,
        total: int,
        start: int = 0,
        settings: StepSettings,
        replica: nn.Module | None = None,
        names: Callable[[int], Mapping[str, list[str]]] | None = None,
    ) -> None:
        super().__init__(
            device=settings.precision.device, max_epochs=1, data_loader=loader, epoch_length=total, decollate=False
        )
        self.method = method
        self.optimizer = optimizer
        self.replica = replica or method
        self.settings = settings
        self.precision = settings.precision
        self.names = names
        self.total = total
        self.skipped = 0
        self.parts = 1
        self.state.iteration = start
        self.logger.setLevel(logging.CRITICAL)  # ignite would print every exception that it passes on

    @property
    def clock(self) -> Clock:
        """Position in the run of the current step."""
        return Clock(self.state.iteration - 1, self.total)

    def _iteration(self, engine: Any, batchdata: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        self.replica.train()
        batch = to_device(batchdata, self.precision.device, self.settings.channels_last)
        terms, is_taken = self._make_gradients(batch)
        if is_taken:
            scaler = self.precision.scaler
            scaler.unscale_(self.optimizer)
            if self.settings.grad_clip is not None:
                nn.utils.clip_grad_norm_(self.method.parameters(), self.settings.grad_clip)
            scaler.step(self.optimizer)
            scaler.update()
            self.method.after_step(self.clock)
        return terms

    def _make_gradients(self, batch: Batch) -> tuple[dict[str, Tensor], bool]:
        """The terms of the loss and whether the step is taken; where memory runs out, with the batch in more parts."""
        while True:
            try:
                return self._forward_and_backward(batch)
            except Exception as error:
                if not out_of_memory(error) or self.replica is not self.method:
                    raise  # processes that train together would wait for each other
            self._take_more_parts(batch)

    def _take_more_parts(self, batch: Batch) -> None:
        self.parts = more_parts(batch, self.parts)
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.precision.device.type == "cuda":
            torch.cuda.empty_cache()
        say(
            f"warning: memory ran out at iteration {self.state.iteration}: from here on the same batch is taken in "
            f"{self.parts} parts, whose gradients are added up"
        )

    def _forward_and_backward(self, batch: Batch) -> tuple[dict[str, Tensor], bool]:
        parts = split_batch(batch, self.parts)
        share = 1 / len(parts)
        sums: dict[str, Tensor] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            with self.precision.autocast():
                terms = self.replica(part, self.clock)
            loss = torch.stack([term.float() for term in terms.values()]).sum()
            found = {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}
            if len(parts) == 1:
                is_taken = self._is_step_taken(loss)
                if is_taken:
                    self.precision.scaler.scale(loss).backward()
                return found, is_taken
            self.precision.scaler.scale(loss * share).backward()
            for name, value in found.items():
                sums[name] = sums.get(name, 0) + value * share
        return sums, self._is_step_taken(sums["loss"])

    def _is_step_taken(self, loss: Tensor) -> bool:
        """Whether the loss is finite; on a GPU only every 20th is looked at, since looking waits for the device."""
        if self.precision.device.type == "cuda" and self.state.iteration % 20 and not self.skipped:
            return True
        if bool(torch.isfinite(loss)):
            self.skipped = 0
            return True
        self.skipped += 1
        if self.skipped > 1:
            raise DivergenceError(
                f"the loss is {loss.item()} at iteration {self.state.iteration} ({self._describe_cases()})",
                hint="lower the learning rate (--set stages.0.schedule.lr=...) or look at these images",
            )
        return False

    def _describe_cases(self) -> str:
        """The cases of this iteration, stream by stream."""
        if self.names is None:
            return "unknown cases"
        parts = []
        for stream, names in self.names(self.clock.iteration).items():
            parts.append(f"{stream}: {', '.join(names)}")
        return "; ".join(parts) or "unknown cases"
