"""Copies of images that are turned by known rotations, with their labels, for the rotation task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import lcm
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medseg.ops.pretext.rotations import RotationSet, choose_rotations
from medseg.portable.networks.encoder_decoder import EncoderDecoder

SMALLEST_SIDE = 8
"""Voxels of a patch along an exchanged axis, below which there is nothing to turn."""

Copies = Literal["one", "all"]
"""Of each image: one upright and one turned by a random other rotation, or one turned by each rotation."""


class Turned(NamedTuple):
    """Copies of images, those of one image after one another, the upright one first.

    Attributes:
        image: `(B R, C, *spatial)`, R copies of each of B images.
        number: `(B R,)` int64, by which rotation each is turned.
        label: `(B R, 1, *spatial)`, turned alike; None: there was none.
    """

    image: Tensor
    number: Tensor
    label: Tensor | None


@dataclass(frozen=True)
class RotatedCopies:
    """Makes turned copies of images.

    Args:
        rotations: what the numbers mean.
        side: voxels along the axes that are exchanged; longer images are cut to a random part of this size.
        copies: see `Copies`.
    """

    rotations: RotationSet
    side: int
    copies: Copies = "one"

    @property
    def count(self) -> int:
        """Copies of each image."""
        return 2 if self.copies == "one" else len(self.rotations)

    def describe(self, patch: Sequence[int]) -> str:
        """Which rotations there are, in words.

        Args:
            patch: voxels of an image along each of its axes.
        """
        axes = ", ".join(map(str, self.rotations.exchanged))
        text = f"{self.rotations.name}: {len(self.rotations)} rotations"
        text += f" that exchange the axes {axes} of the network" if axes else ", half turns"
        return f"{text}; of parts of {self.side} voxels along these" if self.cuts(patch) else text

    def cuts(self, shape: Sequence[int]) -> bool:
        """Whether images `(*spatial)` of this shape are cut before they are turned."""
        return any(shape[axis] != self.side for axis in self.rotations.exchanged)

    def __call__(self, image: Tensor, label: Tensor | None = None) -> Turned:
        """Cut and turn.

        Args:
            image: `(B, C, *spatial)`.
            label: `(B, 1, *spatial)`.
        """
        images, labels = self._cut(image, label)
        numbers = self._draw(len(images))
        number = torch.tensor(numbers, device=image.device)
        turned = self._turn(images, numbers)
        return Turned(turned, number, None if labels is None else self._turn(labels, numbers))

    def _turn(self, images: Tensor, numbers: Sequence[int]) -> Tensor:
        return self.rotations.turn(images.repeat_interleave(self.count, 0), numbers)

    def _draw(self, images: int) -> list[int]:
        if self.copies == "all":
            return list(range(len(self.rotations))) * images
        numbers = []
        for drawn in torch.randint(1, len(self.rotations), (images,)).tolist():
            numbers += [0, drawn]
        return numbers

    def _cut(self, image: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A random part of each image, and the same of its label."""
        shape = image.shape[2:]
        if not self.cuts(shape):
            return image, label
        images, labels = [], []
        for number in range(len(image)):
            parts: list[slice] = [slice(None)] * len(shape)
            for axis in self.rotations.exchanged:
                start = int(torch.randint(shape[axis] - self.side + 1, ()))
                parts[axis] = slice(start, start + self.side)
            place = (slice(number, number + 1), slice(None), *parts)
            images.append(image[place])
            if label is not None:
                labels.append(label[place])
        return torch.cat(images), torch.cat(labels) if labels else None


def plan_copies(
    name: str,
    network: EncoderDecoder,
    patch: Sequence[int],
    spacing_mm: Sequence[float],
    native_mm: Sequence[float],
    copies: Copies = "one",
) -> RotatedCopies:
    """Choose rotations, and the largest equal sides along the axes that they exchange.

    "auto" exchanges no axes along which a patch is too short to be turned; where only such are left, it takes the half
    turns, which exchange none.

    Args:
        name: of a set of rotations, or "auto", see `choose_rotations`.
        network: that will see the copies.
        patch: voxels along each axis of the network.
        spacing_mm: of the patch, along the same axes.
        native_mm: of the files, along the same axes.
        copies: of each image.

    Raises:
        ValueError: as `choose_rotations`; a named set, and a patch that is too short along an exchanged axis.
    """
    pairs = combinations(range(len(patch)), 2)
    too_short = [pair for pair in pairs if _largest_side(network, patch, pair) < SMALLEST_SIDE]
    rotations = choose_rotations(name, spacing_mm, native_mm, never=too_short)
    axes = rotations.exchanged
    if not axes:
        return RotatedCopies(rotations, 0, copies)
    side = _largest_side(network, patch, axes)
    if side < SMALLEST_SIDE:
        half = "half2" if len(patch) == 2 else "half4"
        raise ValueError(
            f"rotations {rotations.name} turns the axes {', '.join(map(str, axes))} of a patch of {list(patch)} "
            f"voxels, whose largest part with equal sides has {side}; accepted are {SMALLEST_SIDE} and more, or {half}"
        )
    return RotatedCopies(rotations, side, copies)


def _largest_side(network: EncoderDecoder, patch: Sequence[int], axes: Sequence[int]) -> int:
    """The largest equal length along some axes that a patch holds and that the network can take along all of them."""
    step = lcm(*(network.strides[-1][axis] for axis in axes))
    return min(patch[axis] for axis in axes) // step * step
