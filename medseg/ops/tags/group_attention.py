"""What the images of a group tell each other, and the attention of each class that comes of it."""

from __future__ import annotations

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


class GroupMaps(nn.Module):
    """Attention of each class, each image in groups with images that show the class.

    Args:
        nodes: of the method.
        graph: of the method.
        bank: images of each class; an image that is itself among them is no harm, it tells itself what it knows.
        refine: how often the maps are averaged over neighbours that look alike; 0: never.
    """

    def __init__(self, nodes: Nodes, graph: GroupGraph, bank: DonorBank, refine: int = 0) -> None:
        super().__init__()
        self.nodes, self.graph, self.bank, self.refine = nodes, graph, bank, refine
        self._states: dict[int, Tensor] = {}
        self.register_load_state_dict_post_hook(_forget_states)

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
        senders = self.graph.group_size - 1
        if not senders or not self.bank.holds(value):
            return None
        partners = self._partner_states(value)
        groups = max(1, len(partners) // senders)
        total = torch.zeros_like(states[:, 0])
        for group in range(groups):
            chosen = [(group * senders + place) % len(partners) for place in range(senders)]
            others = partners[chosen].expand(len(states), -1, *states.shape[1:])
            members = torch.cat([states[:, None], others], 1).flatten(0, 1)
            own = self.graph(members)[:: senders + 1]
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
