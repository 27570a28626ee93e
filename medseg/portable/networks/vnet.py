"""The V-Net that semi-supervised methods are compared with; plain torch, so that it travels with a bundle."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.factories import Conv, Dropout, Norm
from torch import Tensor, nn


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


class Residual(nn.Module):
    """A block to whose output its input is added.

    Args:
        dims: 2 or 3.
        channels_in: channels of its input.
        channels: channels of its output.
        block: `(B, channels_in, *spatial)` to `(B, channels, *spatial)`.
    """

    def __init__(self, dims: int, channels_in: int, channels: int, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        same = channels_in == channels
        self.skip = nn.Identity() if same else Conv[Conv.CONV, dims](channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels_in, *spatial)` to `(B, channels, *spatial)`."""
        return self.block(x) + self.skip(x)


class VNet(nn.Module):
    """The V-Net of the semi-supervised literature: plain 3x3x3 convolutions, strided convolutions, added skips.

    It differs from `monai.networks.nets.VNet` (5x5x5 convolutions, residual branches, 45 M parameters): this one has
    9.4 M parameters at width 16 and is the backbone of UA-MT, SASSNet and DTC (Luo et al., AAAI 2021). Two parts of the
    V-Net of Milletari et al. (3DV 2016) are missing there: the residual branches, which `residual` brings back, and a
    convolution to as many channels as there are outputs before the last one. It is here where there are more outputs
    than `width`, which would otherwise have to come out of fewer channels; the papers had no such task.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: channels of the last 1x1x1 convolution.
        width: channels of the first level, doubled at each of the next four.
        strides: down-sampling into each deeper level, a number or one number per axis.
        norm: "batch", "instance" or "group".
        dropout: probability of whole channels to be dropped at the bottom and before the last layer, while training.
        residual: adds the input of every block to its output, through a 1x1x1 convolution where their channels differ.

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
        residual: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= len(strides) <= 4:
            raise ValueError(f"strides must have 1 to 4 entries, got {len(strides)}")
        depth = len(strides)
        widths = [width * 2**level for level in range(depth + 1)]
        steps = [s if isinstance(s, int) else tuple(s) for s in strides]
        self.spatial_dims, self.widths, self.steps = spatial_dims, tuple(widths), tuple(steps)
        conv, transposed = Conv[Conv.CONV, spatial_dims], Conv[Conv.CONVTRANS, spatial_dims]

        def step(kind: type[nn.Module], level_in: int, level_out: int, stride: int | tuple[int, ...]) -> nn.Sequential:
            return nn.Sequential(
                kind(widths[level_in], widths[level_out], stride, stride=stride),
                _norm(spatial_dims, widths[level_out], norm),
                nn.ReLU(inplace=True),
            )

        def block(channels_in: int, level: int, convs: int) -> nn.Module:
            plain = _block(spatial_dims, channels_in, widths[level], convs, norm)
            return Residual(spatial_dims, channels_in, widths[level], plain) if residual else plain

        first_in = [in_channels, *widths[1:]]
        self.encoder = nn.ModuleList(
            block(first_in[level], level, self.encoder_convs[level]) for level in range(depth + 1)
        )
        self.down = nn.ModuleList(step(conv, level, level + 1, steps[level]) for level in range(depth))
        self.up = nn.ModuleList(step(transposed, level + 1, level, steps[level]) for level in reversed(range(depth)))
        self.decoder = nn.ModuleList(
            block(widths[level], level, convs)
            for level, convs in zip(reversed(range(depth)), self.decoder_convs[4 - depth :], strict=True)
        )
        self.dropout = Dropout[Dropout.DROPOUT, spatial_dims](dropout)
        many = out_channels > width
        self.last = _block(spatial_dims, width, out_channels, 1, norm) if many else nn.Identity()
        self.head = conv(out_channels if many else width, out_channels, 1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image `(B, in_channels, *spatial)` to a feature map for each level, the finest first."""
        features = [self.encoder[0](image)]
        for down, encoder in zip(self.down, self.encoder[1:], strict=True):
            features.append(encoder(down(features[-1])))
        return features

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """What `encode` gave to `(B, out_channels, *spatial)`."""
        x = self.dropout(features[-1])
        for up, decoder, skip in zip(self.up, self.decoder, reversed(features[:-1]), strict=True):
            x = decoder(up(x) + skip)
        return self.head(self.dropout(self.last(x)))

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, in_channels, *spatial)` to `(B, out_channels, *spatial)`."""
        return self.decode(self.encode(image))
