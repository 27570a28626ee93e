"""Weights of an earlier network for a new one: by name and shape, and heads by the names of the structures.

A class of the new network takes the weights of the class that has its name, wherever both are in the list: a class
keeps what was learnt of it when others are added, left out or listed in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.method import same_structure
from medseg.portable.networks.adapters import FirstChannels, Planar
from medseg.portable.networks.encoder_decoder import EncoderDecoder, Head, HeadedNetwork
from medseg.portable.networks.image_classifier import PooledEncoder

ClassAxes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> its axes along which there is an entry for each output channel."""


@dataclass(frozen=True)
class Copied:
    """What was copied, counted in tensors.

    Args:
        whole: tensors that are as in the earlier network.
        by_class: tensors of which the entries of common classes are as there.
        left: names of the others.
    """

    whole: int
    by_class: int
    left: tuple[str, ...]

    def __str__(self) -> str:
        total = self.whole + self.by_class + len(self.left)
        text = f"{self.whole + self.by_class} of {total} tensors"
        if self.by_class:
            text += f", {self.by_class} of them by the names of structures"
        if self.left:
            shown = ", ".join(self.left[:3]) + (", ..." if len(self.left) > 3 else "")
            text += f"; new: {shown}"
        return text


class PartOf(nn.Module):
    """A network of which others take some tensors alone, such as those of its encoder.

    Args:
        network: any.
        names: of the tensors, as in its `state_dict`.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, frozenset(names)

    def forward(self, image: Tensor) -> Tensor:
        """What the whole network says."""
        return self.network(image)


def core(network: nn.Module) -> nn.Module:
    """The network inside adapters for slices and channels."""
    while isinstance(network, (Planar, FirstChannels)):
        network = network.network
    return network


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Tensors of a network by names that it has in common with itself in halves and with a head.

    Args:
        network: any, with or without adapters.
    """
    network = core(network)
    if isinstance(network, PartOf):
        every = named_tensors(network.network)
        return {name: tensor for name, tensor in every.items() if {name, f"network.{name}"} & network.names}
    if isinstance(network, HeadedNetwork):
        return named_tensors(network.network) | _named_head(network.head)
    if isinstance(network, PooledEncoder):
        return named_tensors(network.network)
    if isinstance(network, Head):
        return _named_head(network)
    inner = getattr(network, "network", None)
    around = {k: v for k, v in network.state_dict().items() if not k.startswith("network.")}
    if isinstance(network, EncoderDecoder) and isinstance(inner, nn.Module):
        return {f"around.{k}": v for k, v in around.items()} | dict(inner.state_dict())
    if isinstance(inner, EncoderDecoder):  # with heads of its own
        return named_tensors(inner) | around
    return dict(network.state_dict())


def _named_head(head: nn.Module) -> dict[str, Tensor]:
    """Of a 1x1x1 convolution the names that a V-Net's own has, which lies on the same features; not after blocks."""
    alone = head.convolution if isinstance(head, Head) and len(head.blocks) == 0 else head
    return {f"head.{name}": tensor for name, tensor in alone.state_dict().items()}


def class_axes(network: nn.Module, others: Sequence[nn.Module]) -> dict[str, tuple[int, ...]]:
    """Axes along which a network has an entry for each output channel.

    Args:
        network: any.
        others: the same with one more and with one less output channel; the first with the same layers is compared.
    """
    own = named_tensors(network)
    alike = [tensors for tensors in map(named_tensors, others) if tensors.keys() == own.keys()]
    if not alike:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in own.items():
        sizes = zip(tensor.shape, alike[0][name].shape, strict=True)
        axes = tuple(axis for axis, (size, other) in enumerate(sizes) if size != other)
        if axes:
            found[name] = axes
    return found


def copy_weights(
    network: nn.Module, earlier: nn.Module, *, axes: ClassAxes, labels: Sequence[str], earlier_labels: Sequence[str]
) -> Copied:
    """Copy the weights of an earlier network wherever they mean the same.

    Args:
        network: that gets them, in place.
        earlier: that has them.
        axes: of `network`, see `class_axes`.
        labels: names of the classes, in the order of its first output channels.
        earlier_labels: those of `earlier`.

    Raises:
        ConfigError: no kernel agrees, or one network is of planes and one of volumes.
    """
    own, other = named_tensors(network), named_tensors(earlier)
    _check_alike(own, other)
    same_classes = list(labels) == list(earlier_labels)
    pairs = _common_classes(labels, earlier_labels)
    whole, by_class, kernels, left = 0, 0, 0, []
    with torch.no_grad():
        for name, tensor in own.items():
            source = other.get(name)
            if source is not None and source.shape == tensor.shape and (same_classes or name not in axes):
                tensor.copy_(source)
                whole += 1
                kernels += tensor.ndim > 1
            elif source is not None and pairs and _agree_elsewhere(tensor, source, axes.get(name, ())):
                without_background = tensor.shape[axes[name][0]] == len(labels) - 1
                _copy_classes(tensor, source, axes[name], _structures(pairs) if without_background else pairs)
                by_class += 1
            else:
                left.append(name)
    if not kernels:  # networks of other widths still have scalars in common
        raise ConfigError(f"the network has nothing in common with the one it should start from{_first(own, other)}")
    return Copied(whole, by_class, tuple(left))


def _first(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str:
    """By which shapes the first kernel differs that both have; nothing where they have none."""
    for name, tensor in own.items():
        if tensor.ndim > 1 and name in other:
            return f": {name} has the shape {list(tensor.shape)} here and {list(other[name].shape)} there"
    return ""


def _common_classes(labels: Sequence[str], earlier: Sequence[str]) -> list[tuple[int, int]]:
    """Index of a class and of the same one in the earlier network; case and blanks of names do not count."""
    pairs = []
    for new, name in enumerate(labels):
        same = [old for old, other in enumerate(earlier) if same_structure(name, other)]
        exact = [old for old in same if earlier[old] == name]
        if same:
            pairs.append((new, (exact or same)[0]))
    return pairs


def _check_alike(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    dims, other_dims = (max(tensor.ndim for tensor in tensors.values()) for tensors in (own, other))
    if dims != other_dims:  # their biases would still agree
        kinds = {4: "planes", 5: "volumes"}
        found, wanted = kinds.get(other_dims, "something else"), kinds.get(dims, "something else")
        raise ConfigError(f"the network to start from sees {found}, this one {wanted}")


def _agree_elsewhere(tensor: Tensor, source: Tensor, axes: Sequence[int]) -> bool:
    """Whether two tensors have the same shape but for the axes of classes, of which there are some."""
    if not axes or tensor.ndim != source.ndim:
        return False
    return all(tensor.shape[axis] == source.shape[axis] for axis in range(tensor.ndim) if axis not in axes)


def _structures(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of classes as a classifier of tags counts them, which has no entry for the background."""
    return [(new - 1, old - 1) for new, old in pairs if new > 0 and old > 0]


def _copy_classes(tensor: Tensor, source: Tensor, axes: Sequence[int], pairs: Sequence[tuple[int, int]]) -> None:
    """Copy the entries of common classes, along one axis or along two that both count classes."""
    grids = torch.tensor(list(pairs), dtype=torch.long).view(-1, 2).T
    if len(axes) == 1:
        new, old = grids
        tensor.index_copy_(axes[0], new.to(tensor.device), source.index_select(axes[0], old).to(tensor.device))
        return
    for new, old in pairs:
        into, of = tensor.select(axes[0], new), source.select(axes[0], old)
        rest = [axis - 1 if axis > axes[0] else axis for axis in axes[1:]]
        _copy_classes(into, of, rest, pairs)
