"""What a step of each method costs beside the passes of its networks, and beside a plain supervised step.

    OMP_NUM_THREADS=1 python benchmarks/trainings/bench_methods.py [--tasks cutmix,ael] [--patch 64 64 40] [--width 16]

Every pipeline gets the same U-Net, patch and batch: so many labelled patches, and as many of each other stream that it
asks for, whole groups where it wants groups. A task stands for its last stage, `task:0` for its first. Three things
take turns in one process: the method's step; the passes of that step alone (each network on the inputs that the method
gave it, backward where the method needed gradients, and the optimiser); a supervised step on the labelled patches. What
a method has beside networks that it makes, such as a localizer or a graph, counts as overhead.

Prints medians of seconds, the median over the rounds of step / passes ("overhead" is what exceeds 1; the goal is 5 %)
and of step / supervised step, and how much memory the method's steps took. Batches are random numbers.

Each method runs in a process of its own, so that memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medseg.config.pipeline import DataSpec, NetworkSpec, Stage
from medseg.engine.allocator import keep_freed_memory
from medseg.engine.optimizer import make_optimizer
from medseg.engine.trainer import MethodTrainer, Precision, StepSettings, use_channels_last
from medseg.method import Frozen, Method
from medseg.methods import find
from medseg.networks.factory import DEFINITION, NetworkFactory
from medseg.workflows.train.budget.random_batch import random_batch
from medseg.workflows.train.settings import load
from medseg.workflows.train.stages.build import build_method

TASKS = (
    "supervised,locally_adaptive,mean_teacher,cutmix,ael,crest,dtc,s4l,moam:0,mix_and_match:1,auxsegnet:0,auxsegnet,"
    "group_wsss:0,wilson"
)
PASSES = ("forward", "encode", "decode", "segment", "features", "logits", "outputs")
"""What networks are asked for by these names is a pass, unless it is part of another one."""
STEPS_BEFORE = 2
CLASSES = 5


@dataclass(frozen=True)
class Call:
    """One pass of a network.

    Attributes:
        module: the network, or a head.
        name: of the function that was called.
        inputs: what it was given.
        grad: whether gradients were recorded.
        training: the mode it was in.
    """

    module: nn.Module
    name: str
    inputs: tuple[Any, ...]
    grad: bool
    training: bool


def as_timed(stage: Stage, width: int) -> Stage:
    """The stage with the network that all methods get."""
    network = NetworkSpec(name="unet", width=width, options={"norm": "batch"})
    return stage.model_copy(update={"network": network})


def data_of(patch: list[int]) -> DataSpec:
    """Five classes, one channel; a patch whose last side is 1 makes 2D networks."""
    labels = {value: f"class {value}" for value in range(CLASSES)}
    view = "axial" if patch[2] == 1 else "volume"
    return DataSpec(labels=labels, modality=("MR",), spacing_mm=(1.0, 1.0, 1.0), patch=tuple(patch), view=view)


def known_network(stage: Stage, data: DataSpec) -> Frozen:
    """What a stage starts from that needs a network: it knows all classes but the last."""
    labels = dict(list(data.labels.items())[:-1])
    factory = NetworkFactory(stage.network, data.model_copy(update={"labels": labels}))
    halves = factory.encoder_decoder()
    network = factory.headed(halves, factory.head(halves.width, len(labels)))
    return Frozen(network, tuple(labels.values()), modality=data.modality, independent=True)


class Recorder:
    """Notes the outermost passes of some networks until it is stopped.

    Args:
        modules: the networks and heads.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.calls: list[Call] = []
        self._depth = 0
        self._wrapped: list[tuple[nn.Module, str]] = []
        for module in modules:
            for name in PASSES:
                if callable(getattr(type(module), name, None)):
                    setattr(module, name, self._noting(module, name, getattr(module, name)))
                    self._wrapped.append((module, name))

    def _noting(self, module: nn.Module, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*inputs: Any) -> Any:
            if self._depth == 0:
                kept = tuple(_detached(each) for each in inputs)
                self.calls.append(Call(module, name, kept, torch.is_grad_enabled(), module.training))
            self._depth += 1
            try:
                return original(*inputs)
            finally:
                self._depth -= 1

        return wrapped

    def stop(self) -> None:
        """Leave the networks as they were."""
        for module, name in self._wrapped:
            delattr(module, name)


class Steps:
    """Steps of one method on one random batch."""

    def __init__(self, task: str, patch: list[int], width: int, patches: int) -> None:
        name, _, place = task.partition(":")
        stage = as_timed(load(name).stages[int(place or -1)], width)
        data = data_of(patch)
        self.previous = known_network(stage, data) if find(stage.method.name).asks_previous else None
        self.method: Method = build_method(stage, data, self.previous)
        use_channels_last(self.method, data.spatial_dims)
        streams = self.method.streams
        sizes = {stream.name: -(-patches // stream.batch_multiple) * stream.batch_multiple for stream in streams}
        self.batch = random_batch(data, sizes, data.network_patch, self.method)
        self.optimizer = make_optimizer(self.method, stage.schedule)
        self.settings = StepSettings(Precision(torch.device("cpu")), stage.schedule.grad_clip, channels_last=True)
        self.streams = [stream.name for stream in streams]

    def trainer(self) -> MethodTrainer:
        """Of one step."""
        return MethodTrainer(self.method, self.optimizer, [self.batch], total=1, settings=self.settings)

    def step(self) -> float:
        """Seconds of one step."""
        trainer = self.trainer()
        began = time.perf_counter()
        trainer.run()
        return time.perf_counter() - began

    def record(self) -> list[Call]:
        """The passes of one step."""
        modules = list(self.method.modules())
        if self.previous is not None:  # no part of the method
            modules += self.previous.module.modules()
        recorder = Recorder([module for module in modules if hasattr(module, DEFINITION)])
        self.trainer().run()
        recorder.stop()
        if not recorder.calls:
            raise SystemExit("no network was called: nothing to compare a step with")
        return recorder.calls

    def passes(self, calls: list[Call]) -> float:
        """Seconds of the recorded passes alone, and of one step of the optimiser."""
        began = time.perf_counter()
        self.optimizer.zero_grad()
        for call in calls:
            call.module.train(call.training)
            with torch.set_grad_enabled(call.grad):
                total = _total(getattr(call.module, call.name)(*call.inputs))
            if call.grad and total.requires_grad:
                total.backward()
        self.optimizer.step()
        return time.perf_counter() - began


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.requires_grad)
    if isinstance(value, list | tuple):
        return type(value)(_detached(each) for each in value)
    return value


def _total(output: Any) -> Tensor:
    """A number that every output goes into."""
    if isinstance(output, Tensor):
        return output.sum()
    parts = vars(output).values() if is_dataclass(output) else output
    return torch.stack([_total(each) for each in parts if each is not None]).sum()


def measure(task: str, options: argparse.Namespace) -> dict[str, Any]:
    """One method, in this process."""
    ours = Steps(task, options.patch, options.width, options.patches)
    before = _peak_gib()
    for _ in range(STEPS_BEFORE):
        ours.step()
    memory = _peak_gib() - before
    calls = ours.record()
    plain = Steps("supervised", options.patch, options.width, options.patches)
    plain.step()
    ours.passes(calls)
    rounds = [(ours.step(), ours.passes(calls), plain.step()) for _ in range(options.rounds)]
    whole, passes, supervised = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {
        "task": task,
        "streams": ours.streams,
        "step": whole,
        "passes": passes,
        "supervised": supervised,
        "to_passes": statistics.median(step / alone for step, alone, _ in rounds),
        "to_supervised": statistics.median(step / other for step, _, other in rounds),
        "memory": memory,
    }


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Each method in a process of its own, then a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--patch", type=int, nargs=3, default=[64, 64, 40], help="voxels; 1 at the end: 2D")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--patches", type=int, default=2, help="of each stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        keep_freed_memory()
        print(json.dumps(measure(options.one, options)))
        return
    print("| method | streams | step, s | its passes alone, s | overhead | beside supervised | GiB |")
    print("|---|---|---|---|---|---|---|")
    for task in options.tasks.split(","):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", task]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise SystemExit(f"{task}: {made.stderr}")
        found = json.loads(made.stdout.splitlines()[-1])
        print(
            f"| {task} | {', '.join(found['streams'])} | {found['step']:.2f} | {found['passes']:.2f} "
            f"| {found['to_passes'] - 1:.0%} | {found['to_supervised']:.2f} | {found['memory']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
