"""The training step, checkpoints and schedules, on a tiny network and no files."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from given_networks import Given
from ignite.engine import Events
from torch import nn

from medseg.config.pipeline import Schedule
from medseg.engine import checkpoint
from medseg.engine.handlers import LogTerms
from medseg.engine.logs import RunLog, TrainingBar
from medseg.engine.optimizer import lr_factor, make_optimizer, make_scheduler
from medseg.engine.trainer import DivergenceError, MethodTrainer, Precision, StepSettings
from medseg.engine.validation import ClassDice, case_dice
from medseg.errors import CheckpointError, OutputError
from medseg.method import Method


class Noisy(Method):
    """A method with dropout, a buffer and a numpy draw, so that every kind of state matters."""

    def __init__(self, networks):
        super().__init__(networks)
        self.network = networks.segmenter()

    def segmenter(self):
        return self.network

    def forward(self, batch, clock):
        image = batch["labeled"]["image"]
        out = self.network(image)
        self.seen = [*getattr(self, "seen", []), clock.iteration]
        return {"fit": (out - image.mean()).square().mean(), "small": 0.01 * out.square().mean()}


def make(iterations=12, start=0, bad=(), state=None, grad_clip=None):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Dropout3d(0.5), nn.Conv3d(4, 2, 1))
    method = Noisy(Given(network, 2))
    schedule = Schedule(iterations=iterations, lr=0.1, decay="poly")

    def batches():
        for i in range(start, iterations):
            generator = torch.Generator().manual_seed(i)
            image = torch.randn(2, 1, 4, 4, 4, generator=generator)
            yield {"labeled": {"image": image * (math.nan if i in bad else 1)}}

    optimizer = make_optimizer(method, schedule)
    scheduler = make_scheduler(optimizer, schedule)
    trainer = MethodTrainer(
        method, optimizer, list(batches()), total=iterations, start=start,
        settings=StepSettings(Precision(torch.device("cpu")), grad_clip=grad_clip),
        names=lambda i: {"labeled": [f"case{i}"]},
    )  # fmt: skip
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
    if state:
        checkpoint.restore(state, trainer, scheduler, path="x")
    return trainer, scheduler


def test_it_is_a_monai_workflow():
    from monai.engines import Trainer, Workflow

    trainer, _ = make()
    assert isinstance(trainer, Trainer)
    assert isinstance(trainer, Workflow)


def test_every_iteration_once_and_in_order():
    trainer, _ = make(iterations=5)
    trainer.run()
    assert trainer.method.seen == [0, 1, 2, 3, 4]
    assert trainer.state.iteration == 5


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_resume_is_bit_for_bit(tmp_path, stop):
    whole, _ = make()
    whole.run()

    first, scheduler = make()
    first.add_event_handler(Events.ITERATION_COMPLETED, lambda e: e.terminate() if e.state.iteration == stop else None)
    first.run()
    path = tmp_path / "last.pt"
    checkpoint.save_atomic(checkpoint.capture(first, scheduler, fingerprint="f", extra={"best": 0.5}), path)
    torch.manual_seed(99)
    state = checkpoint.read(path)
    second, _ = make(start=stop, state=state)
    checkpoint.restore_random_state(state["random"])
    second.run()
    assert second.method.seen == list(range(stop, 12))
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[name]), name


def test_what_a_method_wants_watched_is_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Noisy, "watched", lambda self: {"bank": torch.tensor([0.25, 0.5]), "step": torch.tensor(3.0)}, raising=False
    )
    log = RunLog(tmp_path)
    bar = TrainingBar("noisy", 12, shown=False)
    trainer, _ = make()
    LogTerms(log, bar, ["background", "liver"]).attach(trainer)
    trainer.run()
    log.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    watched = [record for record in records if record["kind"] == "watched"]
    assert [record["iteration"] for record in watched] == [10, 12]
    assert watched[0]["bank"] == {"background": 0.25, "liver": 0.5}
    assert watched[0]["step"] == 3.0


def test_one_bad_loss_is_left_out_and_two_stop_with_the_cases():
    trainer, _ = make(bad=(3,))
    trainer.run()
    assert all(torch.isfinite(p).all() for p in trainer.method.parameters())
    trainer, _ = make(bad=(3, 4))
    trainer.logger.disabled = True
    with pytest.raises(DivergenceError, match=r"iteration 5 \(labeled: case4\)"):
        trainer.run()
    assert all(torch.isfinite(p).all() for p in trainer.method.parameters())


def test_clipping_bounds_the_step():
    trainer, _ = make(iterations=1, grad_clip=1e-6)
    before = [p.clone() for p in trainer.method.parameters()]
    trainer.run()
    decay = 1e-4 * 0.1
    for old, new in zip(before, trainer.method.parameters(), strict=True):
        assert ((new - old * (1 - decay)).abs().max()) < 1e-6


def test_full_disk_leaves_the_old_checkpoint(tmp_path):
    import resource

    path = tmp_path / "last.pt"
    checkpoint.save_atomic({"iteration": 1, "method": {}}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises(OutputError, match="cannot be written"):
            checkpoint.save_atomic({"iteration": 2, "method": {"w": torch.zeros(100_000)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert checkpoint.read(path)["iteration"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_damaged_checkpoints_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "last.pt"
    if content is None:
        checkpoint.save_atomic({"iteration": 1, "method": {"w": torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:2000])
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_checkpoint_of_another_network_is_refused():
    trainer, scheduler = make()
    state = checkpoint.capture(trainer, scheduler, fingerprint="f", extra={})
    state["method"]["network.0.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="another network"):
        checkpoint.restore(state, trainer, scheduler, path="last.pt")


def test_schedules():
    step = Schedule(iterations=6000, decay="step")
    assert [lr_factor(step, i) for i in (0, 2499, 2500, 4999, 5000)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    poly = Schedule(iterations=100, decay="poly")
    assert lr_factor(poly, 50) == pytest.approx(0.5**0.9)
    cosine = Schedule(iterations=100, decay="cosine")
    assert [lr_factor(cosine, i) for i in (0, 50, 100)] == pytest.approx([1, 0.5, 0])
    assert lr_factor(Schedule(decay="constant"), 17) == 1


def test_class_dice_counts_what_is_there():
    label = torch.tensor([[[[0, 1, 1, 255, 2, 0]]]])
    prediction = torch.tensor([[[[0, 1, 0, 1, 0, 0]]]])
    dice, present = case_dice(prediction, label, 4, [(1,), (2,), (3,)])
    assert dice.tolist() == pytest.approx([2 / 3, 0, 0])
    assert present.tolist() == [True, True, False]
    metric = ClassDice(4, torch.device("cpu"))
    everything = torch.ones(4, dtype=torch.bool)
    metric.update(([prediction], [label], [everything]))
    metric.update(([label.clamp(max=3)], [label], [everything]))
    metric.update(([prediction], [label], [torch.tensor([True, False, False, False])]))  # covers no class: no change
    result = metric.compute()
    assert result["classes"] == pytest.approx([(2 / 3 + 1) / 2, 0.5, None], abs=1e-5)
    assert result["mean"] == pytest.approx(((2 / 3 + 1) / 2 + 0.5) / 2, abs=1e-5)


MEMORY = """
import os, resource, traceback, torch
from concurrent.futures import ThreadPoolExecutor
from medseg.engine.allocator import keep_freed_memory

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def training():
    net = torch.nn.Sequential(*[torch.nn.Conv3d(c, 16, 3, padding=1) for c in (1, 16, 16)])
    faults = []
    for _ in range(20):
        net(torch.ones(1, 1, 48, 48, 48)).square().mean().backward()
        faults.append(page_faults())
    return faults[-1] - faults[-13]

def in_a_thread():
    def step():
        activations = [torch.ones(size, 2**18) for size in (50, 20, 20, 20, 20, 20)]
        del activations
        return page_faults()
    with ThreadPoolExecutor(1) as pool:
        faults = [pool.submit(step).result() for _ in range(8)]
    return faults[-1] - faults[-4]

def training_without_it():
    return training()

def in_its_own_process(measure, setting=keep_freed_memory, **options):
    # the settings are those of a process; this one has imported torch and made no tensor yet
    child = os.fork()
    if child == 0:
        try:
            print(measure.__name__, int(setting(**options)), measure(), flush=True)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0

in_its_own_process(training_without_it, setting=lambda: True)
in_its_own_process(training)
for _ in range(3):  # heaps of their own give memory back in most runs, not in all
    in_its_own_process(in_a_thread, threads=True)
"""


@pytest.fixture(scope="module")
def page_faults() -> dict[str, list[int]]:
    """Name of a measurement -> page faults of its last steps, in each of its processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
    found: dict[str, list[int]] = {"training_without_it": [], "training": [], "in_a_thread": []}
    for line in ran.stdout.splitlines():
        name, kept, faults = line.split()
        if not int(kept):
            pytest.skip("this C library has no mallopt")
        found[name].append(int(faults))
    return found


def test_freed_memory_is_kept(page_faults) -> None:
    # of twelve steps; without the setting about 80 000, though a single step may have none; with it next to none, or
    # some thousands where the heap still grows
    [without_it] = page_faults["training_without_it"]
    [with_it] = page_faults["training"]
    assert with_it < without_it / 3


def test_freed_memory_is_kept_by_threads(page_faults) -> None:
    assert len(page_faults["in_a_thread"]) == 3
    assert max(page_faults["in_a_thread"]) < 1000  # of three steps, of which each touches 38 400 pages


def test_bfloat16_on_a_processor_that_has_it(monkeypatch):
    monkeypatch.setattr("medseg.engine.trainer.cpu_has_bf16", lambda: True)
    assert Precision.of_schedule("bf16", torch.device("cpu")).dtype is torch.bfloat16
    assert Precision.of_schedule("auto", torch.device("cpu")).dtype is None


AMPS = [("bf16", "AVX512-BF16 or AMX, or a CUDA device"), ("fp16", "a CUDA device")]


@pytest.mark.parametrize(("amp", "needed"), AMPS)
def test_half_formats_on_other_processors_become_float32_with_a_warning(amp, needed, monkeypatch):
    monkeypatch.setattr("medseg.engine.trainer.cpu_has_bf16", lambda: False)
    with pytest.warns(UserWarning, match=f"amp: {amp} needs .*{needed}; training in float32 on cpu"):
        assert Precision.of_schedule(amp, torch.device("cpu")).dtype is None
