"""Sliding-window prediction from an image to labels on the file's own grid, in bounded memory.

Logits of overlapping windows are blended, with Gaussian weights by default, in a ring of planes one window deep;
finished planes are interpolated to the file's grid, become labels and are dropped. There is never a floating-point
volume of all classes. On equal grids the labels are those of MONAI's `SlidingWindowInferer(mode="gaussian")`
and an argmax; with `padding="edge"` also where the image is smaller than the window, which MONAI then calls
`padding_mode="replicate"`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import torch
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import collate_meta_tensor
from monai.inferers import Inferer
from torch import Tensor, nn

from .components import Rules, keep_components_of_result
from .label_sink import LabelSink, Maker, MapSink, top_probability
from .out_of_memory import Attempt, with_less_memory
from .region_sink import RegionSink
from .restore_grid import AxisMap, grid_maps, identity_maps
from .slabs import Slabs
from .windows import (
    PADDINGS,
    Overlap,
    Predictor,
    extract_windows,
    order_positions,
    overlaps_of,
    pad_to_window,
    predict_mirrored,
    slab_axis,
    split_into_batches,
    window_starts,
)

BATCH_VOXELS = 64**3  # smaller windows are batched up to `sw_batch_size` times as many voxels


def _device(network: Predictor, image: Tensor) -> torch.device:
    if isinstance(network, nn.Module):
        for parameter in network.parameters():
            return parameter.device
    return image.device


class SlabInferer(Inferer):
    """Images `(1, C, X, Y, Z)` and a network to labels `(1, 1, X', Y', Z')`, uint8.

    Args:
        roi_size: window in voxels; a 1 makes planar windows.
        overlap: of neighbouring windows, in [0, 1), along all axes or for each of the three; their steps are those
            of MONAI's `sliding_window_inference`.
        sw_batch_size: windows of 64 x 64 x 64 voxels at once, more of smaller ones. On a CPU 2 are much
            faster than 1.
        mirror_axes: spatial axes along which each window is also predicted mirrored; the logits are averaged.
        restore: give labels on the grid of the image's file (its `original_affine` and `spatial_shape`),
            else on the image's own.
        label_values: label value of each class; None gives class indices.
        context: voxels along each axis that the network sees on either side of a window and gives no logits for;
            beyond the edges of the image its outermost voxels are repeated.
        padding: of `PADDINGS`, what a window holds beyond the edges of an image that is smaller than it. Bundles from
            before version 0.2 do not name it: their networks were trained with the minimum.

    Attributes:
        blend: how the windows are weighed, see `windows.importance`; of `UniformSlabInferer` "uniform".
        mirror_one: whether windows are mirrored along one of `mirror_axes` at a time, never along several at once.
        probabilities: given a shape `(K, X', Y', Z')`, makes the uint8 array into which probabilities x 255
            are written (a `numpy.memmap`, say); their first maximum is the label at every voxel but those of removed
            components. None: not wanted.
        confidence: given a shape `(X', Y', Z')`, makes the float16 array into which the probability of each label
            is written, before components are removed. None: not wanted.
        confidence_of: what is written there, of logits `(K, *spatial)`: the probability of the label or, say,
            `label_sink.top_log_odds`.
        independent: whether a sigmoid of each class makes the network's logits probabilities; else a softmax of all.
        paint_order: class indices of regions in the order in which they are painted, see `region_sink`: the network
            has a channel for each region, and no confidence is written. Empty: a class is that of the largest logit.
        progress: called with the windows done and the windows in all.
        components: label value -> which of its connected components stay in the labels, see
            `components.with_components`; the others become the first label value.
    """

    blend: Literal["gaussian", "uniform"] = "gaussian"

    def __init__(
        self,
        roi_size: Sequence[int],
        overlap: Overlap = 0.5,
        sw_batch_size: int = 2,
        mirror_axes: Sequence[int] = (),
        restore: bool = True,
        label_values: Sequence[int] | None = None,
        context: Sequence[int] = (0, 0, 0),
        padding: str = "minimum",
    ) -> None:
        if len(roi_size) != 3 or min(roi_size) < 1:
            raise ValueError(f"roi_size must be three positive numbers, got {list(roi_size)}")
        overlaps_of(overlap)
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
        self.roi_size = (int(roi_size[0]), int(roi_size[1]), int(roi_size[2]))
        self.overlap, self.sw_batch_size, self.mirror_axes = overlap, sw_batch_size, tuple(mirror_axes)
        self.restore, self.label_values = restore, label_values
        self.context = (int(context[0]), int(context[1]), int(context[2]))
        self.padding = padding
        self.mirror_one = False
        self.components: Rules = {}
        self.probabilities: Maker | None = None
        self.confidence: Maker | None = None
        self.confidence_of: Callable[[Tensor], Tensor] = top_probability
        self.independent = False
        self.paint_order: tuple[int, ...] = ()
        self.progress: Callable[[int, int], None] | None = None

    @property
    def windows(self) -> list[tuple[int, int, int]]:
        """The windows that are used, for who wants to know what they cost."""
        return [self.roi_size]

    def __call__(self, inputs: Tensor, network: Predictor, *args: Any, **kwargs: Any) -> Tensor:
        """Predict one image; `args` and `kwargs` go to the network.

        Raises:
            ValueError: for another shape than `(1, C, X, Y, Z)`, an image whose grid cannot be brought back,
                or a network that makes something else than finite logits of the window's size.
        """
        if inputs.ndim != 5 or len(inputs) != 1:
            raise ValueError(f"expected one image (1, C, X, Y, Z), got the shape {tuple(inputs.shape)}")
        collated = isinstance(inputs, MetaTensor) and inputs.is_batch
        image = decollate_batch(inputs)[0] if collated else inputs[0]
        maps = self._maps(image)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        windows_at_once = self.sw_batch_size * max(1, BATCH_VOXELS // prod(self.roi_size))
        first = Attempt(self.roi_size, windows_at_once, _device(network, plain))

        def network_with_arguments(windows: Tensor) -> Tensor:
            return network(windows, *args, **kwargs)

        def predict(attempt: Attempt) -> Tensor:
            return self._predict(plain, maps, network_with_arguments, attempt, first.device)

        with torch.no_grad():
            labels = with_less_memory(first, predict)
        if not isinstance(image, MetaTensor):
            return self._with_components(labels[None])
        affine = image.meta.get("original_affine", image.affine) if self.restore else image.affine
        result = MetaTensor(labels, meta={**image.meta, "affine": torch.as_tensor(affine)})
        return self._with_components(collate_meta_tensor([result]) if collated else result[None])

    def _with_components(self, result: Tensor) -> Tensor:
        """The result `(1, 1, X', Y', Z')` with the components that stay."""
        background = int(self.label_values[0]) if self.label_values is not None else 0
        return keep_components_of_result(result, self.components, background)

    def _maps(self, image: Tensor) -> tuple[AxisMap, ...]:
        size = tuple(image.shape[1:])
        if not (self.restore and isinstance(image, MetaTensor) and "original_affine" in image.meta):
            return identity_maps(size)
        original = torch.as_tensor(image.meta["original_affine"])
        original_size = [int(length) for length in image.meta.get("spatial_shape", size)]
        return grid_maps(image.affine, size, original, original_size)

    def _predict(
        self,
        image: Tensor,
        maps: Sequence[AxisMap],
        network: Predictor,
        attempt: Attempt,
        device: torch.device,
    ) -> Tensor:
        """Labels `(X', Y', Z')` of an image `(C, X, Y, Z)`; `device` is the network's."""
        padded, before = pad_to_window(image, attempt.window, self.padding)
        size = tuple(padded.shape[1:])
        axis = slab_axis(size, attempt.window)
        along_axes = zip(size, attempt.window, overlaps_of(self.overlap), strict=True)
        starts = [window_starts(*of_axis) for of_axis in along_axes]
        maps = [axis_map.shifted(planes) for axis_map, planes in zip(maps, before, strict=True)]
        sink = self._make_sink(maps, axis, image.device)
        slabs = Slabs(size, starts, axis, attempt, maps, sink, self.blend)
        positions = order_positions(starts, axis)
        done = 0
        for batch in split_into_batches(positions, attempt.batch):
            windows = extract_windows(padded, batch, attempt.window, self.context).to(device)
            logits = predict_mirrored(network, windows, self.mirror_axes, self.context, one=self.mirror_one)
            logits = logits.to(attempt.device)
            for position, window in zip(batch, logits, strict=True):
                slabs.add(window, position)
            done += len(batch)
            if self.progress is not None:
                self.progress(done, len(positions))
        slabs.finish()
        return sink.result

    def _make_sink(self, maps: Sequence[AxisMap], axis: int, device: torch.device) -> LabelSink | MapSink:
        """Takes what the network gives, on the file's grid."""
        if self.paint_order:
            return RegionSink(maps, axis, self.label_values, device, self.probabilities, self.paint_order)
        return LabelSink(
            maps,
            axis,
            self.label_values,
            device,
            self.probabilities,
            self.confidence,
            self.confidence_of,
            self.independent,
        )


class UniformSlabInferer(SlabInferer):
    """`SlabInferer` whose windows count alike: that of MONAI with `mode="constant"`, its default."""

    blend = "uniform"


class MapInferer(SlabInferer):
    """Images `(1, C, X, Y, Z)` and a network to what it gives, blended, `(1, K, X', Y', Z')` float16.

    Attributes:
        values: given a shape `(K, X', Y', Z')`, makes the float16 array into which the maps are written.
    """

    values: Maker

    def _make_sink(self, maps: Sequence[AxisMap], axis: int, device: torch.device) -> LabelSink | MapSink:
        return MapSink(maps, axis, self.values)
