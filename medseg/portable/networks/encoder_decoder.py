"""Networks in two halves: `encode` gives feature maps of several resolutions, `decode` one of the size of the image.

Methods that look at features (class-activation maps, contrast between pixels, pretext tasks) take a network in halves
and put heads of their own on it. Plain torch and MONAI, so that it travels with a bundle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Conv
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets import DynUNet, SegResNet, UNet
from torch import Tensor, nn

from .pointwise import pointwise, wants_product
from .vnet import VNet


class EncoderDecoder(nn.Module, ABC):
    """Base of networks in two halves.

    Attributes:
        spatial_dims: 2 or 3.
        channels: of each feature map that `encode` gives, the finest first.
        strides: for each of these, how many voxels of the image lie between its own, along each axis.
        width: channels of what `decode` gives.
        encoder_parts: names of the modules that are the encoder; empty: nothing tells them from the decoder's.
    """

    if TYPE_CHECKING:  # TorchScript would read them, and does not know all of these types
        encoder_parts: tuple[str, ...]
        spatial_dims: int
        channels: tuple[int, ...]
        strides: tuple[tuple[int, ...], ...]
        width: int
    else:
        encoder_parts = ()

    @abstractmethod
    def encode(self, image: Tensor) -> list[Tensor]:
        """Image `(B, Cin, *spatial)` to feature maps `(B, channels[i], *spatial / strides[i])`, the finest first."""

    @abstractmethod
    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """What `encode` gave to `(B, width, *spatial)`."""

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, width, *spatial)`."""
        return self.decode(self.encode(image))


def total_strides(steps: Sequence[int | Sequence[int]], dims: int) -> tuple[tuple[int, ...], ...]:
    """The product of all steps up to each level, along each axis.

    Args:
        steps: of each level, one number or one per axis.
        dims: 2 or 3.
    """
    each = [(step,) * dims if isinstance(step, int) else tuple(step) for step in steps]
    return tuple(accumulate(each, lambda before, step: tuple(b * s for b, s in zip(before, step, strict=True))))


class UNetHalves(EncoderDecoder):
    """MONAI's `UNet` in two halves.

    Args:
        network: whose output channels become the features'; an activation follows them.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network
        self.activation = nn.PReLU()
        self.spatial_dims = network.dimensions
        self.channels = tuple(network.channels)
        # the last level lies at the bottom, where nothing is halved any more
        self.strides = total_strides([*network.strides, 1], self.spatial_dims)
        self.width = network.out_channels
        depth = len(network.strides)
        down = ["network.model" + ".1.submodule" * level + ".0" for level in range(depth)]
        self.encoder_parts = (*down, "network.model" + ".1.submodule" * depth)

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, width, *spatial)`, in a way that TorchScript can export."""
        return self.activation(self.network(image))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image `(B, Cin, *spatial)` to a feature map for each level."""
        features: list[Tensor] = []
        x = image
        for down, _ in self._levels():
            x = down(x)
            features.append(x)
        return [*features, self._bottom()(x)]

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """What `encode` gave to `(B, width, *spatial)`."""
        x = features[-1]
        for (_, up), skip in zip(reversed(self._levels()), reversed(features[:-1]), strict=True):
            x = up(torch.cat([skip, x], dim=1))
        return self.activation(x)

    def _levels(self) -> list[tuple[nn.Module, nn.Module]]:
        """The way down into each level and the way up out of it; MONAI nests one level in the other."""
        levels = []
        block: Any = self.network.model
        while _is_level(block):
            levels.append((block[0], block[2]))
            block = block[1].submodule
        return levels

    def _bottom(self) -> nn.Module:
        block: Any = self.network.model
        while _is_level(block):
            block = block[1].submodule
        return block


def _is_level(block: nn.Module) -> bool:
    """Whether a part of MONAI's `UNet` is a level with others below it, and not the bottom."""
    return isinstance(block, nn.Sequential) and len(block) == 3 and isinstance(block[1], SkipConnection)


class DynUNetHalves(EncoderDecoder):
    """MONAI's `DynUNet`, nnU-Net's network, in two halves; its own last convolution is taken away.

    Args:
        network: without deep supervision.
    """

    encoder_parts = ("network.input_block", "network.downsamples", "network.bottleneck")

    def __init__(self, network: DynUNet) -> None:
        super().__init__()
        if network.deep_supervision:
            raise ValueError("deep_supervision has heads of its own; accepted is false")
        network.output_block = nn.Identity()
        self.network = network
        self.spatial_dims = network.spatial_dims
        self.channels = tuple(network.filters)
        self.strides = total_strides(network.strides, self.spatial_dims)
        self.width = network.filters[0]

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, width, *spatial)`, in a way that TorchScript can export."""
        return self.network(image)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image `(B, Cin, *spatial)` to a feature map for each level."""
        features = [self.network.input_block(image)]
        for down in [*self.network.downsamples, self.network.bottleneck]:
            features.append(down(features[-1]))
        return features

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """What `encode` gave to `(B, width, *spatial)`."""
        x = features[-1]
        for up, skip in zip(self.network.upsamples, reversed(features[:-1]), strict=True):
            x = up(x, skip)
        return x


class SegResNetHalves(EncoderDecoder):
    """MONAI's `SegResNet` in two halves; its own last convolution is taken away, norm and activation stay.

    Args:
        network: with its final convolution (`use_conv_final`).
    """

    encoder_parts = ("network.convInit", "network.down_layers")

    def __init__(self, network: SegResNet) -> None:
        super().__init__()
        if not network.use_conv_final:
            raise ValueError("use_conv_final is false; accepted is true")
        network.conv_final[-1] = nn.Identity()
        self.network = network
        self.spatial_dims = network.spatial_dims
        levels = len(network.blocks_down)
        self.channels = tuple(network.init_filters * 2**level for level in range(levels))
        self.strides = total_strides([1] + [2] * (levels - 1), self.spatial_dims)
        self.width = network.init_filters

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, width, *spatial)`, in a way that TorchScript can export."""
        return self.network(image)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image `(B, Cin, *spatial)` to a feature map for each level."""
        _, features = self.network.encode(image)
        return features

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """What `encode` gave to `(B, width, *spatial)`."""
        return self.network.decode(features[-1], list(reversed(features)))


class VNetHalves(EncoderDecoder):
    """`VNet` in two halves; its own last convolutions are taken away.

    Args:
        network: any.
    """

    encoder_parts = ("network.encoder", "network.down")

    def __init__(self, network: VNet) -> None:
        super().__init__()
        network.last, network.head = nn.Identity(), nn.Identity()
        self.network = network
        self.spatial_dims = network.spatial_dims
        self.channels = network.widths
        self.strides = total_strides([1, *network.steps], self.spatial_dims)
        self.width = network.widths[0]

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, width, *spatial)`, in a way that TorchScript can export."""
        return self.network(image)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image `(B, Cin, *spatial)` to a feature map for each level."""
        return self.network.encode(image)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """What `encode` gave to `(B, width, *spatial)`."""
        return self.network.decode(features)


class Head(nn.Module):
    """A 1x1x1 convolution on features, or on what blocks of its own make of them.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the features.
        out_channels: of the result, such as one logit for each class.
        blocks: 3x3x3 convolutions before it, each with batch norm and PReLU, of as many channels as the features.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, blocks: int = 0) -> None:
        super().__init__()
        own = [Convolution(spatial_dims, in_channels, in_channels, norm="batch") for _ in range(blocks)]
        self.blocks = nn.Sequential(*own)
        self.convolution = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, in_channels, *spatial)` to `(B, out_channels, *spatial)`."""
        features = self.blocks(features)
        if not torch.jit.is_scripting() and wants_product(features):
            return pointwise(features, self.convolution.weight, self.convolution.bias)
        return self.convolution(features)


class HeadedNetwork(nn.Module):
    """A network in halves with a head on its decoder: a segmenter.

    Args:
        network: in halves.
        head: on its `width` channels.
    """

    def __init__(self, network: EncoderDecoder, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head = network, head

    def segment(self, features: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """What `network.encode` gave of images of a shape to `(B, classes, *shape)`."""
        return self.head(self.network.decode(features))

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, classes, *spatial)`."""
        return self.head(self.network(image))


class FeatureMaps(nn.Module):
    """A head on a feature map of a network in halves, brought to the size of the image, such as class-activation maps.

    Args:
        network: in halves.
        head: on the `channels[level]` channels of a feature map.
        level: which of the feature maps that `encode` gives.
    """

    def __init__(self, network: EncoderDecoder, head: nn.Module, level: int = -1) -> None:
        super().__init__()
        self.network, self.head, self.level = network, head, level

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to maps `(B, K, *spatial)`, interpolated linearly."""
        maps = self.head(self.network.encode(image)[self.level])
        mode = "bilinear" if image.ndim == 4 else "trilinear"
        return nn.functional.interpolate(maps, image.shape[2:], mode=mode, align_corners=False)
