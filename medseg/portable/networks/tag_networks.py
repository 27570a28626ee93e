"""Networks that learn from tags: a classifier whose maps are seen, and AuxSegNet's segmenter with its affinity.

L. Xu, W. Ouyang, M. Bennamoun, F. Boussaid, F. Sohel, D. Xu: Leveraging Auxiliary Tasks with Affinity Learning for
Weakly Supervised Semantic Segmentation, ICCV 2021; arXiv 2107.11787. Plain torch and MONAI, as a bundle needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from monai.networks.layers.factories import Conv, Dropout
from torch import Tensor, nn

from .encoder_decoder import EncoderDecoder

AFFINITIES = ("normalized", "cross", "segmentation")
SCALED = "scaled_"
"""Before one of these: products are divided by the square root of the channels, as attention usually does."""


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps `(B, C, *spatial)` interpolated linearly to `(B, C, *size)`."""
    mode = "bilinear" if maps.ndim == 4 else "trilinear"
    return nn.functional.interpolate(maps, tuple(size), mode=mode, align_corners=False)


class TagNetwork(nn.Module):
    """A network in halves with a classifier of tags on one of its feature maps: a 1x1 convolution without bias.

    Args:
        network: in halves; its decoder takes no part.
        structures: classes that tags tell of, without the background.
        level: which of the feature maps that `encode` gives.
        dropout: share of the feature channels that the classifier does not see in training.
    """

    def __init__(self, network: EncoderDecoder, structures: int, level: int = -1, dropout: float = 0.5) -> None:
        super().__init__()
        dims = network.spatial_dims
        self.network, self.level = network, level
        self.dropout = Dropout[Dropout.DROPOUT, dims](dropout)
        self.classifier = Conv[Conv.CONV, dims](network.channels[level], structures, 1, bias=False)

    def features(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to the feature map `(B, channels, *positions)`."""
        return self.network.encode(image)[self.level]

    def logits(self, features: Tensor) -> Tensor:
        """Feature map `(B, channels, *positions)` to a logit of each structure `(B, structures)`."""
        return self.classifier(self.dropout(features)).flatten(2).mean(2)

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to class-activation maps `(B, structures, *spatial)`."""
        return enlarge(self.classifier(self.features(image)), image.shape[2:])


class Outputs(NamedTuple):
    """What `CrossTaskSegmenter` says of images, on its grid of P positions.

    Attributes:
        tags: logits `(B, structures)`.
        maps: class-activation maps `(B, structures, *positions)`, not cut at 0.
        segmentation: logits `(B, classes, *positions)`.
        saliency: logits `(B, 1, *positions)`.
        affinity: `(B, P, P)`; row i says of which positions the value at i is made.
    """

    tags: Tensor
    maps: Tensor
    segmentation: Tensor
    saliency: Tensor
    affinity: Tensor

    def refine(self, values: Tensor) -> Tensor:
        """`A P`: values `(B, C, *positions)` as the affinity mixes them, of the same shape."""
        return refine(self.affinity, values)


def refine(affinity: Tensor, values: Tensor) -> Tensor:
    """`A P`, row i of A being the weights of the positions whose sum is the new value at i.

    Args:
        affinity: A, `(B, P, P)`.
        values: P, `(B, C, *positions)`.

    Returns:
        Float32, of the shape of `values`.
    """
    with torch.autocast(values.device.type, enabled=False):
        mixed = torch.einsum("bij,bcj->bci", affinity.float(), values.float().flatten(2))
    return mixed.view(values.shape)


class TaskBranch(nn.Module):
    """Two dilated convolutions, an affinity block, a third dilated convolution and the head of a task.

    Args:
        dims: 2 or 3.
        channels: of the features.
        width: channels inside.
        outputs: channels of the head, which has no bias.
        dilations: of the three convolutions.
        scaled: whether products of the affinity are divided by the square root of `width`.
    """

    def __init__(
        self, dims: int, channels: int, width: int, outputs: int, dilations: Sequence[int], scaled: bool = False
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale = width**-0.5 if scaled else 1.0
        convolution = Conv[Conv.CONV, dims]
        first, second, third = dilations
        self.before = nn.Sequential(
            convolution(channels, width, 3, padding=first, dilation=first), nn.ReLU(),
            convolution(width, width, 3, padding=second, dilation=second), nn.ReLU(),
        )  # fmt: skip
        self.theta, self.phi = convolution(width, width, 1), convolution(width, width, 1)
        self.value, self.output = convolution(width, width, 1), convolution(width, width, 1)
        self.after = nn.Sequential(convolution(width, width, 3, padding=third, dilation=third), nn.ReLU())
        self.head = convolution(width, outputs, 1, bias=False)
        # theta and phi keep torch's smaller weights, as in the authors' code: with Xavier's all positions soon look at
        # one and the same neighbour, and the affinity smooths nothing
        for module in (*self.before, *self.after, self.head):
            if isinstance(module, convolution):
                nn.init.xavier_uniform_(module.weight)

    def affinity(self, features: Tensor) -> Tensor:
        """`softmax_j(scale theta_i . phi_j)` of features `(B, width, *positions)`: `(B, P, P)` float32."""
        queries, keys = self.theta(features).flatten(2), self.phi(features).flatten(2)
        with torch.autocast(features.device.type, enabled=False):
            products = torch.einsum("bki,bkj->bij", queries.float(), keys.float())
            return (self.scale * products).softmax(2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features on the grid of the affinity, after `before`, to logits `(B, outputs, *positions)` and affinity."""
        affinity = self.affinity(features)
        mixed = features + self.output(refine(affinity, self.value(features)))
        return self.head(self.after(mixed)), affinity


class AffinityFusion(nn.Module):
    """Cross-task affinity: two affinities added with weights of each entry that a small network on both gives.

    The 3x3 convolution goes over the matrix, so that the order of the positions matters to it.

    Args:
        normalize_rows: whether rows are divided by their sum, which is 1 only where the weights are alike.
    """

    def __init__(self, normalize_rows: bool = True) -> None:
        super().__init__()
        self.normalize_rows = normalize_rows
        self.weights = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 1))

    def forward(self, segmentation: Tensor, saliency: Tensor) -> Tensor:
        """Two affinities `(B, P, P)` to one."""
        both = torch.stack([segmentation, saliency], 1)
        return self.combine(both, self.weights(both).softmax(1))

    def combine(self, both: Tensor, weights: Tensor) -> Tensor:
        """Affinities and their weights `(B, 2, P, P)` to `(B, P, P)`."""
        fused = (weights.float() * both).sum(1)
        return fused / fused.sum(2, keepdim=True) if self.normalize_rows else fused


class CrossTaskSegmenter(TagNetwork):
    """AuxSegNet's network: tags, saliency and segmentation on one encoder, both dense ones smoothed by one affinity.

    Args:
        network: in halves; its decoder takes no part.
        classes: with background.
        level: which of the feature maps that `encode` gives.
        width: channels of the branches.
        dilations: of the three convolutions of each branch.
        most_positions: where a feature map has more, the branches work on a coarser grid; memory grows with its square.
        affinity: "normalized", of both tasks with rows that sum to 1; "cross", of both as it is; "segmentation", of
            that task alone; each with "scaled_" before it: of scaled products.
        refined: whether `forward` gives the refined segmentation.

    Shape: image `(B, Cin, *spatial)` of any size to logits `(B, classes, *spatial)`.
    """

    def __init__(
        self, network: EncoderDecoder, classes: int, level: int = -1, width: int = 128,
        dilations: Sequence[int] = (6, 12, 18), most_positions: int = 4096,
        affinity: str = "normalized", refined: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(network, classes - 1, level)
        kind = affinity.removeprefix(SCALED)
        if kind not in AFFINITIES:
            raise ValueError(f"affinity is {affinity!r}; accepted are {', '.join(AFFINITIES)}, {SCALED}normalized, ...")
        scaled = kind != affinity
        if len(dilations) != 3:
            raise ValueError(f"dilations are {list(dilations)}; accepted are three numbers")
        dims, channels = network.spatial_dims, network.channels[level]
        self.most_positions, self.refined = most_positions, refined
        self.cross = kind != "segmentation"
        self.segmentation = TaskBranch(dims, channels, width, classes, dilations, scaled)
        self.saliency = TaskBranch(dims, channels, width, 1, dilations, scaled)
        self.fusion = AffinityFusion(kind == "normalized")

    def outputs(self, image: Tensor) -> Outputs:
        """All that the network says of images `(B, Cin, *spatial)`."""
        features = self.features(image)
        grid = affordable_grid(features.shape[2:], self.most_positions)
        logits, affinity = self.segmentation(cell_means(self.segmentation.before(features), grid))
        salient, of_saliency = self.saliency(cell_means(self.saliency.before(features), grid))
        if self.cross:
            affinity = self.fusion(affinity, of_saliency)
        maps = cell_means(self.classifier(features), grid)
        return Outputs(self.logits(features), maps, logits, salient, affinity)

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to logits `(B, classes, *spatial)`."""
        found = self.outputs(image)
        logits = found.refine(found.segmentation) if self.refined else found.segmentation
        return enlarge(logits, image.shape[2:])


def affordable_grid(shape: Sequence[int], most: int) -> tuple[int, ...]:
    """The grid with at most so many positions that halves a shape, longest axes first.

    Args:
        shape: positions along each axis.
        most: positions in all, from 1.
    """
    grid = list(shape)
    while prod(grid) > max(most, 1):
        longest = grid.index(max(grid))
        grid[longest] = (grid[longest] + 1) // 2
    return tuple(grid)


def cell_means(values: Tensor, grid: Sequence[int]) -> Tensor:
    """Values `(B, C, *positions)` as means over the cells of another grid."""
    if tuple(values.shape[2:]) == tuple(grid):
        return values
    if len(grid) == 2:
        return nn.functional.adaptive_avg_pool2d(values, (grid[0], grid[1]))
    return nn.functional.adaptive_avg_pool3d(values, (grid[0], grid[1], grid[2]))
