"""Weights that go from one network to the next: by name, shape and the names of structures."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from medseg.errors import ConfigError
from medseg.networks.transfer import class_axes, copy_weights, named_tensors
from medseg.portable.networks.adapters import FirstChannels, Planar
from medseg.portable.networks.encoder_decoder import Head, HeadedNetwork, UNetHalves
from medseg.portable.networks.vnet import VNet

OLD = ("background", "liver", "spleen")


def unet(out: int, dims: int = 2, width: int = 4) -> UNet:
    return UNet(dims, 1, out, [width, 2 * width], [2], num_res_units=2)


def axes_of(out: int) -> dict[str, tuple[int, ...]]:
    return class_axes(unet(out), [unet(out + 1)])


def vnet(out: int) -> VNet:
    return VNet(2, 1, out, 4, [2])


def vnet_axes(out: int) -> dict[str, tuple[int, ...]]:
    return class_axes(vnet(out), [vnet(out + 1), vnet(out - 1)])


def test_the_axes_of_classes_are_those_of_the_last_layers() -> None:
    assert vnet_axes(3) == {"head.weight": (0,), "head.bias": (0,)}
    assert vnet_axes(4) == vnet_axes(3)  # with one more there would be another layer
    assert vnet_axes(5)["head.weight"] == (0, 1)
    found = axes_of(3)
    assert {name.split(".")[1] for name in found} == {"2"}  # the way up out of the first level
    assert found["model.2.1.conv.unit0.conv.weight"] == (0, 1)


def test_classes_are_matched_by_name_in_another_order_and_number() -> None:
    earlier, network = vnet(3), vnet(4)
    fresh = network.head.weight.clone()
    axes = vnet_axes(4)
    labels = ("background", "spleen", "tumour", "liver")
    copied = copy_weights(network, earlier, axes=axes, labels=labels, earlier_labels=OLD)
    assert torch.equal(network.head.weight[0], earlier.head.weight[0])
    assert torch.equal(network.head.weight[1], earlier.head.weight[2])
    assert torch.equal(network.head.weight[3], earlier.head.weight[1])
    assert torch.equal(network.head.weight[2], fresh[2])
    assert copied.by_class == 2
    assert copied.left == ()
    assert "2 of them by the names of structures" in str(copied)
    rest = {name: tensor for name, tensor in earlier.state_dict().items() if not name.startswith("head")}
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in rest.items())


def test_as_many_classes_of_other_names_are_not_taken_for_the_same() -> None:
    earlier, network = vnet(3), vnet(3)
    axes = vnet_axes(3)
    labels = ("background", "spleen", "liver")
    copy_weights(network, earlier, axes=axes, labels=labels, earlier_labels=OLD)
    assert torch.equal(network.head.weight, earlier.head.weight[[0, 2, 1]])


def test_layers_from_classes_to_classes_are_matched_along_both_axes() -> None:
    earlier, network = unet(3), unet(4)
    labels = (*OLD, "tumour")
    copied = copy_weights(network, earlier, axes=axes_of(4), labels=labels, earlier_labels=OLD)
    name = "model.2.1.conv.unit0.conv.weight"
    new, old = network.state_dict()[name], earlier.state_dict()[name]
    assert torch.equal(new[:3, :3], old)
    assert copied.left == ()


def test_adapters_and_halves_have_the_same_names() -> None:
    whole = unet(4)
    halves = UNetHalves(unet(4))
    assert set(named_tensors(halves)) - set(named_tensors(whole)) == {"around.activation.weight"}
    assert named_tensors(Planar(FirstChannels(whole, 2), 2)).keys() == named_tensors(whole).keys()
    headed = HeadedNetwork(halves, Head(2, 4, 3))
    copied = copy_weights(headed, whole, axes={}, labels=OLD, earlier_labels=OLD)
    assert copied.left == ("around.activation.weight", "head.weight", "head.bias")
    assert torch.equal(headed.network.network.model[0].conv.unit0.conv.weight, whole.model[0].conv.unit0.conv.weight)


def test_what_cannot_be_started_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="the network to start from sees volumes, this one planes"):
        copy_weights(unet(3), unet(3, dims=3), axes={}, labels=OLD, earlier_labels=OLD)
    with pytest.raises(ConfigError, match="nothing in common"):
        copy_weights(unet(3), nn.Conv2d(1, 3, 1), axes={}, labels=OLD, earlier_labels=OLD)
