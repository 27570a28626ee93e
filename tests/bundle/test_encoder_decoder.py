"""Networks in two halves: shapes, equality with the whole network, gradients, weights of other sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from given_networks import factory
from imagenet import imagenet_weights
from monai.networks.nets import DynUNet, SegResNet, UNet
from monai.networks.nets.efficientnet import EfficientNet
from PIL import Image
from torch import nn

from medseg.networks import registry
from medseg.portable.io import image_files
from medseg.portable.networks.efficientnet_lite import EfficientNetLite, pretrained_keys
from medseg.portable.networks.encoder_decoder import (
    DynUNetHalves,
    EncoderDecoder,
    Head,
    HeadedNetwork,
    SegResNetHalves,
    UNetHalves,
    VNetHalves,
)
from medseg.portable.networks.vnet import VNet


def unet(dims: int, units: int = 2) -> UNet:
    return UNet(dims, 2, 8, [8, 16, 32], [2, 2], num_res_units=units)


def dynunet(dims: int) -> DynUNet:
    return DynUNet(dims, 2, 3, [3] * 3, [1, 2, 2], [2, 2], filters=[8, 16, 32])


def segresnet(dims: int) -> SegResNet:
    return SegResNet(dims, 8, 2, 3, blocks_down=(1, 2, 2), blocks_up=(1, 1))


NETWORKS: dict[str, Callable[[int], EncoderDecoder]] = {
    "unet": lambda dims: UNetHalves(unet(dims)),
    "unet without residual units": lambda dims: UNetHalves(unet(dims, 0)),
    "dynunet": lambda dims: DynUNetHalves(dynunet(dims)),
    "segresnet": lambda dims: SegResNetHalves(segresnet(dims)),
    "vnet": lambda dims: VNetHalves(VNet(dims, 2, 3, 8, [2, 2])),
    "efficientnet_lite, stride 8": lambda dims: EfficientNetLite(dims, 2, 8, 8),
    "efficientnet_lite, stride 16": lambda dims: EfficientNetLite(dims, 2, 8, 16),
    "efficientnet_lite, stride 32": lambda dims: EfficientNetLite(dims, 2, 8, 32),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_are_those_it_tells_and_every_parameter_learns(name: str, dims: int) -> None:
    network = NETWORKS[name](dims)
    size = (16, 24, 32)[:dims]
    features = network.encode(torch.randn(2, 2, *size))
    assert network.spatial_dims == dims
    for found, channels, strides in zip(features, network.channels, network.strides, strict=True):
        expected = [-(-voxels // stride) for voxels, stride in zip(size, strides, strict=True)]
        assert list(found.shape) == [2, channels, *expected]
    decoded = network.decode(features)
    assert list(decoded.shape) == [2, network.width, *size]
    decoded.square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", [name for name, entry in registry.NETWORKS.items() if entry.halves])
def test_the_parts_of_the_encoder_are_those_that_features_need(name: str) -> None:
    network = factory(2, name=name).encoder_decoder()
    features = network.encode(torch.randn(2, 2, 32, 24))
    torch.stack([feature.square().sum() for feature in features]).sum().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    prefixes = tuple(f"{part}." for part in network.encoder_parts)
    assert {name for name, _ in network.named_parameters() if name.startswith(prefixes)} == reached


@pytest.mark.parametrize("halves", [lambda: UNetHalves(unet(3)), lambda: DynUNetHalves(dynunet(3)),
                                    lambda: SegResNetHalves(segresnet(3))])  # fmt: skip
def test_a_network_with_a_head_can_be_exported_to_torchscript(halves) -> None:
    network = halves().eval()
    headed = HeadedNetwork(network, Head(3, network.width, 3)).eval()
    image = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(network.decode(network.encode(image)), network(image))
        torch.testing.assert_close(torch.jit.script(headed)(image), headed(image))


def test_one_factor_for_each_axis() -> None:
    network = UNetHalves(UNet(3, 1, 4, [4, 8, 16], [[2, 2, 1], [2, 2, 2]]))
    assert network.strides == ((2, 2, 1), (4, 4, 2), (4, 4, 2))


@pytest.mark.parametrize("dims", [2, 3])
def test_halves_give_what_the_whole_gives(dims: int) -> None:
    image = torch.randn(2, 2, *(16, 16, 16)[:dims])
    whole = unet(dims).eval()
    expected = whole(image)
    halves = UNetHalves(whole).eval()
    halves.activation = nn.Identity()
    assert torch.equal(halves(image), expected)

    whole = dynunet(dims).eval()
    expected = whole.skip_layers(image)
    assert torch.equal(DynUNetHalves(whole).eval()(image), expected)

    whole = segresnet(dims).eval()
    last = whole.conv_final[-1]
    expected = whole(image)
    assert torch.equal(last(SegResNetHalves(whole).eval()(image)), expected)

    whole = VNet(dims, 2, 3, 8, [2, 2]).eval()
    last = whole.head
    expected = whole(image)
    assert torch.equal(last(VNetHalves(whole).eval()(image)), expected)


def test_a_head_makes_a_segmenter() -> None:
    network = HeadedNetwork(UNetHalves(unet(2)), Head(2, 8, 5))
    assert network(torch.randn(3, 2, 16, 16)).shape == (3, 5, 16, 16)


def test_dilation_keeps_what_a_stride_would_have_left_out() -> None:
    # with stride 16 the last feature map at even places is computed as with stride 32, but for the edges
    coarse, fine = EfficientNetLite(2, 1, 4, 32).eval(), EfficientNetLite(2, 1, 4, 16).eval()
    own = fine.state_dict()
    fine.load_state_dict({k: v for k, v in coarse.state_dict().items() if k in own and own[k].shape == v.shape}, False)
    image = torch.randn(1, 1, 512, 512)
    with torch.no_grad():
        coarse_map, fine_map = coarse.encode(image)[-1], fine.encode(image)[-1]
    assert coarse_map.shape[-1] * 2 == fine_map.shape[-1]
    # the uneven padding of a stride puts the place that a voxel stands for at the second of two
    agree = [(fine_map[..., a::2, b::2] - coarse_map)[..., 7:9, 7:9].abs().max() for a in (0, 1) for b in (0, 1)]
    assert min(agree) < 1e-4 * coarse_map.abs().max()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"output_stride is 4; accepted are 8, 16, 32"):
        EfficientNetLite(2, 3, 8, 4)
    with pytest.raises(ValueError, match="deep_supervision"):
        DynUNetHalves(DynUNet(2, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4] * 4, deep_supervision=True))
    with pytest.raises(ValueError, match="use_conv_final"):
        SegResNetHalves(SegResNet(2, 8, 1, 2, use_conv_final=False))
    with pytest.raises(ValueError, match=r"holds no EfficientNet-lite0: it has a\.weight"):
        pretrained_keys({"a.weight": torch.zeros(1)})


BLOCKS = [
    "r1_k3_s11_e1_i32_o16", "r2_k3_s22_e6_i16_o24", "r2_k5_s22_e6_i24_o40", "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112", "r4_k5_s22_e6_i112_o192", "r1_k3_s11_e6_i192_o320",
]  # fmt: skip


def monais(state: dict[str, torch.Tensor]) -> EfficientNet:
    """MONAI's own EfficientNet without squeeze-and-excitation, with the same weights."""
    network = EfficientNet(BLOCKS, 2, 3, 1000, 1.0, 1.0, 0.2, 224)
    for module in list(network.modules()):
        if hasattr(module, "_swish"):
            module._swish = nn.ReLU6()
    counts = [int(block[1]) for block in BLOCKS]
    stage_of = [stage for stage, count in enumerate(counts) for _ in range(count)]
    renamed = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        number = rest.split(".")[0]
        renamed[f"_blocks.{stage_of[int(number)]}.{rest}" if first == "_blocks" else key] = value
    network.load_state_dict(renamed)
    return network.eval()


def test_imagenet_weights_give_the_features_of_monais_network_for_a_photograph_as_it_is_read(tmp_path: Path) -> None:
    state = torch.load(imagenet_weights(), weights_only=True)
    network = EfficientNetLite(2, 3, output_stride=32).eval()
    missing, unexpected = network.load_state_dict(pretrained_keys(state), strict=False)
    assert unexpected == []
    assert {key.split(".")[0] for key in missing} == {"lateral", "smooth"}

    reference = monais(state)
    photograph = np.random.default_rng(0).integers(0, 256, (224, 160, 3), dtype=np.uint8)  # rows, columns, colours
    image = torch.from_numpy(photograph).permute(2, 0, 1)[None] / 128 - 1
    with torch.no_grad():
        x = nn.functional.relu6(reference._bn0(reference._conv_stem(reference._conv_stem_padding(image))))
        for stage in reference._blocks:
            x = stage(x)
        Image.fromarray(photograph).save(tmp_path / "photograph.png")
        pixels, _ = image_files.read(tmp_path / "photograph.png", voxels=True)
        assert pixels is not None
        as_read = torch.from_numpy(pixels[..., 0])[None] / 128 - 1
        torch.testing.assert_close(network.encode(as_read)[-1].transpose(2, 3), x, rtol=1e-4, atol=1e-4)
