"""A stage of a pipeline: what it is given and makes, its network and method; and all stages at once, as a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from medseg import methods
from medseg.bundle.bundle import OpenBundle
from medseg.config import DataSpec, Pipeline, Stage
from medseg.errors import ConfigError
from medseg.instantiate import build_network
from medseg.manifest.manifest import Manifest
from medseg.method import Method
from medseg.networks import registry
from medseg.portable.networks.adapters import FirstChannels, Planar, Views

T = TypeVar("T")


@dataclass(frozen=True)
class StageInputs:
    """One stage of a pipeline, its data, and where it is trained.

    Args:
        pipeline: resolved, nothing left to plan.
        index: of the stage.
        manifest: the data set.
        folder: of checkpoints and logs.
        cache: folder of preprocessed volumes, shared by all networks of a run.
        device: of the networks.
    """

    pipeline: Pipeline
    index: int
    manifest: Manifest
    folder: Path
    cache: Path
    device: torch.device

    @property
    def stage(self) -> Stage:
        """The stage's settings."""
        return self.pipeline.stages[self.index]

    @property
    def data(self) -> DataSpec:
        """How the data are presented, before a view is chosen."""
        return DataSpec(**self.pipeline.data)


@dataclass(frozen=True)
class StageResult:
    """The bundles that a stage made.

    Args:
        bundle: of all its networks.
        networks: view -> bundle of that network alone.
    """

    bundle: Path
    networks: Mapping[str, Path]

    def network(self, view: str | None) -> Path:
        """The bundle that a network of a view can start from.

        Raises:
            ConfigError: the stage had several networks, none of that view.
        """
        return select_view(self.networks, view)


def select_view(networks: Mapping[str, T], view: str | None) -> T:
    """What a network of a view starts from, of the networks of the stage before.

    Args:
        networks: view -> network or bundle.
        view: None: of a stage with one network.

    Raises:
        ConfigError: there are several, none of that view.
    """
    if len(networks) == 1:
        return next(iter(networks.values()))
    if view is None or view not in networks:
        raise ConfigError(f"init: previous: the stage before has networks for {', '.join(networks)}, none for {view}")
    return networks[view]


WARM_SHARE = 0.5
"""Share of the teacher's iterations that a student has which starts from its teacher."""


def check_rule(stage: Stage) -> None:
    """Refuse rounds where the method has no rule for pseudo-labels.

    Raises:
        ConfigError: naming the method.
    """
    if stage.rounds and methods.find(stage.method.name).relabel is Method.relabel:
        raise ConfigError(
            f"rounds is {stage.rounds}, and the method {stage.method.name} makes no pseudo-labels",
            hint="take dmpct, or rounds: 0",
        )


def build_rule(stage: Stage, classes: int) -> Method:
    """The stage's method without a network: pseudo-labels are made from the votes alone."""
    return methods.build(stage.method.name, nn.Identity(), classes=classes, **stage.method.options)


def count_trainings(stage: Stage, unlabeled: int) -> float:
    """Trainings of one network in the whole stage; one that is half as long counts half.

    Args:
        stage: with its views and rounds.
        unlabeled: cases; without any there are no rounds.
    """
    teachers = max(1, len(stage.views))
    if not stage.rounds or not unlabeled:
        return teachers
    is_warm = build_rule(stage, classes=2).warm_students
    student_share = WARM_SHARE if is_warm else 1.0
    return teachers * (1 + student_share * stage.rounds)


def copy_matching_weights(network: nn.Module, previous: nn.Module) -> None:
    """Copy the weights of an earlier stage wherever name and shape agree; heads may differ.

    Raises:
        ConfigError: nothing agrees, or one is of planes and one of volumes.
    """
    while isinstance(previous, (Planar, FirstChannels)):
        previous = previous.network
    own, earlier = network.state_dict(), previous.state_dict()
    own_dims = max(weight.ndim for weight in own.values())
    earlier_dims = max(weight.ndim for weight in earlier.values())
    if own_dims != earlier_dims:  # their biases would still agree
        raise ConfigError("init: previous: one network sees planes, that of the stage before volumes, or the reverse")
    same = {}
    for name, weight in earlier.items():
        if name in own and own[name].shape == weight.shape:
            same[name] = weight
    if not same:
        raise ConfigError("init: previous: the network has nothing in common with that of the stage before")
    network.load_state_dict(same, strict=False)


def network_of_view(bundle: OpenBundle, view: str) -> nn.Module:
    """The network of a bundle to start from; of several the one of this view.

    Raises:
        ConfigError: there is none.
    """
    if not isinstance(bundle.network, Views):
        return bundle.network
    views = dict(bundle.network.networks.items())
    if view not in views:
        raise ConfigError(f"has networks for {', '.join(views)}, none for {view}", path=bundle.path)
    return views[view]


def define_network(stage: Stage, data: DataSpec) -> dict[str, Any]:
    """The definition of a stage's network, by which it is built here and in the bundle.

    Args:
        stage: of the pipeline.
        data: of one view.

    Raises:
        ConfigError: options that the network does not have.
    """
    method = methods.find(stage.method.name)
    return registry.network_def(
        stage.network,
        patch=data.network_patch,
        in_channels=data.channels,
        out_channels=method.output_channels(data.classes),
    )


def build_method(stage: Stage, data: DataSpec, previous: nn.Module | None = None) -> Method:
    """The method of a stage around a new network.

    Args:
        stage: of the pipeline.
        data: of one view.
        previous: network to start from.

    Raises:
        ConfigError: options that the network or the method does not have, or nothing to start from.
    """
    network = build_network(define_network(stage, data))
    if previous is not None:
        copy_matching_weights(network, previous)
    method = stage.method
    return methods.build(method.name, network, classes=data.classes, previous=previous, **method.options)


def define_segmenter(segmenter: nn.Module, network: dict[str, Any]) -> dict[str, Any]:
    """The definition of a segmenter for the bundle.

    Args:
        segmenter: the stage's network, or adapters around it.
        network: definition of that network.
    """
    if isinstance(segmenter, Planar):
        planar = {
            "_target_": "medseg.portable.networks.adapters.Planar",
            "network": define_segmenter(segmenter.network, network),
            "axis": segmenter.axis,
        }
        if segmenter.slices != 1:
            planar["slices"] = segmenter.slices
        return planar
    if isinstance(segmenter, FirstChannels):
        return {
            "_target_": "medseg.portable.networks.adapters.FirstChannels",
            "network": define_segmenter(segmenter.network, network),
            "channels": segmenter.channels,
        }
    return network


def check_buildable(pipeline: Pipeline, start: OpenBundle | None = None) -> None:
    """Build every network and method once, so that a mistake in a later stage is found before the first is trained.

    Args:
        pipeline: planned.
        start: what the first stage starts from.

    Raises:
        ConfigError: as `build_method`.
    """
    data = DataSpec(**pipeline.data)
    earlier: dict[str, nn.Module] = {}
    with torch.random.fork_rng(devices=()):
        for index, stage in enumerate(pipeline.stages):
            segmenters: dict[str, nn.Module] = {}
            for view_data in stage.specs(data):
                previous = None
                if index == 0 and start is not None:
                    previous = network_of_view(start, view_data.view)
                elif earlier and stage.init == "previous":
                    previous = select_view(earlier, view_data.view if stage.views else None)
                segmenters[view_data.view] = build_method(stage, view_data, previous).segmenter()
            earlier = segmenters
