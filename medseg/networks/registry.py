"""Networks by name: each entry turns a few numbers into the `_target_` dictionary that travels in a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2
from typing import Any

from torch import nn

from medseg import instantiate
from medseg.config import NetworkSpec
from medseg.errors import ConfigError

PORTABLE = "medseg.portable"
Strides = list[list[int]]


def plan_strides(patch: Sequence[int], levels: int = 4, smallest: int = 4) -> Strides:
    """Down-sampling per level and axis: an axis is halved while at least `smallest` voxels of it are left.

    Args:
        patch: voxels along each axis of the network, 2 or 3 of them.
        levels: at most this many down-samplings.
        smallest: voxels along an axis below which it is not halved any more.

    Returns:
        One list of factors per level; levels at which no axis could be halved are left out.
    """
    sizes, strides = list(patch), []
    for _ in range(levels):
        step = [2 if size % 2 == 0 and size // 2 >= smallest else 1 for size in sizes]
        if max(step) == 1:
            break
        sizes = [size // s for size, s in zip(sizes, step, strict=True)]
        strides.append(step)
    if not strides:
        raise ConfigError(f"a patch of {list(patch)} voxels is too small for a network; at least 8 along one axis")
    return strides


def fit_size(size: float, *, largest: float | None = None, levels: int = 4, smallest: int = 4) -> int:
    """The patch size nearest to `size` that can be halved `levels` times, or as often as is worth it.

    Args:
        size: wanted voxels along an axis.
        largest: not to be exceeded, where a halving allows it; by default `size`.
        levels: halvings.
        smallest: voxels that should be left after the last halving.
    """
    limit = size if largest is None else largest
    size = min(size, limit)
    halvings = max(0, min(levels, int(log2(size / smallest)))) if size >= smallest else 0
    factor = 2**halvings
    steps = int(size / factor + 0.5)
    while steps > 1 and steps * factor > limit:
        steps -= 1
    return max(1, steps) * factor


def _vnet(dims: int, channels: tuple[int, int], width: int, strides: Strides) -> dict[str, Any]:
    return {
        "_target_": f"{PORTABLE}.networks.vnet.VNet",
        "spatial_dims": dims,
        "in_channels": channels[0],
        "out_channels": channels[1],
        "width": width,
        "strides": strides,
    }


def _unet(dims: int, channels: tuple[int, int], width: int, strides: Strides) -> dict[str, Any]:
    return {
        "_target_": "monai.networks.nets.UNet",
        "spatial_dims": dims,
        "in_channels": channels[0],
        "out_channels": channels[1],
        "channels": [width * 2**level for level in range(len(strides) + 1)],
        "strides": strides,
        "num_res_units": 2,
    }


def _dynunet(dims: int, channels: tuple[int, int], width: int, strides: Strides) -> dict[str, Any]:
    return {
        "_target_": "monai.networks.nets.DynUNet",
        "spatial_dims": dims,
        "in_channels": channels[0],
        "out_channels": channels[1],
        "kernel_size": [[3] * dims] * (len(strides) + 1),
        "strides": [[1] * dims, *strides],
        "upsample_kernel_size": strides,
        "filters": [min(width * 2**level, 320) for level in range(len(strides) + 1)],
        "res_block": False,
    }


def _segresnet(dims: int, channels: tuple[int, int], width: int, strides: Strides) -> dict[str, Any]:
    even = [s for s in strides if min(s) == 2]  # SegResNet halves all axes or none
    return {
        "_target_": "monai.networks.nets.SegResNet",
        "spatial_dims": dims,
        "in_channels": channels[0],
        "out_channels": channels[1],
        "init_filters": max(width, 8),  # its group norm has eight groups
        "blocks_down": [1, 2, 2, 4, 4][: len(even) + 1],
        "blocks_up": [1] * len(even),
    }


NETWORKS: dict[str, Callable[[int, tuple[int, int], int, Strides], dict[str, Any]]] = {
    "vnet": _vnet,
    "unet": _unet,
    "dynunet": _dynunet,
    "segresnet": _segresnet,
}


HALVES = {"vnet": "VNetHalves", "unet": "UNetHalves", "dynunet": "DynUNetHalves", "segresnet": "SegResNetHalves"}
"""Classes of `medseg.portable.networks.encoder_decoder` that a network is put into to have features."""


def network_def(spec: NetworkSpec, *, patch: Sequence[int], in_channels: int, out_channels: int) -> dict[str, Any]:
    """The `_target_` dictionary of a network.

    Args:
        spec: name, width and further constructor keywords.
        patch: voxels of a training patch along each axis of the network (2 or 3 numbers).
        in_channels: image channels.
        out_channels: output channels.

    Raises:
        ConfigError: a patch that the network cannot take.
    """
    strides = plan_strides(patch)
    definition = NETWORKS[spec.name](len(patch), (in_channels, out_channels), spec.width, strides)
    if spec.name == "segresnet" and not definition["blocks_up"]:
        raise ConfigError(f"segresnet halves all axes alike and cannot take patches of {list(patch)}; use vnet")
    return definition | spec.options


def halves_def(spec: NetworkSpec, *, patch: Sequence[int], in_channels: int) -> dict[str, Any]:
    """The `_target_` dictionary of a network in two halves (`EncoderDecoder`), with `spec.width` features.

    Args:
        spec: name, width and further constructor keywords.
        patch: voxels of a training patch along each axis of the network (2 or 3 numbers).
        in_channels: image channels.

    Raises:
        ConfigError: a patch that the network cannot take.
    """
    whole = network_def(spec, patch=patch, in_channels=in_channels, out_channels=spec.width)
    if spec.name == "efficientnet_lite":
        return whole["network"]
    return {"_target_": f"{PORTABLE}.networks.encoder_decoder.{HALVES[spec.name]}", "network": whole}


def build(definition: dict[str, Any]) -> nn.Module:
    """Instantiate a network definition that this installation made; nothing in it is evaluated.

    Raises:
        ConfigError: keywords that the network does not have, or values that it does not take.
    """
    try:
        network = instantiate.make(definition, "network", PORTABLE)
    except instantiate.Refused as error:
        raise ConfigError(error.problem) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{definition.get('_target_')} is not a network")
    return network
