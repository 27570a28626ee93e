"""The classes that a configuration can name, in a run and in a bundle, and how they are made: no others are called."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from monai.transforms import Compose, LoadImaged, NormalizeIntensityd, Orientationd, ScaleIntensityRanged
from torch import nn

from medseg.config.literals import is_expression, not_plain
from medseg.errors import ConfigError
from medseg.networks.registry import NETWORKS, PORTABLE
from medseg.portable import channel_intensity, resample
from medseg.portable.inference import components, multi_view, region_sink, sliding_window
from medseg.portable.io import monai_reader
from medseg.portable.networks import adapters, encoder_decoder, image_classifier, tag_networks

TRANSFORMS: dict[str, tuple[Any, frozenset[str]]] = {
    "monai.transforms.Compose": (Compose, frozenset({"transforms"})),
    "monai.transforms.LoadImaged": (
        LoadImaged,
        frozenset({"keys", "reader", "ensure_channel_first", "as_closest_canonical"}),
    ),
    "monai.transforms.Orientationd": (Orientationd, frozenset({"keys", "axcodes", "labels"})),
    "monai.transforms.NormalizeIntensityd": (NormalizeIntensityd, frozenset({"keys", "channel_wise"})),
    "monai.transforms.ScaleIntensityRanged": (
        ScaleIntensityRanged,
        frozenset({"keys", "a_min", "a_max", "b_min", "b_max", "clip"}),
    ),
}
"""Those of `medseg.data.preprocessing_config`, with the arguments that it gives them."""

OURS: dict[str, Any] = {
    "networks.adapters.FirstChannels": adapters.FirstChannels,
    "networks.adapters.Planar": adapters.Planar,
    "networks.adapters.Views": adapters.Views,
    "networks.encoder_decoder.UNetHalves": encoder_decoder.UNetHalves,
    "networks.encoder_decoder.DynUNetHalves": encoder_decoder.DynUNetHalves,
    "networks.encoder_decoder.SegResNetHalves": encoder_decoder.SegResNetHalves,
    "networks.encoder_decoder.VNetHalves": encoder_decoder.VNetHalves,
    "networks.encoder_decoder.Head": encoder_decoder.Head,
    "networks.encoder_decoder.HeadedNetwork": encoder_decoder.HeadedNetwork,
    "networks.image_classifier.PooledEncoder": image_classifier.PooledEncoder,
    "networks.image_classifier.ImageClassifier": image_classifier.ImageClassifier,
    "networks.tag_networks.TagNetwork": tag_networks.TagNetwork,
    "networks.tag_networks.CrossTaskSegmenter": tag_networks.CrossTaskSegmenter,
    "channel_intensity.ChannelIntensityd": channel_intensity.ChannelIntensityd,
    "resample.Resampled": resample.Resampled,
    "inference.components.with_components": components.with_components,
    "inference.region_sink.with_regions": region_sink.with_regions,
    "inference.sliding_window.SlabInferer": sliding_window.SlabInferer,
    "inference.sliding_window.UniformSlabInferer": sliding_window.UniformSlabInferer,
    "inference.multi_view.ViewsInferer": multi_view.ViewsInferer,
    "inference.multi_view.UniformViewsInferer": multi_view.UniformViewsInferer,
}
"""Of `medseg.portable`, which is `scripts` in a bundle; beside the networks of `medseg.networks.registry`."""

READER = "io.monai_reader.VerifiedReader"

FORMER = {
    "vnet.VNet": "networks.vnet.VNet",
    "nets.FirstChannels": "networks.adapters.FirstChannels",
    "nets.Planar": "networks.adapters.Planar",
    "nets.Views": "networks.adapters.Views",
    "inferer.SlabInferer": "inference.sliding_window.SlabInferer",
    "views.ViewsInferer": "inference.multi_view.ViewsInferer",
    "loading.VerifiedReader": READER,
}
"""Names in bundles that were written before the modules of `medseg.portable` had folders, and what they are now."""

DEEPEST = 50
OTHERWISE = "if you trust it, run the bundle with `python -m monai.bundle run`"


class Refused(Exception):  # noqa: N818 - it says what happened
    """A part of a configuration that is not made.

    Args:
        problem: the place and what was found there.
        hint: what to do about it.
    """

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.hint = problem, hint


def make(node: Any, where: str, package: str) -> Any:
    """Instantiate a configuration of which every part is a literal or a class that is listed here.

    Args:
        node: values, lists and mappings; one with `_target_` becomes an object.
        where: its place, for the message.
        package: what the portable classes are called in it: "medseg.portable", or "scripts" in a bundle.

    Raises:
        Refused: an expression, a reference, a class that is not listed, or arguments that it is not given here.
    """
    if where.count("#") > DEEPEST:
        raise Refused(f"{where.partition('#')[0]} is nested more than {DEEPEST} times")
    if isinstance(node, dict):
        arguments = {key: make(value, f"{where}#{key}", package) for key, value in node.items() if key != "_target_"}
        strange = next((key for key in arguments if str(key).startswith("_")), None)
        if strange is not None:
            raise Refused(f"{where} has the key {strange!r}")
        return arguments if "_target_" not in node else _made(node["_target_"], arguments, where, package)
    if isinstance(node, list):
        return [make(value, f"{where}#{number}", package) for number, value in enumerate(node)]
    if isinstance(node, str) and is_expression(node):
        raise Refused(f"{where} is the expression {node!r}", "medseg takes literal values only")
    return node


def build_network(definition: dict[str, Any]) -> nn.Module:
    """Make a network of a definition by `medseg.networks.registry.network_def`; nothing in it is evaluated.

    Raises:
        ConfigError: keywords that the network does not have, or values that it does not take.
    """
    try:
        network = make(definition, "network", PORTABLE)
    except Refused as error:
        raise ConfigError(error.problem) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{definition.get('_target_')} is not a network")
    return network


def _made(target: Any, arguments: dict[str, Any], where: str, package: str) -> Any:
    kind, accepted = class_called(target, package)
    if kind is None:
        raise Refused(f"{where} wants to make {target!r}, which medseg does not run", OTHERWISE)
    check_arguments(kind, arguments, f"{where} ({target})", accepted)
    if kind is LoadImaged:  # the reader is named by a string that would be imported
        reader = f"{package}.{READER}"
        if current_names(arguments.get("reader"), package) != reader:
            raise Refused(f"{where}#reader is {arguments.get('reader')!r}; accepted is {reader}")
        arguments = {**arguments, "reader": monai_reader.VerifiedReader}
    try:
        return kind(**arguments)
    except MemoryError as error:
        raise Refused(f"{where} ({target}) does not fit into memory") from error
    except Exception as error:  # a class of MONAI may raise anything for arguments that it does not take
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refused(f"{where} ({target}) cannot be made: {reason}") from error


def class_called(target: Any, package: str) -> tuple[Any, frozenset[str] | None]:
    """The class of a name that is listed, else None, and the arguments that it may be given (None: all that it has)."""
    if not isinstance(target, str):
        return None, None
    if target in TRANSFORMS:
        return TRANSFORMS[target]
    target = current_names(target, package)
    if not target.startswith(f"{package}."):
        return (None if target.startswith(f"{PORTABLE}.") else network_called(target)), None
    name = target.removeprefix(f"{package}.")
    return OURS.get(name, network_called(f"{PORTABLE}.{name}")), None


def network_called(target: str) -> Any:
    """The class of an entry of `medseg.networks.registry`; None for other names, of which nothing is imported.

    Other networks of MONAI are none: some fetch weights when made with `pretrained` or an address.
    """
    if target not in [entry.target for entry in NETWORKS.values()]:
        return None
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def current_names(node: Any, package: str) -> Any:
    """A configuration in which portable classes have the names of today.

    Args:
        node: values, lists and mappings.
        package: what the portable classes are called in it.
    """
    if isinstance(node, dict):
        return {key: current_names(value, package) for key, value in node.items()}
    if isinstance(node, list):
        return [current_names(value, package) for value in node]
    if isinstance(node, str) and node.startswith(f"{package}."):
        name = node.removeprefix(f"{package}.")
        return f"{package}.{FORMER.get(name, name)}"
    return node


def check_arguments(kind: Any, arguments: Mapping[str, Any], owner: str, only: frozenset[str] | None = None) -> None:
    """Refuse arguments by name that a class does not have and, for networks, values that are not plain.

    Args:
        kind: the class.
        arguments: its keywords.
        owner: whose they are, for the message.
        only: the accepted ones; None: all that the class has.

    Raises:
        Refused: naming the first.
    """
    accepted = only if only is not None else list(inspect.signature(kind).parameters)
    strange = next((name for name in arguments if name not in accepted), None)
    if strange is not None:
        raise Refused(f"{owner} has no argument {strange!r}; accepted are {', '.join(sorted(accepted))}")
    if kind in [network_called(entry.target) for entry in NETWORKS.values()]:
        found = not_plain(dict(arguments))
        if found:
            raise Refused(f"{owner}: {found}; accepted are numbers, words, and lists of them")
