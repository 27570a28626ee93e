"""Networks that MONAI does not have, and small adapters; plain torch, so that they travel with a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.networks.layers.factories import Conv, Dropout, Norm
from torch import Tensor, nn

from .planes import PLANES


def _block(dims: int, channels_in: int, channels: int, convs: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(convs):
        layers += [
            Conv[Conv.CONV, dims](channels_in if i == 0 else channels, channels, 3, padding=1),
            _norm(dims, channels, norm),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _norm(dims: int, channels: int, norm: str) -> nn.Module:
    if norm == "group":
        return nn.GroupNorm(min(8, channels), channels)
    return Norm[norm, dims](channels)


class VNet(nn.Module):
    """The V-Net of the semi-supervised literature: plain 3x3x3 convolutions, strided convolutions, added skips.

    It differs from `monai.networks.nets.VNet` (5x5x5 convolutions, residual branches, 45 M parameters): this one has
    9.4 M parameters at width 16 and is the backbone of UA-MT, SASSNet and DTC (Luo et al., AAAI 2021).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: channels of the last 1x1x1 convolution.
        width: channels of the first level, doubled at each of the next four.
        strides: down-sampling into each deeper level, a number or one number per axis.
        norm: "batch", "instance" or "group".
        dropout: probability of whole channels to be dropped at the bottom and before the last layer, while training.

    Shape: image `(B, in_channels, *spatial)` to `(B, out_channels, *spatial)`; each size a multiple of its strides'
    product.
    """

    encoder_convs = (1, 2, 3, 3, 3)
    decoder_convs = (3, 3, 2, 1)

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        width: int = 16,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        norm: str = "batch",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not 1 <= len(strides) <= 4:
            raise ValueError(f"strides must have 1 to 4 entries, got {len(strides)}")
        depth = len(strides)
        widths = [width * 2**level for level in range(depth + 1)]
        steps = [s if isinstance(s, int) else tuple(s) for s in strides]
        conv, transposed = Conv[Conv.CONV, spatial_dims], Conv[Conv.CONVTRANS, spatial_dims]

        def step(kind: type[nn.Module], level_in: int, level_out: int, stride: int | tuple[int, ...]) -> nn.Sequential:
            return nn.Sequential(
                kind(widths[level_in], widths[level_out], stride, stride=stride),
                _norm(spatial_dims, widths[level_out], norm),
                nn.ReLU(inplace=True),
            )

        first_in = [in_channels, *widths[1:]]
        self.encoder = nn.ModuleList(
            _block(spatial_dims, first_in[level], widths[level], self.encoder_convs[level], norm)
            for level in range(depth + 1)
        )
        self.down = nn.ModuleList(step(conv, level, level + 1, steps[level]) for level in range(depth))
        self.up = nn.ModuleList(step(transposed, level + 1, level, steps[level]) for level in reversed(range(depth)))
        self.decoder = nn.ModuleList(
            _block(spatial_dims, widths[level], widths[level], convs, norm)
            for level, convs in zip(reversed(range(depth)), self.decoder_convs[4 - depth :], strict=True)
        )
        self.dropout = Dropout[Dropout.DROPOUT, spatial_dims](dropout)
        self.head = conv(widths[0], out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, in_channels, *spatial)` to `(B, out_channels, *spatial)`."""
        x, skips = self.encoder[0](image), []
        for down, encode in zip(self.down, self.encoder[1:], strict=True):
            skips.append(x)
            x = encode(down(x))
        x = self.dropout(x)
        for up, decode in zip(self.up, self.decoder, strict=True):
            x = decode(up(x) + skips.pop())
        return self.head(self.dropout(x))


class FirstChannels(nn.Module):
    """A network of which only the first channels are wanted, such as the segmentation head of a two-headed one.

    Args:
        network: any module with one tensor in and out.
        channels: how many of its output channels to keep.
    """

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, channels, *spatial)`."""
        return self.network(image)[:, : self.channels]


class Planar(nn.Module):
    """A 2D network used on volumes: every slice across `axis` goes through it.

    Args:
        network: images `(B, Cin * slices, H, W)` to `(B, C, H, W)`; the slices of a channel follow one another.
        axis: spatial axis of the volume that is cut, 0, 1 or 2.
        slices: adjacent slices that the network sees to label the middle one, an odd number.
    """

    def __init__(self, network: nn.Module, axis: int, slices: int = 1) -> None:
        super().__init__()
        if slices < 1 or slices % 2 == 0:
            raise ValueError(f"slices must be odd, so that one is in the middle, got {slices}")
        self.network, self.axis, self.slices = network, axis, slices

    @property
    def context(self) -> tuple[int, int, int]:
        """Voxels that are needed on either side of what is labelled, along each axis."""
        x, y, z = (self.slices // 2 if axis == self.axis else 0 for axis in range(3))
        return x, y, z

    def forward(self, volume: Tensor) -> Tensor:
        """Volume `(B, Cin, X, Y, Z)` to `(B, C, X, Y, Z)`, shorter along `axis` by `slices - 1`."""
        where = self.axis + 2
        stacks = volume.unfold(where, self.slices, 1).movedim((where, -1), (1, 3))  # (B, N, Cin, slices, H, W)
        out = self.network(stacks.flatten(2, 3).flatten(0, 1)).unflatten(0, (len(volume), -1))
        return torch.movedim(out, 1, where)


class Views(nn.Module):
    """Networks that see the same volume in different planes.

    Args:
        networks: view ("axial", "coronal", "sagittal", "volume") -> network of volumes.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if unknown := sorted(set(networks) - {*PLANES, "volume"}) or not networks:
            raise ValueError(f"views are {', '.join(PLANES)} and volume, got {unknown if networks else 'none'}")
        self.networks = nn.ModuleDict(networks)

    def forward(self, volume: Tensor) -> Tensor:
        """The logarithm of the views' mean probabilities: volume `(B, Cin, X, Y, Z)` to `(B, C, X, Y, Z)`.

        Not the vote: that is for whole volumes, and made by `ViewsInferer`.
        """
        total: Tensor | None = None
        for network in self.networks.values():
            around = [n for c in reversed(context_of(network)) for n in (c, c)]
            edged = nn.functional.pad(volume, around, mode="replicate") if any(around) else volume
            part = network(edged).softmax(1)
            total = part if total is None else total + part
        assert total is not None
        return (total / len(self.networks)).clamp_min(torch.finfo(total.dtype).tiny).log()


def context_of(network: object) -> tuple[int, int, int]:
    """Voxels around its windows that a network needs along each axis, and gives no output for.

    Asked of the object and not of its class: MONAI Label imports a bundle's scripts again for every request, so that
    its network, made earlier, is of another `Planar` than this one.
    """
    return getattr(network, "context", (0, 0, 0))
