"""Tasks that need no label, on the features of an encoder: which rotation is it, which views are of the same image.

Each task is a module with its own head; what it asks for is made of images on their device. Heads are no part of what
predicts. Images of one grey value are the same from all sides: they count in no mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.ops.losses.segmentation import masked_mean
from medseg.ops.losses.triplets import batch_hard
from medseg.ops.pretext.exemplar_views import make_views
from medseg.ops.pretext.rotations import RotationSet, choose_rotations
from medseg.portable.networks.encoder_decoder import EncoderDecoder

SMALLEST_SIDE = 8
"""Voxels of a patch along an exchanged axis, below which there is nothing to turn."""

Copies = Literal["one", "all"]
"""Of each image: upright and by one random rotation of the others, or by every rotation."""


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
    """The largest equal sides that a patch holds along the axes that are exchanged, and that the network can take.

    Args:
        name: of a set of rotations, or "auto", see `choose_rotations`.
        network: that will see the copies.
        patch: voxels along each axis of the network.
        spacing_mm: of the patch, along the same axes.
        native_mm: of the files, along the same axes.
        copies: of each image.

    Raises:
        ValueError: as `choose_rotations`; a patch that is too thin along an exchanged axis.
    """
    rotations = choose_rotations(name, spacing_mm, native_mm)
    axes = rotations.exchanged
    if not axes:
        return RotatedCopies(rotations, 0, copies)
    step = lcm(*(network.strides[-1][axis] for axis in axes))
    side = min(patch[axis] for axis in axes) // step * step
    if side < SMALLEST_SIDE:
        half = "half2" if len(patch) == 2 else "half4"
        raise ValueError(
            f"rotations {rotations.name} turns the axes {', '.join(map(str, axes))} of a patch of {list(patch)} "
            f"voxels, whose largest part with equal sides has {side}; accepted are {SMALLEST_SIDE} and more, or {half}"
        )
    return RotatedCopies(rotations, side, copies)


def pooled(features: Sequence[Tensor]) -> Tensor:
    """The mean over space of the coarsest feature map, `(B, channels)` float32."""
    return features[-1].float().flatten(2).mean(2)


def shows_something(image: Tensor) -> Tensor:
    """Of images `(B, C, *spatial)` whether there is more than one grey value in some channel, `(B,)` bool."""
    flat = image.flatten(2)
    return (flat.amax(2) > flat.amin(2)).any(1)


def share_found(logits: Tensor, number: Tensor) -> Tensor:
    """Share of the copies whose rotation has the largest logit, a scalar without gradient.

    Args:
        logits: `(N, rotations)`.
        number: `(N,)` of the rotation.
    """
    return (logits.detach().argmax(1) == number).float().mean()


class RotationTask(nn.Module):
    """Which rotation has turned an image: cross-entropy of a linear layer on pooled features.

    Args:
        channels: of the features.
        rotations: how many there are.
    """

    def __init__(self, channels: int, rotations: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, rotations)

    def forward(self, features: Tensor) -> Tensor:
        """Pooled features `(N, channels)` to logits `(N, rotations)`."""
        return self.head(features)

    def loss(self, logits: Tensor, number: Tensor, counted: Tensor) -> Tensor:
        """Mean cross-entropy.

        Args:
            logits: `(N, rotations)`.
            number: `(N,)` of the rotation.
            counted: `(N,)` bool; what is not, is not in the mean.
        """
        return masked_mean(F.cross_entropy(logits.float(), number, reduction="none"), counted)


class ExemplarTask(nn.Module):
    """Which views are of the same image: batch-hard triplets of embeddings of length 1.

    Args:
        channels: of the features.
        views: of each image.
        size: of an embedding.

    Raises:
        ValueError: fewer than two views, which are no relatives, or an empty embedding.
    """

    def __init__(self, channels: int, views: int = 4, size: int = 1000) -> None:
        super().__init__()
        if views < 2:
            raise ValueError(f"views is {views}: those of one image are compared; accepted are 2 and more")
        if size < 1:
            raise ValueError(f"embedding is {size}; accepted are 1 and more")
        self.views = views
        self.head = nn.Linear(channels, size)

    def forward(self, features: Tensor) -> Tensor:
        """Pooled features `(N, channels)` to embeddings `(N, size)` of length 1."""
        return F.normalize(self.head(features).float(), dim=1)

    def loss(self, embeddings: Tensor, identities: Tensor, counted: Tensor) -> Tensor:
        """The soft-margin triplet loss; 0 where fewer than two images are left, which have no strangers.

        Args:
            embeddings: `(N, size)`.
            identities: `(N,)`: of which image each is a view.
            counted: `(N,)` bool; what is not, is left out.
        """
        kept = identities[counted]
        if len(kept.unique()) < 2:
            return embeddings.sum() * 0
        return batch_hard(embeddings[counted], kept)


def exemplar_loss(task: ExemplarTask, network: EncoderDecoder, images: Sequence[Tensor]) -> Tensor:
    """The mean over parts of a batch, whose images are numbered apart, for one may be in several.

    Args:
        task: with its head.
        network: whose encoder sees the views.
        images: of each part, `(B, C, *spatial)`.

    Raises:
        ConfigError: no part has two images, so that there is nothing to tell apart.
    """
    if all(len(each) < 2 for each in images):
        raise ConfigError(
            "the exemplar task tells images of a batch apart, and each stream has one image in it",
            hint="--set stages.N.schedule.batch.STREAM=2 or more",
        )
    made = [make_views(each, task.views) for each in images]
    embeddings = task(pooled(network.encode(torch.cat(made))))
    losses = []
    for found, each in zip(embeddings.split([len(views) for views in made]), images, strict=True):
        identities = torch.arange(len(each), device=found.device).repeat_interleave(task.views)
        counted = shows_something(each).repeat_interleave(task.views)
        losses.append(task.loss(found, identities, counted))
    return torch.stack(losses).mean()
