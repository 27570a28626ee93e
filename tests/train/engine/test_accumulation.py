"""A step for which memory runs out: the same batch in parts, whose gradients are those of the whole."""

from __future__ import annotations

import pytest
import torch
from given_networks import Given
from ignite.engine import Events
from torch import nn

from medseg.config.pipeline import Schedule
from medseg.engine import checkpoint
from medseg.engine.accumulation import BatchTooLargeError, more_parts, split_batch
from medseg.engine.optimizer import make_optimizer, make_scheduler
from medseg.engine.trainer import MethodTrainer, Precision, StepSettings
from medseg.method import Method


class Small(Method):
    """A mean over samples that fits into memory with so many samples at most."""

    most = 4

    def __init__(self, networks):
        super().__init__(networks)
        self.network = networks.segmenter()

    def segmenter(self):
        return self.network

    def forward(self, batch, clock):
        image, other = batch["labeled"]["image"], batch["unlabeled"]["image"]
        if len(image) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        mean = self.network(image).square().flatten(1).mean(1).mean()
        return {"fit": mean, "other": 0.3 * (self.network(other) - 1).abs().flatten(1).mean(1).mean()}


def make(most, *, iterations=6, start=0, sizes=(4, 2), optimizer="sgd"):
    torch.manual_seed(0)
    method = Small(Given(nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Conv3d(4, 2, 1)), 2))
    method.most = most
    schedule = Schedule(iterations=iterations, lr=0.1, optimizer=optimizer)
    batches = []
    for i in range(start, iterations):
        generator = torch.Generator().manual_seed(i)
        images = [torch.randn(size, 1, 5, 5, 5, generator=generator) for size in sizes]
        batches.append({"labeled": {"image": images[0]}, "unlabeled": {"image": images[1]}})
    optimizer = make_optimizer(method, schedule)
    scheduler = make_scheduler(optimizer, schedule)
    settings = StepSettings(Precision(torch.device("cpu")), grad_clip=1.0)
    trainer = MethodTrainer(method, optimizer, batches, total=iterations, start=start, settings=settings)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
    return trainer, scheduler


def test_parts_learn_what_the_whole_batch_does_and_it_is_said_once(capfd):
    whole, _ = make(4)
    whole.run()
    assert whole.parts == 1
    assert capfd.readouterr().err == ""
    halves, _ = make(2)
    halves.run()
    assert halves.parts == 2
    said = capfd.readouterr().err
    assert said.count("memory ran out at iteration 1: from here on the same batch is taken in 2 parts") == 1
    for name, value in whole.method.state_dict().items():
        assert torch.allclose(value, halves.method.state_dict()[name], atol=1e-6), name
    for name, value in whole.state.output.items():
        assert torch.allclose(value, halves.state.output[name], atol=1e-6), name


def test_a_resumed_run_has_the_parts_of_the_first(tmp_path, capfd):
    first, scheduler = make(2)
    first.add_event_handler(Events.ITERATION_COMPLETED, lambda e: e.terminate() if e.state.iteration == 3 else None)
    first.run()
    state = checkpoint.capture(first, scheduler, fingerprint="f", extra={})
    checkpoint.save_atomic(state, tmp_path / "last.pt")
    capfd.readouterr()
    second, scheduler = make(4, start=3)  # on a machine with more memory
    checkpoint.restore(checkpoint.read(tmp_path / "last.pt"), second, scheduler, path="x")
    second.run()
    assert second.parts == 2
    assert capfd.readouterr().err == ""
    unbroken, _ = make(2)
    unbroken.run()
    for name, value in unbroken.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[name]), name
    del state["parts"]  # of a version that had none
    checkpoint.restore(state, second, scheduler, path="x")
    assert second.parts == 1


def test_what_cannot_be_split_is_told_with_a_way_out():
    trainer, _ = make(1)
    with pytest.raises(BatchTooLargeError, match=r"batch of 4 labeled \+ 2 unlabeled in 2 parts.*equal parts"):
        trainer.run()
    with pytest.raises(BatchTooLargeError, match=r"--set data\.patch"):
        make(2, sizes=(3, 2))[0].run()


def test_other_errors_are_not_taken_for_it():
    trainer, _ = make(4, sizes=(4, 2))
    trainer.method.network[0] = nn.Conv3d(7, 4, 3)
    with pytest.raises(RuntimeError, match="channels"):
        trainer.run()
    assert trainer.parts == 1


def test_equal_parts_with_a_share_of_each_stream():
    batch = {"a": {"image": torch.arange(6), "index": torch.arange(6) * 10}, "b": {"image": torch.arange(3)}}
    parts = split_batch(batch, 3)
    assert [part["a"]["index"].tolist() for part in parts] == [[0, 10], [20, 30], [40, 50]]
    assert [part["b"]["image"].tolist() for part in parts] == [[0], [1], [2]]
    assert more_parts(batch, 1) == 3
    assert more_parts({"a": {"image": torch.arange(8)}}, 2) == 4
