"""What the images of a group tell each other, and the attention of each class that comes of it."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medseg.method import Networks
from medseg.ops.semi_supervised.donors import DonorBank
from medseg.ops.tags.class_activation import coarsest_within
from medseg.ops.tags.group_graph import GroupGraph
from medseg.ops.tags.refinement import pamr
from medseg.portable.networks.encoder_decoder import EncoderDecoder
from medseg.portable.networks.tag_networks import enlarge


class Nodes(nn.Module):
    """An encoder whose features become the states of the graph, and what reads the classes from them.

    Args:
        networks: makes both.
        structures: classes that have tags.
        features: channels of feature nodes; 0: the nodes are class maps.
        stride: of the features, at most.
        convolutions: between the encoder and the nodes, each followed by a ReLU.

    Attributes:
        channels: of the states.
        spacing_mm: of the image's voxels.
    """

    network: EncoderDecoder

    def __init__(
        self, networks: Networks, structures: int, *, features: int, stride: int, convolutions: int
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = networks.encoder_decoder()
        self.spacing_mm = networks.spacing_mm
        self.level = coarsest_within(self.network.strides, stride)
        width = self.network.channels[self.level]
        layers: list[nn.Module] = []
        for _ in range(convolutions):
            layers += [Conv[Conv.CONV, networks.spatial_dims](width, width, 3, padding=1), nn.ReLU()]
        self.channels = features or structures
        self.embedding = nn.Sequential(*layers, networks.head(width, self.channels))
        self.readout = networks.head(features, structures) if features else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to states `(B, channels, *smaller)`."""
        return self.embedding(self.network.encode(image)[self.level])

    def classify(self, states: Tensor) -> Tensor:
        """States to class maps `(B, structures, *smaller)`."""
        return self.readout(states)


class PartnerBank(DonorBank):
    """The last images of each class, each of another case, so that none is among the partners twice.

    Checkpoints of earlier versions do not say of which case an image is; such images count as of cases of their own.

    Args:
        classes: that have tags.
        slots: images that are kept of each class.
    """

    cases: Tensor

    def __init__(self, classes: int, slots: int) -> None:
        super().__init__(classes, slots)
        self.register_buffer("cases", torch.full((classes, slots), -1))  # -1: not known

    @torch.no_grad()
    def keep(self, value: int, image: Tensor, case: int) -> None:
        """Keep an image in the place of the one of the same case, else of the oldest.

        Args:
            value: the class.
            image: `(Cin, *patch)`.
            case: see `medseg.stream.number_of_case`.
        """
        known = self.cases[value].tolist()
        if case in known:
            self._put(value, known.index(case), (image, None, None))
            return
        self.cases[value, self.newest[value]] = case
        self.store(value, image)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *more: Any) -> None:
        state.setdefault(f"{prefix}cases", torch.full_like(self.cases, -1))
        super()._load_from_state_dict(state, prefix, *more)


class GroupMaps(nn.Module):
    """Attention of each class, each image in groups with images of other cases that show the class.

    Where there are fewer than a group needs, it is smaller; where there is none, the attention is that of the image
    alone.

    Args:
        nodes: of the method.
        graph: of the method.
        bank: images of each class.
        refine: how often the maps are averaged over neighbours that look alike; 0: never.
    """

    def __init__(self, nodes: Nodes, graph: GroupGraph, bank: PartnerBank, refine: int = 0) -> None:
        super().__init__()
        self.nodes, self.graph, self.bank, self.refine = nodes, graph, bank, refine
        self._case: int | None = None
        self._states: dict[int, Tensor] = {}
        self.register_load_state_dict_post_hook(_forget_states)

    def see_case(self, number: int | None) -> None:
        """Leave the images of this case out of the partners from now on; None: leave none out."""
        self._case = number

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, structures, *spatial)`, at least 0, interpolated linearly."""
        states = self.nodes(image)
        found = self.nodes.classify(states).clone()
        for value in range(found.shape[1]):
            told = self._told(states, value)
            if told is not None:
                found[:, value] = (found[:, value] + told) / 2
        maps = enlarge(found.relu(), image.shape[2:])
        return pamr(image, maps, iterations=self.refine, spacing=self.nodes.spacing_mm) if self.refine else maps

    def _told(self, states: Tensor, value: int) -> Tensor | None:
        """Map of a class after the messages `(B, *smaller)`, mean over several groups; None: no partner is known."""
        if self.graph.group_size == 1 or not self.bank.holds(value):
            return None
        partners = self._partner_states(value)
        if self._case is not None:
            partners = partners[self.bank.cases[value][self.bank.filled[value]] != self._case]
        senders = min(self.graph.group_size - 1, len(partners))
        if not senders:
            return None
        groups = len(partners) // senders
        total = torch.zeros_like(states[:, 0])
        for group in range(groups):
            chosen = partners[group * senders : (group + 1) * senders]
            others = chosen.expand(len(states), -1, *states.shape[1:])
            members = torch.cat([states[:, None], others], 1).flatten(0, 1)
            own = self.graph(members, senders + 1)[:: senders + 1]
            total = total + self.nodes.classify(own)[:, value]
        return total / groups

    def _partner_states(self, value: int) -> Tensor:
        """Of the images that show a class `(n, C, *smaller)`; made once."""
        if value not in self._states:
            images = self.bank.images[value][self.bank.filled[value]]
            self._states[value] = self.nodes(images.to(self.bank.images.device))
        return self._states[value]


def _forget_states(maps: GroupMaps, _: object) -> None:
    """Those of former weights."""
    maps._states.clear()
