"""What the training of a stage is given, and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from medseg.config import DataSpec, Pipeline, Stage
from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest

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
    """What a stage made.

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
