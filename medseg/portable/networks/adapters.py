"""Adapters of networks: some channels, slices of volumes, several views; plain torch, as a bundle needs it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..planes import PLANES


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
        around = [0, 0, 0]
        around[self.axis] = self.slices // 2
        return around[0], around[1], around[2]

    def forward(self, volume: Tensor) -> Tensor:
        """Volume `(B, Cin, X, Y, Z)` to `(B, C, X, Y, Z)`, shorter along `axis` by `slices - 1`."""
        dimension = self.axis + 2
        stacks = volume.unfold(dimension, self.slices, 1).movedim((dimension, -1), (1, 3))  # (B, N, Cin, slices, H, W)
        images = stacks.flatten(2, 3).flatten(0, 1)
        # `len(volume)` would be a fixed number in an exported graph
        out = self.network(images).unflatten(0, (volume.shape[0], -1))
        return torch.movedim(out, 1, dimension)


class Views(nn.Module):
    """Networks that see the same volume in different planes.

    Args:
        networks: view ("axial", "coronal", "sagittal", "volume") -> network of volumes.
        independent: whether their logits are of each class by itself, through a sigmoid; else through a softmax.
    """

    def __init__(self, networks: Mapping[str, nn.Module], independent: bool = False) -> None:
        super().__init__()
        unknown = sorted(set(networks) - {*PLANES, "volume"})
        if unknown or not networks:
            raise ValueError(f"views are {', '.join(PLANES)} and volume, got {unknown or 'none'}")
        self.networks = nn.ModuleDict(networks)
        self.independent = independent

    def forward(self, volume: Tensor) -> Tensor:
        """Logits of the views' mean probabilities: volume `(B, Cin, X, Y, Z)` to `(B, C, X, Y, Z)`.

        Not the vote: that is for whole volumes, and made by `ViewsInferer`.
        """
        total: Tensor | None = None
        for network in self.networks.values():
            logits = network(_pad_by_edges(volume, context_of(network)))
            part = logits.sigmoid() if self.independent else logits.softmax(1)
            total = part if total is None else total + part
        assert total is not None
        mean = total / len(self.networks)
        if self.independent:
            return mean.logit(torch.finfo(mean.dtype).eps)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


def _pad_by_edges(volume: Tensor, context: tuple[int, int, int]) -> Tensor:
    """A volume `(B, C, X, Y, Z)` with `context` voxels more on either side, which repeat its outermost ones."""
    if not any(context):
        return volume
    x, y, z = context
    return nn.functional.pad(volume, (z, z, y, y, x, x), mode="replicate")


def context_of(network: object) -> tuple[int, int, int]:
    """Voxels around its windows that a network needs along each axis, and gives no output for.

    Asked of the object and not of its class: MONAI Label imports a bundle's scripts again for every request, so that
    its network, made earlier, is of another `Planar` than this one.
    """
    return getattr(network, "context", (0, 0, 0))
