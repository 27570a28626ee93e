"""A network is one entry: from it follow pipelines, training, bundles, and which classes a bundle may name."""

from __future__ import annotations

import inspect
import subprocess
from collections.abc import Iterator

import pytest
import torch
from forking import python
from models import data_spec, make_bundle
from pydantic import TypeAdapter, ValidationError
from tiny import FAST, write_dataset

from medseg.bundle.bundle import open_bundle
from medseg.cli import main
from medseg.config import instantiate
from medseg.config.pipeline import NetworkSpec
from medseg.errors import BundleError, ConfigError
from medseg.networks.registry import NETWORKS, NetworkEntry, network, network_def
from medseg.networks.sizes import Size, plan_strides
from medseg.workflows.train.run import train

GIVEN = {"spatial_dims", "in_channels", "out_channels"}
"""Arguments that no pipeline may change: they follow from the data."""


@pytest.fixture
def added() -> Iterator[str]:
    """A network that medseg does not have, added in one place."""

    @network("basic", "monai.networks.nets.BasicUNet", options={"dropout": float, "bias": bool}, dims=(3,))
    def basic(size: Size) -> dict:
        width = size.width
        return {**size.arguments, "norm": "batch", "features": [width, width, 2 * width, 4 * width, 8 * width, width]}

    yield "basic"
    del NETWORKS["basic"]


def test_an_added_network_is_trained_exported_and_opened(added, tmp_path, capfd):
    changes = [*FAST, "stages.0.network.name=basic", "stages.0.network.options.dropout=0.1"]
    run = train("supervised", write_dataset(tmp_path / "data"), tmp_path / "run", overrides=changes, device="cpu")
    opened = open_bundle(run / "bundle")
    assert type(opened.network).__name__ == "BasicUNet"
    assert opened.network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)
    with pytest.raises(SystemExit):
        main(["list"])
    assert "networks   vnet, unet, dynunet, segresnet, efficientnet_lite, basic" in capfd.readouterr().out
    with pytest.raises(ConfigError, match=r"network 'basic' has 3 axes and cannot take patches of \[16, 16\]"):
        network_def(NetworkSpec(name="basic"), patch=(16, 16), in_channels=1, out_channels=2)


def test_without_its_entry_its_bundle_is_refused(tmp_path):
    path = make_bundle(tmp_path / "b") / "configs" / "inference.json"
    path.write_text(path.read_text().replace("monai.networks.nets.UNet", "monai.networks.nets.BasicUNet"))
    with pytest.raises(BundleError, match=r"network_def wants to make 'monai\.networks\.nets\.BasicUNet'"):
        open_bundle(tmp_path / "b")


def test_the_classes_that_may_be_made_are_those_of_the_entries():
    """The list is short on purpose: other networks of MONAI fetch weights."""
    assert [entry.target for entry in NETWORKS.values()] == [
        "medseg.portable.networks.vnet.VNet",
        "monai.networks.nets.UNet",
        "monai.networks.nets.DynUNet",
        "monai.networks.nets.SegResNet",
        "medseg.portable.networks.efficientnet_lite.EfficientNetLite",
    ]
    for name in ("os.system", "monai.networks.nets.EfficientNetBN", "monai.networks.nets", "UNet", ""):
        assert instantiate.network_called(name) is None
    # in a bundle, what is ours is called `scripts`, and by no other name
    assert instantiate.class_called("medseg.portable.networks.vnet.VNet", "scripts") == (None, None)
    assert instantiate.class_called("scripts.networks.vnet.VNet", "scripts")[0] is not None
    assert instantiate.class_called("scripts.vnet.VNet", "scripts")[0] is not None  # its name of before
    assert instantiate.class_called("scripts.monai.networks.nets.UNet", "scripts") == (None, None)


def test_a_name_that_is_not_listed_imports_nothing():
    code = (
        "import sys; from medseg.config import instantiate; before = set(sys.modules)\n"
        "assert instantiate.class_called('antigravity.fly', 'scripts') == (None, None)\n"
        "assert instantiate.class_called('scripts.antigravity.fly', 'scripts') == (None, None)\n"
        "assert set(sys.modules) == before"
    )
    subprocess.run([python(), "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("entry", NETWORKS.values(), ids=list(NETWORKS))
def test_options_are_arguments_of_the_class_and_its_defaults_are_of_their_types(entry: NetworkEntry):
    accepted = inspect.signature(instantiate.network_called(entry.target)).parameters
    assert set(entry.options) <= set(accepted) - GIVEN
    for name, hint in entry.options.items():
        default = accepted[name].default
        if default is not inspect.Parameter.empty and not isinstance(default, tuple):  # a YAML has lists
            TypeAdapter(hint).validate_python(getattr(default, "value", default), strict=True)
    made = network_def(NetworkSpec(name=entry.name, width=8), patch=(32, 32, 32), in_channels=1, out_channels=2)
    given = {name: value for name, value in made.items() if name in entry.options}
    assert NetworkSpec(name=entry.name, options=given).options == given


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "vent",
            {},
            "there is no such network; accepted are 'vnet', 'unet', 'dynunet', 'segresnet' or",
        ),
        ("unet", {"dropot": 0.1}, "network 'unet' has no option 'dropot'; it has act, adn_ordering, bias, channels"),
        ("unet", {"in_channels": 3}, "network 'unet' has no option 'in_channels'; it has"),
        ("unet", {"dropout": "much"}, "dropout of network 'unet' is 'much': Input should be a valid number"),
        (
            "vnet",
            {"norm": "layer"},
            "norm of network 'vnet' is 'layer': Input should be 'batch', 'instance' or 'group'",
        ),
        ("dynunet", {"deep_supervision": True}, "deep_supervision of network 'dynunet' is True: Input should be False"),
    ],
)
def test_what_a_network_does_not_take_is_answered_with_what_it_takes(name, options, words):
    with pytest.raises(ValidationError) as caught:
        NetworkSpec(name=name, options=options)
    assert words in str(caught.value)


def test_patches_that_a_network_cannot_take_are_refused():
    data = data_spec(patch=(16, 16, 4))
    with pytest.raises(ConfigError, match=r"segresnet halves all axes alike and cannot take patches of \[16, 16, 4\]"):
        network_def(NetworkSpec(name="segresnet"), patch=data.patch, in_channels=1, out_channels=2)
    with pytest.raises(ConfigError, match="too small for a network"):
        plan_strides((4, 4, 4))
