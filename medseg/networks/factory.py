"""Makes the networks of a method and remembers how, so that whatever the method exports can be made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from medseg.config.instantiate import build_network
from medseg.config.pipeline import DataSpec, NetworkSpec
from medseg.errors import ConfigError
from medseg.method import Frozen
from medseg.networks import registry
from medseg.networks.pretrained import load_weights
from medseg.networks.transfer import Copied, class_axes, copy_weights
from medseg.portable.networks.adapters import FirstChannels, Planar
from medseg.portable.networks.encoder_decoder import EncoderDecoder, Head, HeadedNetwork
from medseg.portable.networks.image_classifier import ImageClassifier, PooledEncoder
from medseg.portable.networks.tag_networks import TagNetwork

DEFINITION = "network_definition"
"""Attribute of a network: the `_target_` dictionary that it was made of. A copy of the network has it too."""

COUNTS = ("classes", "structures")
"""Arguments of assembled modules that are the number of classes, with and without the background."""

ADAPTERS = "medseg.portable.networks.adapters"
CLASSIFIERS = "medseg.portable.networks.image_classifier"


class NetworkFactory:
    """The networks of one stage (`medseg.method.Networks`).

    Args:
        spec: name, width and options of the network.
        data: patch, channels and classes.
        previous: network of the stage before.
        start: whether networks take the weights of `previous` wherever they fit.

    Attributes:
        copied: what each network took of `previous`, in the order in which they were made.
    """

    def __init__(
        self, spec: NetworkSpec, data: DataSpec, *, previous: Frozen | None = None, start: bool = False
    ) -> None:
        self.spec, self.data = spec, data
        self.classes, self.spatial_dims, self.in_channels = data.classes, data.spatial_dims, data.channels
        self.region_members = data.region_members
        self.has_background = data.has_background
        self.image_channels = len(data.modality)
        self.patch = data.network_patch
        self.spacing_mm = data.network_spacing_mm
        self.native_mm = data.along_network(data.native_mm or data.spacing_mm)
        self.labels = tuple(data.labels[value] for value in data.output_values)
        self.modality = data.modality
        self.previous = previous
        self.copied: list[Copied] = []
        self._start = start and previous is not None

    def segmenter(self, out_channels: int | None = None) -> nn.Module:
        """Image `(B, Cin, *spatial)` to `(B, out_channels, *spatial)`; see `Networks.segmenter`."""
        wanted = len(self.data.output_values) if out_channels is None else out_channels
        if self.data.target == "images":
            halves = self.encoder_decoder()
            return self.headed(halves, self.head(halves.width, wanted))
        network = self._made(self._definition(wanted))
        self._load_pretrained(network)
        if self._start:
            others = [build_network(self._definition(count)) for count in (wanted + 1, max(1, wanted - 1))]
            self._take_over(network, others)
        return network

    def encoder_decoder(self) -> EncoderDecoder:
        """The network in two halves, with features; with pre-trained weights if the pipeline names some."""
        definition = self._halves_definition()
        if self.data.target == "images":
            definition = {"_target_": f"{CLASSIFIERS}.PooledEncoder", "network": definition}
        network = self._made(definition)
        assert isinstance(network, EncoderDecoder)
        self._load_pretrained(network)
        if self._start:
            self._take_over(network, [])
        return network

    def head(self, in_channels: int, out_channels: int, blocks: int = 0) -> nn.Module:
        """A 1x1x1 convolution on features; see `Networks.head`."""
        return self._made(registry.head_def(self.spatial_dims, in_channels, out_channels, blocks))

    def headed(self, network: EncoderDecoder, head: nn.Module) -> HeadedNetwork:
        """A segmenter of a network in halves and a head on its decoder.

        The head takes the weights of the previous stage's head if that too was a network with a head.
        """
        kind: type[HeadedNetwork] = ImageClassifier if isinstance(network, PooledEncoder) else HeadedNetwork
        segmenter = kind(network, head)
        if self._start and isinstance(head, Head):
            out = head.convolution.out_channels
            another = self.head(network.width, out + 1, len(head.blocks))
            self._take_over(segmenter, [kind(network, another)])
        return segmenter

    def assembled(self, kind: type[nn.Module], **arguments: Any) -> nn.Module:
        """A module of a class of `medseg.portable.networks`, of numbers and of parts that the factory made.

        It takes the weights of the previous stage's network wherever name and shape agree, those of classes by name.
        """
        definition: dict[str, Any] = {"_target_": f"{kind.__module__}.{kind.__qualname__}"}
        for name, value in arguments.items():
            definition[name] = definition_of(value) if isinstance(value, nn.Module) else value
        module = kind(**arguments)
        setattr(module, DEFINITION, definition)
        if self._start:
            counts = {name: definition[name] + 1 for name in COUNTS if name in definition}
            self._take_over(module, [build_network({**definition, **counts})] if counts else [])
        return module

    def _definition(self, out_channels: int) -> dict[str, Any]:
        return registry.network_def(
            self.spec, patch=self.data.network_patch, in_channels=self.in_channels, out_channels=out_channels
        )

    def _halves_definition(self) -> dict[str, Any]:
        return registry.halves_def(self.spec, patch=self.data.network_patch, in_channels=self.in_channels)

    def _made(self, definition: dict[str, Any]) -> nn.Module:
        network = build_network(definition)
        setattr(network, DEFINITION, definition)
        return network

    def _load_pretrained(self, network: nn.Module) -> None:
        """Give the network the weights of the file that the pipeline names, wherever name and shape agree."""
        if self.spec.weights is not None:
            self.copied.append(load_weights(network, self.spec.weights))

    def _take_over(self, network: nn.Module, others: Sequence[nn.Module]) -> None:
        assert self.previous is not None
        copied = copy_weights(
            network,
            self.previous.module,
            axes=class_axes(network, others),
            labels=self.labels,
            earlier_labels=self._earlier_labels(self.previous),
        )
        self.copied.append(copied)

    def _earlier_labels(self, previous: Frozen) -> tuple[str, ...]:
        """Names of the classes that outputs of the network before are of; none of a network in halves.

        A classifier of tags is of the stage before in the same run, and its outputs are of the same classes.
        """
        is_classifier = isinstance(previous.module, TagNetwork)
        return previous.labels or (self.labels if is_classifier else ())


def definition_of(network: nn.Module) -> dict[str, Any]:
    """The `_target_` dictionary of a segmenter, with adapters around what `Networks` made.

    Raises:
        ConfigError: a part that `Networks` did not make: nobody could make it again.
    """
    definition: dict[str, Any] | None = getattr(network, DEFINITION, None)
    if definition is not None:
        return definition
    if isinstance(network, Planar):
        planar = {"_target_": f"{ADAPTERS}.Planar", "network": definition_of(network.network), "axis": network.axis}
        return planar if network.slices == 1 else {**planar, "slices": network.slices}
    if isinstance(network, FirstChannels):
        inner = definition_of(network.network)
        return {"_target_": f"{ADAPTERS}.FirstChannels", "network": inner, "channels": network.channels}
    if isinstance(network, HeadedNetwork):
        inner, head = definition_of(network.network), definition_of(network.head)
        kind = f"{registry.HALVES}.HeadedNetwork"
        if isinstance(network, ImageClassifier):
            kind = f"{CLASSIFIERS}.ImageClassifier"
        return {"_target_": kind, "network": inner, "head": head}
    raise ConfigError(
        f"segmenter() gives a {type(network).__name__} that cannot be exported",
        hint="make its parts by `networks` and join them by FirstChannels or networks.headed",
    )


def change_arguments(network: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Give a network other arguments of its constructor that are attributes of it, too; it will be made again so.

    Args:
        network: made by `Networks`.
        arguments: name -> value.

    Raises:
        ConfigError: as `definition_of`.
    """
    definition = definition_of(network)
    for name, value in arguments.items():
        setattr(network, name, value)
    setattr(network, DEFINITION, {**definition, **arguments})


def check_exportable(network: nn.Module) -> None:
    """Make a segmenter again from its definition, and compare what both have to learn.

    Raises:
        ConfigError: it cannot be made again, or would be another one.
    """
    definition = definition_of(network)
    with torch.random.fork_rng(devices=()):
        again = build_network(definition)
    own, other = network.state_dict(), again.state_dict()
    different = [name for name in own if name not in other or own[name].shape != other[name].shape]
    different += [name for name in other if name not in own]
    if different:
        raise ConfigError(
            f"segmenter() is not the network that it was made as: {', '.join(different[:3])}",
            hint="networks are changed by further heads and adapters, not in place",
        )
