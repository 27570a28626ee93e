"""A stage of a pipeline: what it is given and makes, its method and networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from medseg import methods
from medseg.atomic import make_folder, write_whole
from medseg.bundle.bundle import OpenBundle, open_bundle
from medseg.config.instantiate import build_network
from medseg.config.pipeline import DataSpec, Pipeline, Stage
from medseg.engine.checkpoint import read_weights, save_atomic
from medseg.engine.tracking import MLflowTracker
from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest
from medseg.method import Frozen, Method
from medseg.networks.factory import NetworkFactory, definition_of
from medseg.portable.networks.adapters import Planar, Views
from medseg.workflows.train.encoder import DESCRIPTION, NETWORK, WEIGHTS, open_encoder

if TYPE_CHECKING:
    from medseg.workflows.train.stages.maps import SavedMaps

T = TypeVar("T")

PRETRAINED = NETWORK
"""Beside `model.pt` in the folder of a stage that makes no segmenter: how its network is made."""


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
        tracker: gets the numbers of the logs, too.
        measured: the data set of the run, whose unlabelled cases' labels pseudo-labels are measured by; None: they are
            not measured.
    """

    pipeline: Pipeline
    index: int
    manifest: Manifest
    folder: Path
    cache: Path
    device: torch.device
    tracker: MLflowTracker | None = None
    measured: Manifest | None = None

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
        maps: of each network, if a rule works on them.
    """

    bundle: Path
    networks: Mapping[str, Path]
    maps: tuple[SavedMaps, ...] = ()

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


def count_trainings(stage: Stage, to_label: int) -> float:
    """Trainings of one network in the whole stage; one that is half as long as a teacher's counts half.

    Args:
        stage: with its views and rounds.
        to_label: cases; without any there are no rounds.
    """
    teachers = max(1, len(stage.views))
    if not stage.rounds or not to_label:
        return teachers
    return teachers * (1 + student_share(stage) * stage.rounds.count)


def student_share(stage: Stage) -> float:
    """Iterations of a student as a part of those of its teacher."""
    return stage.student_iterations / stage.schedule.iterations


def describe_students(stage: Stage) -> str:
    """Words on the students, to be put behind others; none where they are trained for as long as their teachers."""
    if stage.student_iterations == stage.schedule.iterations:
        return ""
    return f", students of {stage.student_iterations} iterations"


def build_method(
    stage: Stage,
    data: DataSpec,
    previous: Frozen | None = None,
    report: Callable[[str], None] | None = None,
) -> Method:
    """The method of a stage with new networks.

    Args:
        stage: of the pipeline.
        data: of one view.
        previous: network to start from.
        report: called with a line that says what was copied of it, for each network.

    Raises:
        ConfigError: options that the network or the method does not have, or nothing to start from.
    """
    networks = NetworkFactory(stage.network, data, previous=previous, start=previous is not None)
    method = methods.build(stage.method.name, networks, **stage.method.options)
    if report is not None:
        for copied in networks.copied:
            report(str(copied))
    return method


def open_previous(path: Path, view: str) -> Frozen:
    """The network to start from.

    Args:
        path: a bundle, an encoder, or the folder of a stage that made no segmenter.
        view: of a bundle with several networks the one that is wanted.

    Raises:
        ConfigError: the bundle has no network of this view.
        BundleError: it cannot be opened.
    """
    if (path / DESCRIPTION).is_file():
        return Frozen(open_encoder(path).open())
    if (path / PRETRAINED).is_file():
        return _open_pretrained(path)
    bundle = open_bundle(path)
    names = tuple(bundle.data.labels[value] for value in bundle.data.output_values)
    network = _of_slices(network_of_view(bundle, view))
    return Frozen(network, names, modality=bundle.data.modality, independent=bundle.independent)


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


def _of_slices(network: nn.Module) -> nn.Module:
    """Of a network of volumes that looks at slices, the network of slices, which is what a method sees."""
    return network.network if isinstance(network, Planar) else network


def save_pretrained(folder: Path, network: nn.Module) -> None:
    """Write the network of a stage that makes no segmenter, for the stage after it.

    Raises:
        ConfigError: a network that cannot be made again.
        OutputError: it cannot be written.
    """
    definition = definition_of(network)
    make_folder(folder)
    save_atomic(network.state_dict(), folder / WEIGHTS)
    write_whole(folder / PRETRAINED, json.dumps(definition, indent=1) + "\n")


def _open_pretrained(folder: Path) -> Frozen:
    network = build_network(json.loads((folder / PRETRAINED).read_text(encoding="utf-8")))
    read_weights(folder / WEIGHTS, network)
    return Frozen(network)
