"""Tasks that need no label, on the features of an encoder: which rotation is it, which views are of the same image.

Each task is a module with its own head; what it asks for is made of images on their device. Heads are no part of what
predicts. Images of one grey value are the same from all sides: they count in no mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.ops.contact_sheet import contact_sheet, middle_slices
from medseg.ops.losses.segmentation import masked_mean
from medseg.ops.losses.triplets import hardest, hardest_loss
from medseg.ops.pretext.exemplar_views import make_views
from medseg.ops.pretext.rotations import RotationSet
from medseg.portable.networks.encoder_decoder import EncoderDecoder

SHOWN = 4
"""Copies, or images, in a picture."""

CONFIDENT = 0.9
"""Probability of a rotation above which an answer is no guess."""

VIEWS = {2: 8, 3: 4}
"""Of each image for the exemplar task: in planes as many as S4L's authors make, in volumes fewer, for their memory."""


def pooled(features: Sequence[Tensor]) -> Tensor:
    """The mean over space of the coarsest feature map, `(B, channels)` float32."""
    return features[-1].float().flatten(2).mean(2)


def shows_something(image: Tensor) -> Tensor:
    """Of images `(B, C, *spatial)` whether there is more than one grey value in some channel, `(B,)` bool."""
    flat = image.flatten(2)
    return (flat.amax(2) > flat.amin(2)).any(1)


def answers(logits: Tensor, number: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Of the copies the shares whose rotation was found, and whose was mistaken for another with confidence.

    Once the task is learnt, copies of the second kind are of scans whose header says wrongly which way up they are, or
    of such as have no upright.

    Args:
        logits: `(N, rotations)`.
        number: `(N,)` of the rotation.
        counted: `(N,)` bool; what is not, is not in the mean.

    Returns:
        scalars without gradient.
    """
    probability, best = logits.detach().float().softmax(1).max(1)
    is_mistaken = (best != number) & (probability > CONFIDENT)
    return {
        "rotations found": masked_mean((best == number).float(), counted),
        "rotations mistaken": masked_mean(is_mistaken.float(), counted),
    }


class RotationTask(nn.Module):
    """Which rotation has turned an image: cross-entropy of a linear layer on pooled features.

    Args:
        channels: of the features.
        rotations: that there are.
    """

    def __init__(self, channels: int, rotations: RotationSet) -> None:
        super().__init__()
        self.rotations = rotations
        self.head = nn.Linear(channels, len(rotations))
        self._shown: tuple[Tensor, Tensor] | None = None

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

    def show(self, copies: Tensor, logits: Tensor) -> None:
        """Keep the first copies `(N, C, *spatial)` of a batch, and the rotations found, for `pictures`."""
        self._shown = copies[:SHOWN].detach().clone(), logits[:SHOWN].detach().argmax(1)

    def pictures(self) -> dict[str, Tensor]:
        """Copies of the last batch, and below turned back by the rotation found: what is upright there was right."""
        if self._shown is None:
            return {}
        copies, found = self._shown
        back = [self.rotations.rotations[k].inverse()(one[None]) for k, one in zip(found.tolist(), copies, strict=True)]
        rows = [middle_slices(copies, SHOWN), middle_slices(torch.cat(back), SHOWN)]
        return {"rotations": contact_sheet(rows)}


class ExemplarTask(nn.Module):
    """Which views are of the same image: batch-hard triplets of embeddings of length 1.

    Args:
        channels: of the features.
        spatial_dims: of the images, 2 or 3.
        views: of each image; None: `VIEWS`.
        size: of an embedding.

    Attributes:
        watched: mean distances in the last batch. Where all embeddings coincide, both are 0 and the loss is log 2.

    Raises:
        ValueError: fewer than two views, which have no positives, or an empty embedding.
    """

    def __init__(self, channels: int, spatial_dims: int, views: int | None = None, size: int = 1000) -> None:
        super().__init__()
        if views is not None and views < 2:
            raise ValueError(f"views is {views}: those of one image are compared; accepted are 2 and more")
        if size < 1:
            raise ValueError(f"embedding is {size}; accepted are 1 and more")
        self.views = VIEWS[spatial_dims] if views is None else views
        self.head = nn.Linear(channels, size)
        self.watched: dict[str, Tensor] = {}
        self._shown: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Pooled features `(N, channels)` to embeddings `(N, size)` of length 1."""
        return F.normalize(self.head(features).float(), dim=1)

    def loss(self, embeddings: Tensor, identities: Tensor, counted: Tensor) -> Tensor:
        """The soft-margin triplet loss; 0 where fewer than two images are left, which have no negatives.

        Args:
            embeddings: `(N, size)`.
            identities: `(N,)`: of which image each is a view.
            counted: `(N,)` bool; what is not, is left out.
        """
        kept = identities[counted]
        if len(kept.unique()) < 2:
            return embeddings.sum() * 0
        found = hardest(embeddings[counted], kept)
        self.watched = {
            "farthest view of the image": found.positive.detach().mean(),
            "nearest other image": found.negative.detach().mean(),
        }
        return hardest_loss(found)

    def show(self, views: Tensor) -> None:
        """Keep for `pictures` the first of the views `(N, C, *spatial)`, which are one image's after the other's."""
        self._shown = middle_slices(views, SHOWN * self.views)

    def pictures(self) -> dict[str, Tensor]:
        """Views of the last batch, those of an image in a row."""
        return {} if self._shown is None else {"exemplar": contact_sheet(self._shown.split(self.views))}


def exemplar_loss(task: ExemplarTask, network: EncoderDecoder, images: Sequence[Tensor]) -> Tensor:
    """The mean over parts of a batch, whose images are numbered apart, for one may be in several.

    Args:
        task: with its head.
        network: whose encoder sees the views.
        images: of each part, `(B, C, *spatial)`; a part of one image, which has no negatives, is left out.

    Raises:
        ConfigError: no part has two images, so that there is nothing to tell apart.
    """
    parts = [each for each in images if len(each) > 1]
    if not parts:
        raise ConfigError(
            "the exemplar task tells images of a batch apart, and each stream has one image in it",
            hint="--set stages.N.schedule.batch.STREAM=2 or more",
        )
    made = [make_views(each, task.views) for each in parts]
    task.show(made[0])
    embeddings = task(pooled(network.encode(torch.cat(made))))
    losses = []
    for found, each in zip(embeddings.split([len(views) for views in made]), parts, strict=True):
        identities = torch.arange(len(each), device=found.device).repeat_interleave(task.views)
        counted = shows_something(each).repeat_interleave(task.views)
        losses.append(task.loss(found, identities, counted))
    return torch.stack(losses).mean()
