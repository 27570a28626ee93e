"""Options of GC-SSL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.consensus.boxes import relative_spacing
from medseg.consensus.fusers.gcssl.energy import neighbour_offsets
from medseg.consensus.fusers.gcssl.rater_scores import WEIGHT_MODES, check_given_weights
from medseg.consensus.study import Study
from medseg.errors import ConfigError, DataError


@dataclass(frozen=True)
class GcsslOptions:
    """Options of GC-SSL.

    Args:
        weights: "logodds", "sc" (the score itself), "uniform", or one number >= 0 per rater.
        ssl: raters vote also where they annotated nothing, as they would label what looks alike; False: they do not.
        neighbours: 4 or 8 (default) in a 2D image; 6 (default), 18 or 26 in a volume.
        smoothness: total cost of a voxel that differs from all its neighbours where the image has no edge; 0 gives
            the weighted vote. It is multiplied by the informativeness of the image.
        thin: distance to the boundary, in units of the smallest spacing, that a structure must reach near a voxel to be
            smoothed there in full; what is thinner is smoothed less (`energy.thickness_factor`). 0: all alike.
        local_sc: experimental: each voxel has its own weights, by how a rater's posterior there agrees with the label.
        seed: of the sample and the trees.

    Raises:
        ConfigError: an option out of range.
    """

    weights: str | Sequence[float] = "logodds"
    ssl: bool = True
    neighbours: int | None = None
    smoothness: float = 2.0
    thin: float = 6.0
    local_sc: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("smoothness", "thin"):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0:
                raise ConfigError(f"{name} {value}; a number >= 0 is wanted")
        if isinstance(self.weights, str) and self.weights not in WEIGHT_MODES:
            raise ConfigError(f"weights {self.weights!r}; {', '.join(WEIGHT_MODES)} or numbers are offered")

    def check_study(self, study: Study) -> None:
        """Refuse a study that these options do not fit, before anything is computed.

        Raises:
            DataError: the study has no image.
            ConfigError: other weights than raters, or no such neighbours in an image of so many axes.
        """
        if study.image is None:
            raise DataError("gcssl scores raters by the image, and there is none; give it, or take a voting method")
        neighbour_offsets(relative_spacing(study.shape, study.spacing_mm), self.neighbours)
        if not isinstance(self.weights, str):
            check_given_weights(self.weights, len(study.raters))

    def for_raters(self, chosen: np.ndarray) -> GcsslOptions:
        """The same options for some of the raters, `(R,)` bool."""
        if isinstance(self.weights, str):
            return self
        pairs = zip(self.weights, chosen, strict=True)
        return replace(self, weights=[float(weight) for weight, is_chosen in pairs if is_chosen])
