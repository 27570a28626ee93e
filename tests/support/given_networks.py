"""Networks for tests of methods: those that medseg makes, one that the test gives, or such as show what a loss sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.config.pipeline import DataSpec, NetworkSpec
from medseg.method import Frozen
from medseg.networks.factory import NetworkFactory
from medseg.portable.networks.encoder_decoder import EncoderDecoder, Head, HeadedNetwork

PATCHES = {2: (32, 24, 1), 3: (16, 24, 8)}
CHANNELS = 2


def factory(
    dims: int, classes: int = 3, *,
    name: str = "vnet", channels: int = CHANNELS, options: Mapping[str, Any] | None = None,
    previous: Frozen | None = None, start: bool = False,
):  # fmt: skip
    """The networks that a stage would have, for patches of `PATCHES`."""
    data = DataSpec(
        labels={index: f"class{index}" if index else "background" for index in range(classes)},
        modality=("MR",) * channels,
        spacing_mm=(1.0, 1.0, 1.0),
        patch=PATCHES[dims],
        view="axial" if dims == 2 else "volume",
    )
    spec = NetworkSpec(name=name, width=4, options=dict(options or {}))
    return NetworkFactory(spec, data, previous=previous, start=start)


class Given:
    """Gives the same network whatever is asked for."""

    def __init__(self, network: nn.Module, classes: int, spatial_dims: int = 3) -> None:
        self.network = network
        self.classes, self.spatial_dims, self.in_channels = classes, spatial_dims, 1
        self.image_channels = 1
        self.labels, self.modality = tuple(map(str, range(classes))), ("OT",)
        self.has_background, self.region_members = True, ()
        self.patch = tuple(length for length in PATCHES[spatial_dims] if length > 1)
        self.spacing_mm = self.native_mm = (1.0,) * spatial_dims
        self.previous: Frozen | None = None

    def segmenter(self, out_channels: int | None = None) -> nn.Module:
        return self.network

    def encoder_decoder(self) -> EncoderDecoder:
        raise NotImplementedError

    def head(self, in_channels: int, out_channels: int, blocks: int = 0) -> nn.Module:
        raise NotImplementedError

    def headed(self, network: EncoderDecoder, head: nn.Module) -> HeadedNetwork:
        raise NotImplementedError


class Channels(EncoderDecoder):
    """A network in halves whose features are the channels of the image.

    Args:
        spatial_dims: 2 or 3.
        channels: of the image.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.channels = (channels,)
        self.strides = ((1,) * spatial_dims,)
        self.width = channels

    def encode(self, image: Tensor) -> list[Tensor]:
        return [image]

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        return features[-1]


class ByChannel:
    """Networks without context: each logit of a voxel is one channel of the image at that voxel.

    So a test can choose the logits, and change them in some voxels only. A segmenter's logits are the first channels of
    the image, as are those of the first head; each further head takes the next ones.

    Args:
        classes: number of classes with background.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
    """

    def __init__(self, classes: int, spatial_dims: int, in_channels: int) -> None:
        self.classes, self.spatial_dims, self.in_channels = classes, spatial_dims, in_channels
        self.image_channels = in_channels
        self.labels, self.modality = tuple(map(str, range(classes))), ("OT",) * in_channels
        self.has_background, self.region_members = True, ()
        self.patch = tuple(length for length in PATCHES[spatial_dims] if length > 1)
        self.spacing_mm = self.native_mm = (1.0,) * spatial_dims
        self.previous: Frozen | None = None
        self._next = 0

    def segmenter(self, out_channels: int | None = None) -> nn.Module:
        return self._choose(0, self.classes if out_channels is None else out_channels)

    def encoder_decoder(self) -> EncoderDecoder:
        return Channels(self.spatial_dims, self.in_channels)

    def head(self, in_channels: int, out_channels: int, blocks: int = 0) -> nn.Module:
        assert not blocks, "it is without context"
        first = self._next
        self._next += out_channels
        return self._choose(first, out_channels)

    def headed(self, network: EncoderDecoder, head: nn.Module) -> HeadedNetwork:
        return HeadedNetwork(network, head)

    def _choose(self, first: int, count: int) -> Head:
        assert first + count <= self.in_channels
        head = Head(self.spatial_dims, self.in_channels, count)
        with torch.no_grad():
            head.convolution.weight.zero_()
            head.convolution.bias.zero_()
            for channel in range(count):
                head.convolution.weight[channel, first + channel] = 1
        return head
