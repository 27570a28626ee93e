"""DTC's options beyond its paper: heads with blocks of their own, what is refused, and a run that is resumed."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from given_networks import factory
from lives import assert_same
from models import data_spec
from tiny import FAST, write_dataset

from medseg import methods
from medseg.bundle.bundle import open_bundle, write_bundle
from medseg.errors import ConfigError
from medseg.method import Frozen
from medseg.methods.dtc import DTC
from medseg.networks.factory import check_exportable, definition_of
from medseg.stopping import Stopped
from medseg.workflows.train.run import train


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["unet", "vnet"])
def test_heads_with_blocks_travel_in_a_bundle(name, dims, tmp_path):
    method = DTC(factory(dims, 3, name=name, channels=1), head_blocks=2)
    own = {id(parameter) for parameter in method.network.head.parameters()}
    assert not own & {id(parameter) for parameter in method.distance_head.parameters()}
    segmenter = method.segmenter().eval()
    definition = definition_of(segmenter)
    assert definition["head"]["blocks"] == 2
    check_exportable(segmenter)
    image = torch.randn(1, 1, *(16, 16, 16)[:dims])
    if name == "unet":  # TorchScript does not take this V-Net
        torch.testing.assert_close(torch.jit.script(segmenter)(image), segmenter(image))
    if dims == 3:
        write_bundle(tmp_path / "b", segmenter, network_def=definition, data=data_spec(), name="dtc")
        assert torch.equal(open_bundle(tmp_path / "b").network(image), segmenter(image))


def test_a_head_without_blocks_is_written_as_before():
    head = DTC(factory(3, 3)).segmenter().head
    assert set(definition_of(head)) == {"_target_", "spatial_dims", "in_channels", "out_channels"}
    assert set(head.state_dict()) == {"convolution.weight", "convolution.bias"}


def test_a_head_starts_from_one_that_has_as_many_blocks():
    earlier = DTC(factory(3, 3), head_blocks=1).segmenter()
    previous = Frozen(earlier, ("background", "class2", "class1"))
    head = DTC(factory(3, 3, previous=previous, start=True), head_blocks=1).segmenter().head
    assert_same(head.blocks.state_dict(), earlier.head.blocks.state_dict())
    assert torch.equal(head.convolution.weight, earlier.head.convolution.weight[[0, 2, 1]])

    alone = DTC(factory(3, 3, previous=previous, start=True)).segmenter().head
    assert not torch.equal(alone.convolution.weight[0], earlier.head.convolution.weight[0])


def test_mirrors_that_exchange_left_and_right_are_refused():
    networks = factory(3)
    networks.labels = ("background", "left kidney", "right kidney")
    with pytest.raises(
        ConfigError, match=r"changed_copy is mirrored, .*; accepted are none, noise and turned"
    ) as refused:
        methods.build("dtc", networks, changed_copy="mirrored")
    assert "\n" not in str(refused.value)
    methods.build("dtc", networks, changed_copy="turned")
    methods.build("dtc", factory(3), changed_copy="mirrored")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"changed_copy": "dropout"}, "changed_copy.*'dropout'"),
        ({"copy_output": "mask"}, "copy_output is mask, but changed_copy is none: accepted is distances"),
        ({"noise": 0.3}, "noise is 0.3, but changed_copy is none: accepted with a noise is changed_copy noise"),
        ({"noise": 0.3, "changed_copy": "turned"}, "noise is 0.3, but changed_copy is turned"),
        ({"noise": -0.1, "changed_copy": "noise"}, "noise -0.1: must be at least 0"),
        ({"head_blocks": -1}, "head_blocks -1: must be at least 0"),
        ({"head_blocks": 1.5}, "head_blocks.*1.5"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, words):
    with pytest.raises(ConfigError, match=words) as refused:
        methods.build("dtc", factory(3), **options)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("undrawn")
def test_stopped_and_resumed_is_bit_for_bit(tmp_path, monkeypatch):
    data = write_dataset(tmp_path / "data", validation=0, test=0)
    options = ["changed_copy=noise", "copy_output=mask", "head_blocks=1"]
    changes = [*FAST, "stages.0.schedule.iterations=4", "stages.0.schedule.batch.unlabeled=1"]
    changes += ["stages.0.schedule.workers=0", *(f"stages.0.method.options.{each}" for each in options)]

    def stop_at_two(self, clock):
        if clock.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def run(name, **more):
        return train("dtc", data, tmp_path / name, overrides=changes, device="cpu", **more)

    whole = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(DTC, "after_step", stop_at_two)
        with pytest.raises(Stopped):
            run("stopped")
    resumed = run("stopped", resume=True)
    states = [torch.load(folder / "last.pt", weights_only=True) for folder in (whole, resumed)]
    assert_same(*({key: state[key] for key in ("method", "optimizer", "random")} for state in states))
    assert '"disagreement"' in (whole / "metrics.jsonl").read_text()
