"""Label maps of regions, which overlap: each is present by its own sigmoid, and paints its value in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from monai.inferers import Inferer
from torch import Tensor

from ..regions import paint_regions
from .label_sink import LEVELS, LabelSink, Maker
from .restore_grid import AxisMap

Inferred = TypeVar("Inferred", bound=Inferer)
PRESENT = 128
"""Of a probability stored in a byte: from here on a region is present."""


def with_regions(inferer: Inferred, paint_order: Sequence[Any]) -> Inferred:
    """An inferer of this package for a network of regions; what a bundle's configuration names.

    Args:
        inferer: with one network.
        paint_order: class indices of all regions, from 1, in the order in which they are painted.

    Returns:
        `inferer`.

    Raises:
        ValueError: another order, or an inferer that has no use for one.
    """
    if not hasattr(inferer, "paint_order"):
        raise ValueError(f"regions are asked of a {type(inferer).__name__}, which has none")
    if sorted(map(str, paint_order)) != sorted(map(str, range(1, len(paint_order) + 1))) or not paint_order:
        raise ValueError(f"paint_order is {list(paint_order)}; accepted are the numbers from 1 on, each once")
    setattr(inferer, "paint_order", tuple(int(index) for index in paint_order))  # noqa: B010 - not of every `Inferer`
    return inferer


def region_bytes(logits: Tensor) -> Tensor:
    """Probabilities of regions `(K, *spatial)` in steps of 1/255, uint8: `PRESENT` and more where above a half."""
    stored = logits.sigmoid().mul_(LEVELS).round_().to(torch.uint8)
    present = logits > 0
    return torch.where(present, stored.clamp(min=PRESENT), stored.clamp(max=PRESENT - 1))


def fuse_regions(probabilities: Sequence[Tensor], paint_order: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The label map of the mean probabilities of several models, and this mean.

    Args:
        probabilities: of each model `(K, *spatial)` uint8, by `region_bytes`.
        paint_order: class indices in the order in which they are painted.

    Returns:
        `(*spatial)` uint8 class indices; `(K, *spatial)` uint8, `PRESENT` and more where the mean is above a half.
    """
    total = torch.stack([each.int() for each in probabilities]).sum(0)
    count = len(probabilities)
    present = 2 * total > LEVELS * count
    mean = ((2 * total + count) // (2 * count)).to(torch.uint8)
    stored = torch.where(present, mean.clamp(min=PRESENT), mean.clamp(max=PRESENT - 1))
    return paint_regions(present, paint_order), stored


class RegionSink(LabelSink):
    """Writes the labels of regions into a volume on the file's grid, block by block.

    Args:
        maps: as `LabelSink`.
        axis: as `LabelSink`.
        values: label value of the background and of each region; None: the class index.
        device: where the label volume is kept.
        probabilities: as `LabelSink`.
        paint_order: class indices in the order in which regions are painted.
    """

    def __init__(
        self,
        maps: Sequence[AxisMap],
        axis: int,
        values: Sequence[int] | None,
        device: torch.device,
        probabilities: Maker | None,
        paint_order: Sequence[int],
    ) -> None:
        super().__init__(maps, axis, values, device, probabilities)
        self.paint_order = tuple(paint_order)

    def _check_channels(self, count: int) -> None:
        if count != len(self.paint_order):
            raise ValueError(
                f"the network has {count} channels; one for each of {len(self.paint_order)} regions is needed"
            )

    def _decide(self, logits: Tensor) -> Tensor:
        return paint_regions(logits > 0, self.paint_order)

    def _bytes_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        return region_bytes(logits)
