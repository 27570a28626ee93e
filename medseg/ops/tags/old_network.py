"""The network that a step with new classes starts from: what it says of images, and which classes it knows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.errors import ManifestError
from medseg.method import Frozen, Networks, same_structure
from medseg.portable.networks.encoder_decoder import EncoderDecoder, HeadedNetwork


class OldNetwork:
    """What the network of the stage before says of images: features, and logits of its classes.

    Args:
        previous: that network.
        network: a copy of the new network in halves, which began with its weights.
    """

    def __init__(self, previous: Frozen, network: EncoderDecoder) -> None:
        self.previous = previous
        module = previous.module
        self.in_halves = isinstance(module, HeadedNetwork) and module.network.channels == network.channels
        self.encoder = None if self.in_halves else Frozen(copy.deepcopy(network))

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features, and logits `(B, old classes, *spatial)`."""
        module: Any = self.previous.on(image.device)
        if self.encoder is None:
            features = module.network.encode(image)
            return features, module.head(module.network.decode(features))
        encoder: Any = self.encoder.on(image.device)
        return encoder.encode(image), module(image)


def encoder_distance(features: Sequence[Tensor], old: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of two encoders' features of the same images, summed over their feature maps.

    Args:
        features: `(B, C, *spatial)` each, the finest first.
        old: of the same shapes.

    Returns:
        Scalar.
    """
    distances = []
    for ours, theirs in zip(features, old, strict=True):
        distances.append(nn.functional.mse_loss(ours.float(), theirs.float()))
    return torch.stack(distances).sum()


def checked_previous(networks: Networks) -> Frozen:
    """The network of the stage before, if new classes can be learnt beside those that it knows.

    Args:
        networks: of the method.

    Raises:
        ValueError: there is none, or there is no background.
        ManifestError: it sees other images than the data set has.
    """
    previous = networks.previous
    if previous is None:
        raise ValueError("it starts from a network that knows the old classes: give --init-from RUN")
    if not networks.has_background:
        raise ValueError("it learns what is none of the classes too, and the data set has no background")
    if previous.modality and previous.modality != networks.modality:
        raise ManifestError(
            f"the network that it starts from sees {_channels(previous.modality)}, the data set has "
            f"{_channels(networks.modality)}; accepted are as many channels of the same kinds"
        )
    return previous


def _channels(modality: Sequence[str]) -> str:
    """How many, and of which kinds."""
    kinds = ["another kind (OT)" if kind == "OT" else kind for kind in dict.fromkeys(modality)]
    return f"{len(modality)} channel{'s' if len(modality) > 1 else ''} of {', '.join(kinds)}"


def places_of_old(old: Sequence[str], labels: Sequence[str]) -> list[int]:
    """For each old class its index among the new network's classes.

    Args:
        old: names of the old classes, background first; empty: those of `labels`.
        labels: names of the new network's classes, background first.

    Raises:
        ManifestError: an old class that is none of the new ones, or another background.
    """
    places = []
    for name in old or labels:
        found = [index for index, label in enumerate(labels) if same_structure(name, label)]
        if not found:
            raise ManifestError(
                f"the network that it starts from knows {', '.join(old)}; the data set has {', '.join(labels)}: "
                f"{name} is missing; accepted are all old classes under their names, in any order, and new ones"
            )
        places.append(found[0])
    if places[0] != 0:
        raise ManifestError(f"the background of the network that it starts from is {old[0]}, here it is {labels[0]}")
    return places
