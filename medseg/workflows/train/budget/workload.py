"""How much there is to do in a stage beside the steps of one training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.config.pipeline import Stage
from medseg.manifest.labelling import cases_to_label
from medseg.manifest.manifest import Manifest, streams_of
from medseg.planning.fingerprint import read_fingerprint
from medseg.workflows.train.stages.build import count_trainings


@dataclass(frozen=True)
class Workload:
    """Amount of work of a stage beside the steps of one training.

    Args:
        trainings: in all; one that is half as long counts half.
        predicted: passes over a case by one network, for labels and scores of the rounds.
        validation: labelled validation cases.
        size: typical case, voxels of its own grid along RAS.
        spacing_mm: of that.
    """

    trainings: float
    predicted: int
    validation: int
    size: np.ndarray
    spacing_mm: np.ndarray

    @classmethod
    def of_stage(cls, stage: Stage, manifest: Manifest) -> Workload:
        """The work of a stage on a data set."""
        part = stage.rounds or stage.then
        to_label = len(cases_to_label(streams_of(manifest), part.cases)) if part else 0
        validation = sum(1 for case in manifest.validation if case.is_labelled)
        rounds = stage.round_count if to_label else 0
        labellings = rounds + (stage.then is not None)
        views = max(1, len(stage.views))
        has_rounds_or_views = stage.round_count > 0 or views > 1
        scored = validation * (rounds + 1) if has_rounds_or_views else 0
        fingerprint = read_fingerprint(manifest)
        return cls(
            trainings=count_trainings(stage, to_label),
            predicted=views * (labellings * to_label + scored),
            validation=validation,
            size=np.median(fingerprint.shape, axis=0),
            spacing_mm=np.median(fingerprint.spacing_mm, axis=0),
        )
