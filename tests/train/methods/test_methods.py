"""Names and options of methods, and the networks that they are given; what a method must be: test_every_method.py."""

from __future__ import annotations

import pytest
import torch
from given_networks import factory

from medseg import methods
from medseg.config.instantiate import build_network
from medseg.config.pipeline import NetworkSpec
from medseg.errors import ConfigError
from medseg.networks.registry import NETWORKS, network_def


def test_unknown_option_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="no option 'betta'; it has beta, consistency"):
        methods.build("dtc", factory(3), betta=1)


def test_unknown_method_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="supervised, dtc"):
        methods.find("dtcc")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("patch", [(16, 24, 32), (32, 48), (24, 24, 8)])
def test_networks_keep_the_size(name, patch):
    network = build_network(network_def(NetworkSpec(name=name, width=4), patch=patch, in_channels=2, out_channels=5))
    assert network(torch.zeros(2, 2, *patch)).shape == (2, 5, *patch)


def test_vnet_has_the_size_of_the_papers():
    definition = network_def(NetworkSpec(name="vnet", width=16), patch=(112, 112, 80), in_channels=1, out_channels=3)
    assert sum(p.numel() for p in build_network(definition).parameters()) / 1e6 == pytest.approx(9.44, abs=0.01)


@pytest.mark.parametrize(("outputs", "dimensions"), [(3, 3), (4, 4), (9, 9)])
def test_outputs_of_a_vnet_can_vary_freely(outputs, dimensions):
    spec = NetworkSpec(name="vnet", width=4)
    network = build_network(network_def(spec, patch=(16, 16, 16), in_channels=1, out_channels=outputs)).eval()
    found = network(torch.randn(2, 1, 16, 16, 16)).movedim(1, -1).flatten(0, -2)
    assert torch.linalg.matrix_rank(found - found.mean(0), rtol=1e-5) == dimensions


def test_residual_vnet_adds_the_input_of_every_block():
    from medseg.portable.networks.vnet import Residual

    options = {"residual": True, "dropout": 0.0}
    spec = NetworkSpec(name="vnet", width=4, options=options)
    network = build_network(network_def(spec, patch=(16, 16), in_channels=1, out_channels=2))
    blocks = [module for module in network.modules() if isinstance(module, Residual)]
    assert len(blocks) == len(network.encoder) + len(network.decoder)
    block, x = blocks[1], torch.randn(2, 8, 4, 4)
    assert torch.equal(block.eval()(x), block.block(x) + x)
    network(torch.randn(2, 1, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_planar_runs_every_slice():
    from medseg.portable.networks.adapters import Planar

    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    volume = torch.randn(2, 1, 6, 5, 4)
    for axis in range(3):
        out = Planar(network, axis)(volume)
        slices = [network(s).unsqueeze(axis + 2) for s in volume.unbind(axis + 2)]
        assert torch.allclose(out, torch.cat(slices, axis + 2), atol=1e-6)
