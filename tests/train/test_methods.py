"""The contract, for every method in 2D and 3D."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from given_networks import CHANNELS, PATCHES, factory

from medseg import methods
from medseg.config import NetworkSpec
from medseg.errors import ConfigError
from medseg.instantiate import build_network
from medseg.method import Clock, Method
from medseg.networks.registry import NETWORKS, network_def

CLASSES = 3
SWITCHED_OFF = {"dtc": {"cross_entropy": 1.0, "exclusivity": 1.0}}  # terms of default weight 0


def make(name: str, dims: int, **options: object) -> Method:
    torch.manual_seed(0)
    return methods.build(name, factory(dims, CLASSES), **options)


def make_batch(method: Method, dims: int, size: int = 2) -> dict[str, dict[str, torch.Tensor]]:
    rng = np.random.default_rng(1)
    shape = [n for n in PATCHES[dims] if n > 1]
    batch: dict[str, dict[str, torch.Tensor]] = {}
    for stream in method.streams:
        image = rng.standard_normal((size, CHANNELS, *shape), dtype=np.float32)
        batch[stream.name] = {"image": torch.from_numpy(image)}
    label = np.zeros((size, 1, *shape), np.uint8)
    label[(slice(None), 0, slice(4, 12), slice(4, 12))] = 1
    label[(slice(None), 0, slice(6, 9), slice(14, 22))] = 2
    label[(slice(None), 0, slice(0, 2))] = 255
    batch["labeled"]["label"] = torch.from_numpy(label)
    targets = method.targets()
    if targets:
        made = [targets(each[0]) for each in label]
        for key in made[0]:
            batch["labeled"][key] = torch.from_numpy(np.stack([m[key] for m in made]))
    return batch


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", methods.METHODS)
def test_every_term_is_finite_and_reaches_a_parameter(name, dims):
    method = make(name, dims, **SWITCHED_OFF.get(name, {}))
    terms = method(make_batch(method, dims), Clock(50, 100))
    assert terms
    for term_name, term in terms.items():
        assert term.shape == (), term_name
        assert torch.isfinite(term), term_name
        grads = torch.autograd.grad(term, list(method.parameters()), retain_graph=True, allow_unused=True)
        assert sum(float(g.abs().sum()) for g in grads if g is not None) > 0, f"{term_name} trains nothing"


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", methods.METHODS)
def test_state_round_trip_and_segmenter(name, dims):
    method, other = make(name, dims).eval(), make(name, dims).eval()
    for parameter in other.parameters():
        parameter.data.add_(1)
    other.load_state_dict(method.state_dict())
    batch = make_batch(method, dims)
    first, second = method(batch, Clock(3, 9)), other(batch, Clock(3, 9))
    assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in second.items()}
    image = batch["labeled"]["image"]
    assert method.segmenter()(image).shape == (2, CLASSES, *image.shape[2:])


@pytest.mark.parametrize("name", [*methods.METHODS, *methods.RULES])
def test_hyper_parameters_are_documented(name):
    import inspect

    kind = methods.find(name) if name in methods.METHODS else methods.find_rule(name)
    for option in inspect.signature(kind).parameters:
        assert f"    {option}:" in (kind.__doc__ or ""), f"{name} does not document {option}"


@pytest.mark.parametrize("name", methods.METHODS)
def test_an_all_ignored_label_gives_no_supervised_signal_and_no_nan(name):
    method = make(name, 3)
    batch = make_batch(method, 3)
    batch["labeled"]["label"][:] = 255
    terms = method(batch, Clock(0, 10))
    assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("name", methods.METHODS)
def test_partly_labelled_cases_teach_nothing_of_what_nobody_outlined(name):
    method = make(name, 3, **SWITCHED_OFF.get(name, {}))
    batch = make_batch(method, 3)
    batch["labeled"]["label"][batch["labeled"]["label"] == 2] = 0
    covered = torch.tensor([[True, True, False]] * 2)
    full, partly = dict(batch["labeled"]), {**batch["labeled"], "covered": covered}
    terms = {
        key: {name: term.item() for name, term in method.eval()({**batch, "labeled": each}, Clock(0, 10)).items()}
        for key, each in {"full": full, "partly": partly}.items()
    }
    known = {"dice", "cross_entropy", "distance"} & terms["full"].keys()
    assert all(terms["full"][name] != terms["partly"][name] for name in known)


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
