"""The maps of a method (`Method.maps`): kept after a training, and opened again for a rule that works on them.

They are no part of a bundle: a method's own code makes them, which no bundle needs. The file holds weights alone; the
module is made again as for the training, by the method with the settings of its stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from medseg import methods
from medseg.config.between_runs import RuleSpec
from medseg.config.pipeline import DataSpec, Stage
from medseg.engine.checkpoint import read_weights, save_atomic
from medseg.method import Method
from medseg.portable.networks.adapters import Planar
from medseg.workflows.train.stages.build import build_method, open_previous

MAPS = "maps.pt"
"""In the folder of a training: the weights of the maps."""


def rule_of(stage: Stage) -> RuleSpec | None:
    """The rule that works on what the networks of a stage give, if there is one."""
    part = stage.rounds or stage.then
    return part.rule if part else None


def needs_maps(stage: Stage) -> bool:
    """Whether the rule of a stage works on the method's maps."""
    rule = rule_of(stage)
    return rule is not None and methods.find_rule(rule.name).needs == "maps"


def save_maps(path: Path, method: Method) -> None:
    """Write the weights of a method's maps.

    Raises:
        OutputError: it cannot be written.
    """
    module = method.maps()
    assert module is not None, "seen when the run was planned"
    save_atomic({name: value.detach().cpu() for name, value in module.state_dict().items()}, path)


@dataclass(frozen=True)
class SavedMaps:
    """The maps of one trained network.

    Args:
        path: their weights.
        stage: of the method.
        data: what the network was trained on, with its view.
        previous: what the training started from.
    """

    path: Path
    stage: Stage
    data: DataSpec
    previous: Path | None

    def open(self) -> nn.Module:
        """Volumes `(B, C, X, Y, Z)` to maps `(B, K, X, Y, Z)`.

        Raises:
            CheckpointError: the file is not what the training wrote.
        """
        previous = open_previous(self.previous, self.data.view) if self.previous else None
        with torch.random.fork_rng(devices=()):
            module = build_method(self.stage, self.data, previous).maps()
        assert module is not None
        read_weights(self.path, module)
        return _of_volumes(module, self.data)


@dataclass(frozen=True)
class TrainedMaps:
    """The maps of a method that has just been trained, which need no file.

    Args:
        method: after its training.
        data: what the network was trained on, with its view.
    """

    method: Method
    data: DataSpec

    def open(self) -> nn.Module:
        """Volumes `(B, C, X, Y, Z)` to maps `(B, K, X, Y, Z)`."""
        module = self.method.maps()
        assert module is not None, "who makes this has looked"
        return _of_volumes(module, self.data)


def _of_volumes(module: nn.Module, data: DataSpec) -> nn.Module:
    """Maps of volumes, whose slices a planar module sees one by one; in evaluation mode."""
    module.eval()
    axis = data.slice_axis
    return module if axis is None else Planar(module, axis, data.slices).eval()
