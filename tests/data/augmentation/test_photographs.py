"""Random size and colours of photographs, their fixed intensities, and encoders with a learning rate of their own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.given_networks import factory

from medseg import methods
from medseg.config.pipeline import Augment, DataSpec, Intensity, NetworkSpec, Schedule, Weights
from medseg.data import augment
from medseg.data.preprocessing_config import instantiate, preprocessing
from medseg.engine.optimizer import make_optimizer
from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest
from medseg.method import Clock
from medseg.ops.augmentation.photographs import ColorJitter, Resize
from medseg.ops.augmentation.transforms import stream_of
from medseg.planning.intensity import intensity_rule
from medseg.portable.networks.efficientnet_lite import EfficientNetLite

OFF = {"affine": {"probability": 0}, **{name: {"probability": 0} for name in ("contrast", "gamma", "noise")}}


def drawn(factor, patch):
    settings = {**OFF, "resize": {"probability": 1, "factor": (factor, factor)}}
    return augment.draw(Augment(**settings), [1], patch, (1, 1, 1))


def cut(draw, label, start, patch):
    image = torch.from_numpy(label).float()
    source = augment.Source(image, torch.from_numpy(label), torch.zeros(1), repeat=(0, 1, 2))
    written, of_label = torch.empty(1, *patch), torch.empty(1, *patch, dtype=torch.uint8)
    augment.apply(draw, source, draw.start_of_patch(start, patch), written, of_label)
    return written[0, :, :, 0].numpy(), of_label[0, :, :, 0].numpy()


def test_a_photograph_of_twice_the_size_shows_half_as_much():
    label = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    draw = drawn(2.0, (4, 4, 1))
    assert draw.covered_shape((4, 4, 1)) == (2, 2, 1)
    _, of_label = cut(draw, label, (3, 5, 0), (4, 4, 1))
    # the 2 x 2 pixels from (3, 5) on, each twice along each axis
    assert of_label.tolist() == np.kron([[29, 30], [37, 38]], np.ones((2, 2), int)).tolist()


def test_nothing_is_known_around_a_photograph_of_half_the_size():
    label = np.full((1, 4, 4, 1), 7, np.uint8)
    draw = drawn(0.5, (4, 4, 1))
    assert draw.covered_shape((4, 4, 1)) == (8, 8, 1)
    written, of_label = cut(draw, label, (-2, 0, 0), (4, 4, 1))
    expected = np.full((4, 4), 255)
    expected[1:3, 0:2] = 7
    assert of_label.tolist() == expected.tolist()
    assert (written == 7).all()  # as in prediction the outermost pixels are repeated


def test_size_is_drawn_evenly_between_its_bounds():
    resize = Resize(probability=1)
    factors = [1 / resize.draw(stream_of([n], "resize"), (8, 8, 1), (1, 1, 1))[0, 0] for n in range(400)]
    assert 0.5 <= min(factors) < 0.55
    assert 1.95 < max(factors) <= 2
    assert np.mean(factors) == pytest.approx(1.25, abs=0.06)
    assert resize.draw(stream_of([0], "resize"), (8, 8, 1), (1, 1, 1))[2, 2] == 1


def test_scans_keep_their_draws_and_what_is_written_of_them():
    settings = Augment()
    assert not {"resize", "color_jitter"} & set(settings.model_dump(mode="json"))
    assert "resize" in Augment(resize={"probability": 0.5}).model_dump(mode="json")
    both = [augment.draw(each, [3], (8, 8, 8), (1, 1, 1)).values for each in (settings, Augment(resize=settings_on()))]
    both[1].pop("resize")
    assert repr(both[0]) == repr(both[1])


def settings_on():
    return {"probability": 1.0}


def test_colours_change_apart_from_one_another():
    image = torch.rand(3, 6, 6, 1, generator=torch.Generator().manual_seed(0))
    jitter = ColorJitter(probability=1, strength=0.5)
    changed = image.clone()
    number = jitter.draw(stream_of([2], "color_jitter"), (6, 6, 1), (1, 1, 1))
    jitter.apply(changed, number)
    values = (0.5 * (2 * torch.rand(7, generator=torch.Generator().manual_seed(number)) - 1)).tolist()
    grey = image.mean(0, keepdim=True)
    expected = grey + (image - grey) * (1 + values[0])
    for channel in range(3):
        plane = expected[channel]
        contrast, brightness = values[1 + 2 * channel], values[2 + 2 * channel]
        mean, std = plane.mean(), plane.std(correction=0)
        expected[channel] = mean + (plane - mean) * (1 + contrast) + brightness * std
    assert torch.allclose(changed, expected, atol=1e-5)
    again = image.clone()
    jitter.apply(again, number)
    assert torch.equal(again, changed)


def colours(tmp_path, modality):
    content = {
        "labels": {"0": "background", "1": "cat"},
        "modality": modality,
        "training": [{"image": "a.png", "tags": []}],
    }
    return Manifest.build(content, tmp_path / "m.json")


def test_photographs_are_presented_as_the_weights_know_them(tmp_path):
    network = NetworkSpec(name="efficientnet_lite", weights=Weights(file="w.pth"))
    rgb = colours(tmp_path, {"0": "red", "1": "green", "2": "blue"})
    rule = intensity_rule(rgb, network)
    assert rule == Intensity(kind="fixed", mean=127, std=128)
    assert intensity_rule(rgb, NetworkSpec(name="efficientnet_lite")).kind == "zscore"
    assert intensity_rule(rgb, NetworkSpec(name="unet", weights=Weights(file="w.pth"))).kind == "zscore"
    assert intensity_rule(colours(tmp_path, {"0": "MR"}), network).kind == "zscore"
    spec = DataSpec(labels=rgb.labels, modality=rgb.modalities, spacing_mm=(1, 1, 1), patch=(8, 8, 1), intensity=rule)
    scale = instantiate(preprocessing(spec)).transforms[-1]
    found = scale({"image": torch.tensor([0.0, 127, 255]).view(1, 3, 1, 1)})["image"].flatten().tolist()
    assert found == pytest.approx([-127 / 128, 0, 1])


def test_the_encoder_learns_more_slowly():
    method = methods.build("supervised", factory(2, name="efficientnet_lite"))
    first, second = make_optimizer(method, Schedule(lr=0.02, encoder_lr=0.1)).param_groups
    network = method.network.network
    encoder = {id(p) for part in (network.stem, network.stages) for p in part.parameters()}
    assert {id(p) for p in second["params"]} == encoder
    assert (first["lr"], second["lr"]) == (0.02, pytest.approx(0.002))
    assert len(first["params"]) + len(second["params"]) == len(list(method.parameters()))
    assert len(make_optimizer(method, Schedule(lr=0.02)).param_groups) == 1


def test_a_frozen_encoder_stays_as_it_is():
    method = methods.build("supervised", factory(2, name="efficientnet_lite", options={"frozen_statistics": True}))
    network = method.network.network
    method.train()
    parts = {"stem": network.stem, "stages": network.stages}
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    (group,) = (optimizer := make_optimizer(method, Schedule(lr=0.02, encoder_lr=0, weight_decay=0.5))).param_groups
    decoder = {id(parameter) for parameter in method.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in group["params"]} == decoder
    old = [parameter.detach().clone() for parameter in group["params"]]
    image, label = torch.rand(2, 2, 32, 32), torch.randint(0, 2, (2, 1, 32, 32))
    sum(method({"labeled": {"image": image, "label": label}}, Clock(0, 1)).values()).backward()
    optimizer.step()
    for name, part in parts.items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, before[name][key]), key
    assert all(parameter.grad is None for part in parts.values() for parameter in part.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(old, group["params"], strict=True))


def test_a_network_without_an_encoder_of_its_own_is_refused():
    method = methods.build("supervised", factory(2))
    with pytest.raises(ConfigError, match=r"encoder_lr is 0\.1, and no encoder can be told apart"):
        make_optimizer(method, Schedule(encoder_lr=0.1))


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_batch_norm_can_stay_those_of_the_weights(frozen):
    network = EfficientNetLite(2, 3, 8, frozen_statistics=frozen).train()
    before = {name: value.clone() for name, value in network.state_dict().items() if "running_mean" in name}
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    after = network.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == ({"smooth.1.running_mean"} if frozen else set(before))
    assert network.stem[1].weight.grad is not None
