"""A graph of images: each is a node, and sends the others what they have in common, by co-attention.

X. Li, T. Zhou, J. Li, Y. Zhou, Z. Zhang: Group-Wise Semantic Mining for Weakly Supervised Semantic Segmentation, AAAI
2021; arXiv 2012.05007. As its authors' code has it:

    m_ij = sum_q h_j(q) softmax_q (P_a h_i(p) . P_b h_j(q)),   m_ij <- sigmoid(w m_ij) m_ij      what j says to i
    m_i  = conv(mean_j m_ij),                                  h_i  <- ConvGRU(m_i, h_i)         all nodes at once
    h_i  <- (h_i M_i + h_i) / 2                                                                  graph dropout
"""

from __future__ import annotations

from math import ceil
from typing import Literal

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name

from medseg.portable.networks.tag_networks import cell_means

MOST_POSITIONS = 4096
"""Of an image that sends a message; of larger feature maps the means of neighbouring positions are sent."""

Aggregate = Literal["mean", "concat"]
Strength = Literal["state", "positive", "off"]


class CoAttention(nn.Module):
    """Message of one image to another: what the other has where both are alike.

    Scores are no smaller for more channels, as in the authors' code, and therefore made in float32.

    Args:
        spatial_dims: 2 or 3.
        channels: of the states; queries and keys have half as many, at least one.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        convolution = Conv[Conv.CONV, spatial_dims]
        self.query = convolution(channels, max(1, channels // 2), 1)
        self.key = convolution(channels, max(1, channels // 2), 1)
        self.gate = convolution(channels, 1, 1, bias=False)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Message to images from images of any other size.

        Args:
            own: state of those who get it, `(B, C, *spatial)`.
            other: state of those who send it, `(B, C, *other_spatial)`.

        Returns:
            `(B, C, *spatial)`.
        """
        other = shrink(other, MOST_POSITIONS)
        with torch.autocast(own.device.type, enabled=False):
            query, key = _rows(self.query(own.float())), _rows(self.key(other.float()))
            rows = F.scaled_dot_product_attention(query, key, _rows(other.float()), scale=1.0)
        message = rows.transpose(1, 2).reshape(own.shape)
        return self.gate(message).sigmoid() * message


def _rows(state: Tensor) -> Tensor:
    """`(B, C, *spatial)` to `(B, positions, C)`."""
    return state.flatten(2).transpose(1, 2)


def shrink(state: Tensor, most: int) -> Tensor:
    """A feature map of at most so many positions, each the mean of neighbours.

    Args:
        state: `(B, C, *spatial)`.
        most: positions.
    """
    sizes = state.shape[2:]
    positions = sizes.numel()
    if positions <= most:
        return state
    factor = ceil((positions / most) ** (1 / len(sizes)))
    smaller = [max(1, size // factor) for size in sizes]
    return cell_means(state, smaller)


class ConvGRU(nn.Module):
    """Gated recurrent unit of 1x1 convolutions: how far a state follows what it is told.

    Args:
        spatial_dims: 2 or 3.
        channels: of states and messages.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        convolution = Conv[Conv.CONV, spatial_dims]
        self.update = convolution(2 * channels, channels, 1)
        self.reset = convolution(2 * channels, channels, 1)
        self.candidate = convolution(2 * channels, channels, 1)

    def forward(self, message: Tensor, state: Tensor) -> Tensor:
        """Messages and states `(B, C, *spatial)` to new states; none is larger than 1 and the largest before."""
        both = torch.cat([message, state], 1)
        update, reset = self.update(both).sigmoid(), self.reset(both).sigmoid()
        candidate = self.candidate(torch.cat([message, reset * state], 1)).tanh()
        return (1 - update) * state + update * candidate


class GraphDropout(nn.Module):
    """Weaken the strongest positions of a state, so that the rest of an object must be found too.

    With probability `rate` the positions above `threshold` times the largest are halved; else each is weighted by
    (1 + sigmoid) / 2 of its strength. It is drawn for each node. In evaluation mode states stay as they are.

    Args:
        threshold: theta, share of the largest strength of a node.
        rate: rho.
        strength: "state", the mean of the channels, as the authors have it: where this is negative everywhere, nothing
            is dropped; "positive", the mean of their positive part; "off", no dropout.
    """

    def __init__(self, threshold: float = 0.7, rate: float = 0.8, strength: Strength = "state") -> None:
        super().__init__()
        for name, value in (("threshold", threshold), ("rate", rate)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} of the graph dropout is {value:g}; accepted is 0 to 1")
        self.threshold, self.rate, self.strength = threshold, rate, strength

    def forward(self, state: Tensor) -> Tensor:
        """States `(B, C, *spatial)` to such."""
        if not self.training or self.strength == "off":
            return state
        positive = self.strength == "positive"
        strength = (state.relu() if positive else state).mean(1, keepdim=True)
        each = (-1, *[1] * (state.ndim - 1))
        largest = strength.flatten(1).amax(1).view(each)
        kept = (strength < self.threshold * largest).to(state.dtype)
        drawn = torch.rand(len(state)).to(state.device) < self.rate
        mask = torch.where(drawn.view(each), kept, strength.sigmoid())
        return (state * mask + state) / 2


class GroupGraph(nn.Module):
    """Rounds of messages between the images of each group.

    Args:
        spatial_dims: 2 or 3.
        channels: of the states.
        group_size: K, images in a group; an image alone keeps its state.
        rounds: T; without any, states stay as they are.
        aggregate: "mean" of the messages, for which the order of the images is all one and their number any; "concat",
            the authors', one after the other in the order of the images, for groups of at most `group_size`: who is
            missing says nothing.
        dropout: after each round.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        *,
        group_size: int = 3,
        rounds: int = 3,
        aggregate: Aggregate = "mean",
        dropout: GraphDropout | None = None,
    ) -> None:
        super().__init__()
        if group_size < 1:
            raise ValueError(f"group_size is {group_size}; accepted is at least 1")
        if rounds < 0:
            raise ValueError(f"rounds is {rounds}; accepted is at least 0")
        self.group_size, self.rounds, self.aggregate = group_size, rounds, aggregate
        senders = max(1, group_size - 1) if aggregate == "concat" else 1
        self.attention = CoAttention(spatial_dims, channels)
        self.joined = Conv[Conv.CONV, spatial_dims](senders * channels, channels, 3, padding=1)
        self.memory = ConvGRU(spatial_dims, channels)
        self.dropout = dropout or GraphDropout()

    def forward(self, states: Tensor, group_size: int | None = None) -> Tensor:
        """States after all rounds.

        Args:
            states: `(groups K, C, *spatial)`, the images of a group one after the other.
            group_size: K, where it is not that of the training.

        Returns:
            `(groups K, C, *spatial)`.

        Raises:
            ValueError: the number of states is no multiple of K, or is 0.
        """
        size = group_size or self.group_size
        if not len(states) or len(states) % size:
            raise ValueError(f"{len(states)} images are no groups of {size}")
        if size == 1:
            return states
        for _ in range(self.rounds):
            states = self.dropout(self.memory(self._messages(states, size), states))
        return states

    def _messages(self, states: Tensor, size: int) -> Tensor:
        """What each image is told by the others of its group, `(groups K, C, *spatial)`."""
        groups = states.unflatten(0, (-1, size))
        pairs = [(own, other) for own in range(size) for other in range(size) if other != own]
        own, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        messages = self.attention(groups[:, own].flatten(0, 1), groups[:, other].flatten(0, 1))
        by_receiver = messages.unflatten(0, (len(groups) * size, size - 1))
        if self.aggregate == "mean":
            return self.joined(by_receiver.mean(1))
        missing = by_receiver.new_zeros(len(by_receiver), max(0, self.group_size - size), *by_receiver.shape[2:])
        return self.joined(torch.cat([by_receiver, missing], 1).flatten(1, 2))
