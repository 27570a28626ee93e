"""Networks by name. To add one, write a function here and decorate it with `@network(...)`; nothing else is edited.

An entry says which class the network is, by the name that travels in bundles, and which of its arguments a pipeline may
give; the function gives the others, from the size of the patch. Pipelines, `medseg list`, training, bundles and the
classes that may be made of a bundle (`medseg.config.instantiate`) all follow from the entry.

The module imports neither torch nor NumPy when it is imported: pipelines are checked before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from medseg.errors import ConfigError
from medseg.networks.sizes import Size, plan_strides

if TYPE_CHECKING:
    from medseg.config.pipeline import NetworkSpec

PORTABLE = "medseg.portable"
HALVES = f"{PORTABLE}.networks.encoder_decoder"
ITSELF = "itself"
Sizes = int | list[int]
Layer = str | list[Any]
"""A kind of layer by MONAI's name, alone or with its arguments: "batch", ["group", {"num_groups": 4}]."""


@dataclass(frozen=True)
class NetworkEntry:
    """A network that pipelines can name.

    Args:
        name: in pipelines.
        target: module and class, as bundles name it; what is of `medseg.portable` travels inside them.
        arguments: gives the constructor's arguments that follow from the size.
        options: constructor arguments that a pipeline may give -> their type; these replace the ones above.
        dims: numbers of spatial axes that it can have.
        halves: class of `medseg.portable.networks.encoder_decoder` that gives the network in two halves; `ITSELF`: the
            network is an `EncoderDecoder`, on which a head is put; None: it cannot be had in halves.
        photographs: mean and divisor of the 8-bit photographs that its pre-trained weights know; None: there are none.
        planned: options of new trainings where the pipeline does not give them; runs and bundles that exist name what
            they have, or have the constructor's default.
    """

    name: str
    target: str
    arguments: Callable[[Size], dict[str, Any]]
    options: Mapping[str, Any]
    dims: tuple[int, ...] = (2, 3)
    halves: str | None = None
    photographs: tuple[float, float] | None = None
    planned: Mapping[str, Any] = field(default_factory=dict)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """See that the network takes options of a pipeline.

        Raises:
            ValueError: naming the first that it does not take, and what would be accepted.
        """
        for name, value in options.items():
            if name not in self.options:
                accepted = ", ".join(sorted(self.options))
                raise ValueError(f"network {self.name!r} has no option {name!r}; it has {accepted}")
            try:
                TypeAdapter(self.options[name]).validate_python(value, strict=True)
            except ValidationError as error:
                wanted = " or ".join(dict.fromkeys(problem["msg"] for problem in error.errors()))
                raise ValueError(f"{name} of network {self.name!r} is {value!r}: {wanted}") from error


NETWORKS: dict[str, NetworkEntry] = {}
"""Name -> entry of every network, in the order in which they are listed."""


def find(name: str) -> NetworkEntry:
    """The entry of a name.

    Raises:
        ValueError: there is none; names the accepted ones.
    """
    if name not in NETWORKS:
        *others, last = [repr(accepted) for accepted in NETWORKS]
        raise ValueError(f"there is no such network; accepted are {', '.join(others)} or {last}")
    return NETWORKS[name]


def network(
    name: str,
    target: str,
    *,
    options: Mapping[str, Any],
    dims: tuple[int, ...] = (2, 3),
    halves: str | None = None,
    photographs: tuple[float, float] | None = None,
    planned: Mapping[str, Any] | None = None,
) -> Callable[[Callable[[Size], dict[str, Any]]], Callable[[Size], dict[str, Any]]]:
    """Register a function of a size as a network; the arguments are those of `NetworkEntry`."""

    def register(arguments: Callable[[Size], dict[str, Any]]) -> Callable[[Size], dict[str, Any]]:
        NETWORKS[name] = NetworkEntry(name, target, arguments, options, dims, halves, photographs, planned or {})
        return arguments

    return register


@network(
    "vnet",
    f"{PORTABLE}.networks.vnet.VNet",
    halves="VNetHalves",
    options={
        "width": int,
        "strides": list[Sizes],
        "norm": Literal["batch", "instance", "group"],
        "dropout": float,
        "residual": bool,
    },
)
def vnet(size: Size) -> dict[str, Any]:
    """The V-Net of the semi-supervised literature."""
    return {**size.arguments, "width": size.width, "strides": size.strides}


@network(
    "unet",
    "monai.networks.nets.UNet",
    halves="UNetHalves",
    planned={"norm": "batch"},  # docs/results/robustness.md
    options={
        "channels": list[int],
        "strides": list[Sizes],
        "kernel_size": Sizes,
        "up_kernel_size": Sizes,
        "num_res_units": int,
        "act": Layer,
        "norm": Layer,
        "dropout": float,
        "bias": bool,
        "adn_ordering": str,
    },
)
def unet(size: Size) -> dict[str, Any]:
    """MONAI's U-Net with residual units."""
    return {**size.arguments, "channels": size.widths(), "strides": size.strides, "num_res_units": 2}


@network(
    "dynunet",
    "monai.networks.nets.DynUNet",
    halves="DynUNetHalves",
    options={
        "kernel_size": list[Sizes],
        "strides": list[Sizes],
        "upsample_kernel_size": list[Sizes],
        "filters": list[int] | None,
        "dropout": Layer | float | None,
        "norm_name": Layer,
        "act_name": Layer,
        "deep_supervision": Literal[False],
        "res_block": bool,
        "trans_bias": bool,
    },
)
def dynunet(size: Size) -> dict[str, Any]:
    """MONAI's rebuilding of nnU-Net's network."""
    return {
        **size.arguments,
        "kernel_size": [[3] * size.dims] * (len(size.strides) + 1),
        "strides": [[1] * size.dims, *size.strides],
        "upsample_kernel_size": size.strides,
        "filters": size.widths(most=320),
        "res_block": False,
    }


@network(
    "segresnet",
    "monai.networks.nets.SegResNet",
    halves="SegResNetHalves",
    options={
        "init_filters": int,
        "dropout_prob": float | None,
        "act": Layer,
        "norm": Layer,
        "norm_name": str,
        "num_groups": int,
        "use_conv_final": bool,
        "blocks_down": list[int],
        "blocks_up": list[int],
        "upsample_mode": str,
    },
)
def segresnet(size: Size) -> dict[str, Any]:
    """MONAI's SegResNet, which halves all axes or none."""
    halvings = sum(min(step) == 2 for step in size.strides)
    if not halvings:
        raise ConfigError(f"segresnet halves all axes alike and cannot take patches of {list(size.patch)}; use vnet")
    return {
        **size.arguments,
        "init_filters": max(size.width, 8),  # its group norm has eight groups
        "blocks_down": [1, 2, 2, 4, 4][: halvings + 1],
        "blocks_up": [1] * halvings,
    }


@network(
    "efficientnet_lite",
    f"{PORTABLE}.networks.efficientnet_lite.EfficientNetLite",
    halves=ITSELF,
    options={"width": int, "output_stride": Literal[8, 16, 32], "frozen_statistics": bool},
    photographs=(127.0, 128.0),
)
def efficientnet_lite(size: Size) -> dict[str, Any]:
    """EfficientNet-lite0 with a chosen output stride; weights trained on ImageNet exist for two axes."""
    return {"spatial_dims": size.dims, "in_channels": size.in_channels, "width": size.width}


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
    entry = NETWORKS[spec.name]
    definition = _own_def(entry, spec, patch, in_channels, out_channels)
    if entry.halves != ITSELF:
        return definition
    head = head_def(len(patch), definition["width"], out_channels)
    return {"_target_": f"{HALVES}.HeadedNetwork", "network": definition, "head": head}


def halves_def(spec: NetworkSpec, *, patch: Sequence[int], in_channels: int) -> dict[str, Any]:
    """The `_target_` dictionary of a network in two halves (`EncoderDecoder`).

    Args:
        spec: name, width and further constructor keywords.
        patch: voxels of a training patch along each axis of the network (2 or 3 numbers).
        in_channels: image channels.

    Raises:
        ConfigError: a patch that the network cannot take, or a network without features.
    """
    entry = NETWORKS[spec.name]
    if entry.halves is None:
        having = ", ".join(name for name, each in NETWORKS.items() if each.halves)
        raise ConfigError(f"network {spec.name!r} gives no features, which the method needs; accepted are {having}")
    definition = _own_def(entry, spec, patch, in_channels, spec.width)
    if entry.halves == ITSELF:
        return definition
    return {"_target_": f"{HALVES}.{entry.halves}", "network": definition}


def head_def(dims: int, in_channels: int, out_channels: int, blocks: int = 0) -> dict[str, Any]:
    """The `_target_` dictionary of a 1x1x1 convolution on features, after so many blocks of its own."""
    definition = {
        "_target_": f"{HALVES}.Head",
        "spatial_dims": dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
    }
    return {**definition, "blocks": blocks} if blocks else definition


def _own_def(
    entry: NetworkEntry, spec: NetworkSpec, patch: Sequence[int], in_channels: int, out_channels: int
) -> dict[str, Any]:
    size = Size(tuple(patch), in_channels, out_channels, spec.width, plan_strides(patch))
    if size.dims not in entry.dims:
        accepted = " or ".join(map(str, entry.dims))
        raise ConfigError(f"network {entry.name!r} has {accepted} axes and cannot take patches of {list(patch)}")
    return {"_target_": entry.target, **entry.arguments(size), **spec.options}
