"""DTC against its equations, written out slowly, and against the worked numbers of the paper's code."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from given_networks import Given, factory
from models import data_spec

from medseg import methods
from medseg.bundle.bundle import open_bundle, write_bundle
from medseg.config.instantiate import build_network
from medseg.config.pipeline import NetworkSpec
from medseg.engine import checkpoint
from medseg.errors import CheckpointError, ConfigError
from medseg.method import Clock
from medseg.methods.dtc import DTC
from medseg.methods.supervised import Supervised
from medseg.networks.factory import check_exportable, definition_of
from medseg.networks.registry import network_def
from medseg.networks.transfer import named_tensors
from medseg.ops.losses import segmentation as losses
from medseg.ops.schedules import sigmoid_rampup
from medseg.portable.networks.encoder_decoder import EncoderDecoder, HeadedNetwork


class Fixed(EncoderDecoder):
    """A 'network' whose output is a parameter."""

    def __init__(self, output):
        super().__init__()
        self.output = torch.nn.Parameter(output)
        self.width = output.shape[1]

    def encode(self, image):
        return [self.output[: len(image)]]

    def decode(self, features):
        return features[0]


class Channels(torch.nn.Module):
    """A 'head' that gives some of the channels as they are."""

    def __init__(self, first, last):
        super().__init__()
        self.wanted = slice(first, last)

    def forward(self, features):
        return features[:, self.wanted]


class TwoHeads(Given):
    """The first channels of what is given as logits, the others as distances before tanh."""

    def encoder_decoder(self):
        return self.network

    def head(self, in_channels, out_channels, blocks=0):
        if out_channels == self.classes:
            return Channels(0, self.classes)
        return Channels(in_channels - out_channels, in_channels)

    def headed(self, network, head):
        return HeadedNetwork(network, head)


def batch_of(label, *, unlabeled=0, classes=2, boundary="half"):
    shape = label.shape[1:]
    nothing = Fixed(torch.zeros(1, 2 * classes - 1, *shape))
    targets = DTC(TwoHeads(nothing, classes), boundary=boundary).targets()
    made = [targets(row) for row in label]
    batch = {"labeled": {"image": torch.zeros(len(label), 1, *shape), "label": torch.from_numpy(label)[:, None]}}
    for key in made[0]:
        batch["labeled"][key] = torch.from_numpy(np.stack([m[key] for m in made]))
    if unlabeled:
        batch["unlabeled"] = {"image": torch.zeros(unlabeled, 1, *shape)}
    return batch


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    label = (rng.random((2, 6, 5, 4)) < 0.4).astype(np.uint8)
    output = torch.from_numpy(rng.normal(0, 0.003, (4, 3, 6, 5, 4)).astype(np.float32))
    output[:, :2] *= 500
    return label, output


def test_every_term_equals_its_equation(case):
    label, output = case
    batch = batch_of(label, unlabeled=2)
    terms = DTC(TwoHeads(Fixed(output), 2))(batch, Clock(2999, 6000))

    z = np.tanh(output[:, 2].double().numpy())
    p = 1 / (1 + np.exp(-(output[:, 1] - output[:, 0]).double().numpy()))  # official: one channel, sigmoid
    phi = batch["labeled"]["distance"][:, 0].double().numpy()
    both = square_p = square_y = lsf = dtc = 0.0
    for b in range(4):
        for v in np.ndindex(6, 5, 4):
            inside = 1 / (1 + math.exp(min(1500 * z[b][v], 700)))
            dtc += (inside - p[b][v]) ** 2
            if b < 2:
                y = float(label[b][v])
                both, square_p, square_y = both + p[b][v] * y, square_p + p[b][v] ** 2, square_y + y**2
                lsf += (z[b][v] - phi[b][v]) ** 2
    assert terms["dice"].item() == pytest.approx(1 - (2 * both + 1e-5) / (square_p + square_y + 1e-5), abs=1e-5)
    assert terms["distance"].item() == pytest.approx(0.3 * lsf / (2 * 120), rel=1e-4)
    assert terms["consistency"].item() == pytest.approx(0.252051 * dtc / (4 * 120), rel=1e-4)
    assert terms["cross_entropy"].item() == 0


def test_uneven_voxels_are_told_unless_distances_are_in_millimetres(case):
    networks = TwoHeads(Fixed(case[1]), 2)
    assert DTC(networks).cautions({}) == []
    networks.spacing_mm = (1.25, 1.25, 5.0)
    (told,) = DTC(networks).cautions({})
    assert told.startswith("distances count voxels, which have 1.25 x 1.25 x 5 mm; ")
    assert told.endswith("method.options.spacing_mm=[1.25,1.25,5] counts millimetres")
    assert DTC(networks, spacing_mm=(1.25, 1.25, 5.0)).cautions({}) == []
    networks.spacing_mm = (1.0, 1.0, 2.0)
    assert DTC(networks).cautions({}) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spacing_mm": (1.0, 1.0)}, r"spacing_mm is \[1.0, 1.0\]: the network has 3 axes"),
        ({"beta": -0.3}, "beta -0.3: must be at least 0"),
        ({"steepness": -1500.0}, "steepness -1500: must be at least 0"),
        ({"rampup_steps": -40}, "rampup_steps -40: must be at least 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        methods.build("dtc", factory(3), **options)


def test_ramp_takes_the_published_values():
    at = {
        0: 0.006738,
        149: 0.006738,
        150: 0.008625,
        1500: 0.060055,
        2999: 0.252051,
        3000: 0.286505,
        5999: 0.996880,
    }
    for iteration, value in at.items():
        assert sigmoid_rampup(iteration / 6000, 40) == pytest.approx(value, abs=1e-6)
    assert sigmoid_rampup(1.0, 40) == 1.0
    assert sigmoid_rampup(0.5) == pytest.approx(math.exp(-5 * 0.25))


def test_dice_takes_the_published_value():
    p = torch.tensor([0.9, 0.6, 0.2, 0.1])
    logits = torch.stack([torch.zeros(4), torch.logit(p)])[None]
    assert losses.soft_dice(logits, torch.tensor([[[1, 1, 0, 0]]])).item() == pytest.approx(0.068323, abs=1e-5)


def test_gradient_reach_of_the_transform_layer():
    def consistency_gradient(z):
        output = torch.zeros(1, 3, 1, 1, 1)
        output[:, 2] = math.atanh(z)
        network = Fixed(output)
        method = DTC(TwoHeads(network, 2))
        batch = batch_of(np.zeros((1, 1, 1, 1), np.uint8))
        method(batch, Clock(99, 100))["consistency"].backward()
        return network.output.grad.flatten()

    assert consistency_gradient(0.06)[2].abs() < 1e-9
    assert consistency_gradient(0.001)[2].abs() > 1e-3
    assert consistency_gradient(0.06)[1].abs() > 1e-3  # the segmentation head is moved wherever they disagree


def test_supervised_terms_do_not_touch_unlabelled_rows(case):
    label, output = case
    network = Fixed(output)
    terms = DTC(TwoHeads(network, 2), cross_entropy=1.0)(batch_of(label, unlabeled=2), Clock(0, 10))
    (terms["dice"] + terms["distance"] + terms["cross_entropy"]).backward()
    assert network.output.grad[2:].abs().max() == 0
    assert network.output.grad[:2].abs().max() > 0


def test_without_its_own_terms_it_is_supervised_dice_bit_for_bit(case):
    label, output = case
    batch = batch_of(label)
    ours, plain = Fixed(output.clone()), Fixed(output[:, :2].clone())
    sum(DTC(TwoHeads(ours, 2), beta=0.0, consistency=0.0)(batch, Clock(1, 2)).values()).backward()
    sum(Supervised(Given(plain, 2), cross_entropy=0.0)(batch, Clock(1, 2)).values()).backward()
    assert torch.equal(ours.output.grad[:, :2], plain.output.grad)


def test_no_unlabelled_images_uses_the_labelled_ones(case):
    label, output = case
    terms = DTC(TwoHeads(Fixed(output), 2))(batch_of(label), Clock(9, 10))
    assert terms["consistency"] > 0


def test_ignored_voxels_change_no_term(case):
    label, output = case
    label = label.copy()
    label[:, :2] = 255
    batch = batch_of(label)
    before = DTC(TwoHeads(Fixed(output), 2), cross_entropy=1.0)(batch, Clock(9, 10))
    moved = output.clone()
    moved[:, :, :2] += 1.0
    after = DTC(TwoHeads(Fixed(moved), 2), cross_entropy=1.0)(batch, Clock(9, 10))
    for name in before:
        assert before[name].item() == pytest.approx(after[name].item(), abs=1e-7), name


@pytest.mark.parametrize("fill", [0, 1])
def test_absent_and_full_classes_are_finite_and_consistent(fill):
    label = np.full((1, 4, 4, 4), fill, np.uint8)
    output = torch.zeros(1, 3, 4, 4, 4)
    output[:, 1] = 20.0 if fill else -20.0
    output[:, 2] = -3.0 if fill else 3.0
    terms = DTC(TwoHeads(Fixed(output), 2))(batch_of(label), Clock(9, 10))
    assert all(torch.isfinite(term) for term in terms.values())
    assert terms["consistency"].item() < 1e-6  # the perfect answer costs nothing


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["vnet", "unet", "dynunet", "segresnet"])
def test_the_heads_share_nothing_but_the_features(name, dims):
    method = DTC(factory(dims, 3, name=name))
    features = torch.randn(2, method.network.network.width, *[8] * dims, requires_grad=True)
    logits, distances = method.network.head(features), method.distance_head(features)
    assert (logits.shape[1], distances.shape[1]) == (3, 2)
    logits.sum().backward()
    assert all(parameter.grad is None for parameter in method.distance_head.parameters())
    assert not {id(p) for p in method.network.parameters()} & {id(p) for p in method.distance_head.parameters()}
    exported = definition_of(method.segmenter())
    assert exported["head"]["out_channels"] == 3
    check_exportable(method.segmenter())


def test_the_vnet_is_that_of_the_paper_one_convolution_for_both_heads():
    torch.manual_seed(0)
    networks = factory(3, 2)
    method, joined = DTC(networks).eval(), networks.segmenter(3).eval()
    own = named_tensors(method.network)
    with torch.no_grad():
        for tensor_name, tensor in named_tensors(joined).items():
            if tensor_name.startswith("head."):
                part = tensor_name.replace("head", "convolution")
                tensor[:2] = own[tensor_name]
                tensor[2:] = method.distance_head.state_dict()[part]
            else:
                tensor.copy_(own[tensor_name])
    image = torch.randn(1, 2, 16, 24, 8)
    with torch.no_grad():
        features = method.network.network(image)
        apart = torch.cat([method.network.head(features), method.distance_head(features)], 1)
        torch.testing.assert_close(apart, joined(image), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(method.segmenter()(image), joined(image)[:, :2], rtol=1e-5, atol=1e-6)


def test_bundles_of_one_network_for_both_heads_still_open(tmp_path):
    joined = network_def(NetworkSpec(name="unet", width=4), patch=(16, 16, 16), in_channels=1, out_channels=5)
    definition = {"_target_": "medseg.portable.networks.adapters.FirstChannels", "network": joined, "channels": 3}
    network = build_network(definition).eval()
    write_bundle(tmp_path / "b", network, network_def=definition, data=data_spec(), name="dtc")
    image = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(open_bundle(tmp_path / "b").network(image), network(image))


def test_a_run_of_one_network_for_both_heads_is_not_resumed(tmp_path):
    former = torch.nn.Module()
    former.network = factory(3, 2, name="unet").segmenter(3)
    states = {"optimizer": {}, "scheduler": {}, "scaler": {}, "method": former.state_dict()}
    trainer = SimpleNamespace(method=DTC(factory(3, 2, name="unet")))
    with pytest.raises(CheckpointError, match=r"last\.pt: belongs to another network or optimiser") as refused:
        checkpoint.restore(states, trainer, None, path=tmp_path / "last.pt")
    assert "\n" not in str(refused.value)
