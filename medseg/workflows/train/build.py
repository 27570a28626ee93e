"""The network and the method of a stage; and all of a pipeline at once, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from medseg import methods
from medseg.bundle.bundle import OpenBundle
from medseg.config import DataSpec, Pipeline, Stage
from medseg.errors import ConfigError
from medseg.method import Method
from medseg.networks import registry
from medseg.portable.networks.adapters import FirstChannels, Planar, Views

T = TypeVar("T")


def start_from(network: nn.Module, previous: nn.Module) -> None:
    """Copy the weights of an earlier stage wherever name and shape agree; heads may differ.

    Raises:
        ConfigError: nothing agrees, or one is of planes and one of volumes.
    """
    while isinstance(previous, (Planar, FirstChannels)):
        previous = previous.network
    own, other = network.state_dict(), previous.state_dict()
    if max(v.ndim for v in own.values()) != max(v.ndim for v in other.values()):  # their biases would still agree
        raise ConfigError("init: previous: one network sees planes, that of the stage before volumes, or the reverse")
    same = {k: v for k, v in other.items() if k in own and own[k].shape == v.shape}
    if not same:
        raise ConfigError("init: previous: the network has nothing in common with that of the stage before")
    network.load_state_dict(same, strict=False)


def one_of_view(found: Mapping[str, T], view: str | None) -> T:
    """What a network of a view starts from, of what the stage before made.

    Args:
        found: view -> network or bundle.
        view: None: of a stage with one network.

    Raises:
        ConfigError: there are several, none of that view.
    """
    if len(found) == 1:
        return next(iter(found.values()))
    if view is None or view not in found:
        raise ConfigError(f"init: previous: the stage before has networks for {', '.join(found)}, none for {view}")
    return found[view]


def network_of_view(bundle: OpenBundle, view: str) -> nn.Module:
    """The network of a bundle to start from; of several the one of this view.

    Raises:
        ConfigError: there is none.
    """
    network = bundle.network
    views = dict(network.networks.items()) if isinstance(network, Views) else {view: network}
    if view not in views:
        raise ConfigError(f"has networks for {', '.join(views)}, none for {view}", path=bundle.path)
    return views[view]


def build_method(stage: Stage, spec: DataSpec, before: nn.Module | None) -> tuple[dict[str, Any], Method]:
    """The definition of a stage's network, and its method around that network.

    Args:
        stage: of the pipeline.
        spec: of the data, for one view.
        before: network to start from.

    Raises:
        ConfigError: options that the network or the method does not have, or nothing to start from.
    """
    kind = methods.find(stage.method.name)
    definition = registry.network_def(
        stage.network,
        patch=spec.network_patch,
        in_channels=spec.channels,
        out_channels=kind.output_channels(spec.classes),
    )
    network = registry.build(definition)
    if before is not None:
        start_from(network, before)
    options = stage.method.options
    return definition, methods.build(stage.method.name, network, classes=spec.classes, previous=before, **options)


def try_stages(pipeline: Pipeline, start: OpenBundle | None = None) -> None:
    """Build every network and method once: what a later stage cannot be is told before the first is trained.

    Args:
        pipeline: planned.
        start: what the first stage starts from.

    Raises:
        ConfigError: as `build_method`.
    """
    data, earlier = DataSpec(**pipeline.data), dict[str, nn.Module]()
    with torch.random.fork_rng(devices=()):
        for index, stage in enumerate(pipeline.stages):
            made: dict[str, nn.Module] = {}
            for spec in stage.specs(data):
                before = None
                if index == 0 and start is not None:
                    before = network_of_view(start, spec.view)
                elif earlier and stage.init == "previous":
                    before = one_of_view(earlier, spec.view if stage.views else None)
                _, method = build_method(stage, spec, before)
                made[spec.view] = method.segmenter()
            earlier = made
