"""Networks for tests of methods: those that medseg makes, or one that the test gives."""

from __future__ import annotations

from torch import nn

from medseg.config import DataSpec, NetworkSpec
from medseg.method import Frozen
from medseg.networks.factory import NetworkFactory
from medseg.portable.networks.encoder_decoder import EncoderDecoder, HeadedNetwork

PATCHES = {2: (32, 24, 1), 3: (16, 24, 8)}
CHANNELS = 2


def factory(dims: int, classes: int = 3, *, name: str = "vnet", previous: Frozen | None = None, start: bool = False):
    """The networks that a stage would have, for patches of `PATCHES` and images of two channels."""
    data = DataSpec(
        labels={index: f"class{index}" if index else "background" for index in range(classes)},
        modality=("MR",) * CHANNELS,
        spacing_mm=(1.0, 1.0, 1.0),
        patch=PATCHES[dims],
        view="axial" if dims == 2 else "volume",
    )
    return NetworkFactory(NetworkSpec(name=name, width=4), data, previous=previous, start=start)


class Given:
    """Gives the same network whatever is asked for."""

    def __init__(self, network: nn.Module, classes: int, spatial_dims: int = 3) -> None:
        self.network = network
        self.classes, self.spatial_dims, self.in_channels = classes, spatial_dims, 1
        self.has_background = True
        self.previous: Frozen | None = None

    def segmenter(self, out_channels: int | None = None) -> nn.Module:
        return self.network

    def encoder_decoder(self) -> EncoderDecoder:
        raise NotImplementedError

    def head(self, in_channels: int, out_channels: int) -> nn.Module:
        raise NotImplementedError

    def headed(self, network: EncoderDecoder, head: nn.Module) -> HeadedNetwork:
        raise NotImplementedError
