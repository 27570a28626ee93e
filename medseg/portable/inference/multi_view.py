"""Prediction by several views: one sliding-window pass for each, then one label map of all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from ..networks.adapters import context_of
from ..planes import AXES, PLANES, slice_axis
from .components import Rules, keep_components_of_result
from .label_sink import ConfidenceArray, Maker, ProbabilityFile, largest_sigmoid
from .sliding_window import SlabInferer
from .view_fusion import fuse_mean, fuse_votes
from .windows import Overlap, Predictor, overlaps_of, window_starts

FUSIONS = ("vote", "any", "mean")
"""Most views; most of those that do not say background; the largest mean probability."""

Progress = Callable[[int, int], None]
PlaneSink = Callable[[str, Tensor, Tensor], None]
"""View, its labels `(X, Y, Z)` uint8 and the probability of each of them float16, on the file's grid."""


class ViewsInferer(Inferer):
    """Images `(1, C, X, Y, Z)` and the networks of several views to one label map `(1, 1, X', Y', Z')`, uint8.

    One view after the other; of each only labels and their probabilities are kept, three bytes a voxel. With
    `fusion="mean"` there are files for the probabilities of all classes, in steps of 1/255, in the place for temporary
    files instead.

    Args:
        roi_size: window in voxels; each plane makes its own axis 1.
        views: which ones to ask, of those that the network has.
        overlap: see `SlabInferer`; likewise the next ones.
        sw_batch_size: windows of 64 x 64 x 64 voxels at once.
        mirror_axes: axes along which each window is also predicted mirrored.
        label_values: label value of each class.
        fusion: of `FUSIONS`; see `fusion`.
        padding: see `SlabInferer`.

    Attributes:
        blend: see `SlabInferer`; of `UniformViewsInferer` "uniform".
        mirror_one: see `SlabInferer`.
        probabilities: as of `SlabInferer`, for a single view.
        independent: as of `SlabInferer`.
        sink: gets the result of each view before they are fused.
        progress: called with the windows done and the windows of all views.
        components: see `SlabInferer`; of the one label map of all views.
    """

    blend: Literal["gaussian", "uniform"] = "gaussian"

    def __init__(
        self,
        roi_size: Sequence[int],
        views: Sequence[str],
        overlap: Overlap = 0.5,
        sw_batch_size: int = 2,
        mirror_axes: Sequence[int] = (),
        label_values: Sequence[int] | None = None,
        fusion: str = "vote",
        padding: str = "minimum",
    ) -> None:
        SlabInferer(roi_size, overlap, padding=padding)  # refuses what no view could be asked with
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        if not views:
            raise ValueError("at least one view is needed")
        self.roi_size, self.views, self.overlap = tuple(roi_size), tuple(views), overlap
        self.sw_batch_size, self.mirror_axes = sw_batch_size, tuple(mirror_axes)
        self.label_values, self.fusion, self.padding = label_values, fusion, padding
        self.mirror_one = False
        self.components: Rules = {}
        self.probabilities: Maker | None = None
        self.independent = False
        self.sink: PlaneSink | None = None
        self.progress: Progress | None = None

    @property
    def windows(self) -> list[tuple[int, int, int]]:
        """The window of each view."""
        return [self._window(view) for view in self.views]

    def _window(self, view: str) -> tuple[int, int, int]:
        window = [int(length) for length in self.roi_size]
        across = slice_axis(view)
        if across is not None:
            window[across] = 1
        return window[0], window[1], window[2]

    def __call__(self, inputs: Tensor, network: Predictor, *args: Any, **kwargs: Any) -> Tensor:
        """Predict one image; `args` and `kwargs` go to the networks.

        Raises:
            ValueError: as of `SlabInferer`; a view that the network does not have; an image of one voxel along an axis
                of a plane; probabilities of several views.
        """
        networks = self._networks(network)
        self._check_planes(inputs.shape[2:])
        by_vote = len(self.views) > 1 and self.fusion != "mean"
        needs_confidence = self.sink is not None or by_vote
        answers: list[_Answer] = []
        with tempfile.TemporaryDirectory() if self._by_mean else nullcontext("") as scratch:
            for view in self.views:
                answer = _Answer(Path(scratch) / view)
                inferer = self._inferer(view, networks[view], inputs.shape[2:])
                inferer.confidence = answer.confidence.make if needs_confidence else None
                inferer.probabilities = answer.probabilities.make if self._by_mean else self.probabilities
                answer.labels = inferer(inputs, networks[view], *args, **kwargs)
                if self.sink is not None:
                    self.sink(view, answer.plain_labels, answer.plain_confidence)
                answers.append(answer)
            fused = self._fused(answers)
        return keep_components_of_result(fused, self.components, self._background)

    @property
    def _background(self) -> int:
        return int(self.label_values[0]) if self.label_values is not None else 0

    def _check_planes(self, size: Sequence[int]) -> None:
        """Refuse lines in place of slices."""
        for view in self.views:
            across = slice_axis(view)
            for axis, length in enumerate(size):
                if length == 1 and across not in (None, axis):
                    raise ValueError(
                        f"has one voxel along {AXES[axis]}, so that there is no {view} view of it; "
                        f"ask for the {PLANES[axis]} view alone"
                    )

    @property
    def _by_mean(self) -> bool:
        return self.fusion == "mean" and len(self.views) > 1

    def _networks(self, network: Predictor) -> nn.ModuleDict:
        """The networks of the views, if all are there that are asked."""
        networks = getattr(network, "networks", None)  # not by class, see `context_of`
        if not isinstance(networks, nn.ModuleDict):
            raise ValueError(f"views are asked of a {type(network).__name__}, which has none")
        unknown = [view for view in self.views if view not in networks]
        if unknown:
            raise ValueError(f"there is no view {', '.join(unknown)}; this model has {', '.join(networks)}")
        if self.probabilities and len(self.views) > 1:
            raise ValueError("several views have no probabilities of all classes in common; ask for one view")
        return networks

    def _inferer(self, view: str, network: nn.Module, size: Sequence[int]) -> SlabInferer:
        inferer = SlabInferer(
            self._window(view),
            self.overlap,
            self.sw_batch_size,
            self.mirror_axes,
            label_values=self.label_values,
            context=context_of(network),
            padding=self.padding,
        )
        inferer.blend, inferer.mirror_one = self.blend, self.mirror_one
        if self.independent:
            inferer.independent, inferer.confidence_of = True, largest_sigmoid
        if self.progress is not None:
            inferer.progress = self._progress_of_view(view, size, self.progress)
        return inferer

    def _progress_of_view(self, view: str, size: Sequence[int], progress: Progress) -> Progress:
        """What tells of one view's windows as part of those of all views."""
        counts = [self._count_windows(window, size) for window in self.windows]
        place = self.views.index(view)
        before, total_windows = sum(counts[:place]), sum(counts)

        def report(done: int, total: int) -> None:
            # a pass that lacked memory has more windows than were counted
            progress(before + done * counts[place] // total, total_windows)

        return report

    def _count_windows(self, window: Sequence[int], size: Sequence[int]) -> int:
        counts = [
            len(window_starts(max(length, depth), depth, overlap))
            for length, depth, overlap in zip(size, window, overlaps_of(self.overlap), strict=True)
        ]
        return prod(counts)

    def _fused(self, answers: Sequence[_Answer]) -> Tensor:
        """One result of all, with what the first one knows of its grid."""
        first = answers[0].labels
        if len(answers) == 1:
            return first
        if self._by_mean:
            fused = fuse_mean([answer.probabilities.array for answer in answers])
            if self.label_values is not None:
                fused = torch.tensor(list(self.label_values), dtype=torch.uint8)[fused.int()]
        else:
            fused = fuse_votes(
                [answer.plain_labels for answer in answers],
                [answer.plain_confidence for answer in answers],
                self._background if self.fusion == "any" else None,
            )
        fused = fused.to(first.device)[None, None]
        if not isinstance(first, MetaTensor):
            return fused
        result = MetaTensor(fused, meta=first.meta)
        result.is_batch = first.is_batch
        return result


class UniformViewsInferer(ViewsInferer):
    """`ViewsInferer` whose windows count alike."""

    blend = "uniform"


class _Answer:
    """What one view predicts.

    Args:
        file: where probabilities of all classes go.

    Attributes:
        labels: as the inferer gives them, `(1, 1, X, Y, Z)`.
    """

    labels: Tensor

    def __init__(self, file: Path) -> None:
        self.confidence = ConfidenceArray()
        self.probabilities = ProbabilityFile(file)

    @property
    def plain_labels(self) -> Tensor:
        """The labels alone, `(X, Y, Z)` in main memory."""
        labels = self.labels.as_tensor() if isinstance(self.labels, MetaTensor) else self.labels
        return labels[0, 0].cpu()

    @property
    def plain_confidence(self) -> Tensor:
        """Float16 `(X, Y, Z)`."""
        return torch.from_numpy(self.confidence.array)
