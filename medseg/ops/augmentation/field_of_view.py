"""Training patches as of scans that show less: users send cropped scans and thin slabs.

The module imports neither torch nor NumPy when it is imported, as `medseg.ops.augmentation.transforms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field, PositiveFloat

from medseg.ops.augmentation.transforms import SpatialTransform, random_transform

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CUT = 2 / 3
"""Probability with which each axis is cut."""

SMALLEST_STD = 0.05
"""Of a box, in units of its scan's: with less it is taken as constant."""


@dataclass(frozen=True)
class FieldOfView:
    """The box of a patch that a smaller scan would show.

    Attributes:
        cuts: axis, first voxel and the voxel after the last one, of each axis along which the box is shorter.
        shift: how far the intensities go to those of a scan that shows this box alone, 0 to 1.
        repeated: whether what lies outside of the box becomes its outermost voxels.
    """

    cuts: tuple[tuple[int, int, int], ...]
    shift: float
    repeated: bool = True


@random_transform("crop")
class Crop(SpatialTransform):
    """A scan that shows only a box of the patch, whose outermost voxels are repeated up to the patch's edges.

    So it is at prediction where a scan ends within a window. Where images are z-scored one by one the patch also gets
    intensities nearer to the z-score of the box: all the way if every axis is cut, else a part of it, since the scan
    goes on along the other axes. A part of the patches keeps what lies outside of the box, and gets these intensities
    alone.
    """

    probability: float = Field(default=0.0, ge=0, le=1)
    share: tuple[PositiveFloat, PositiveFloat] = (0.3, 1.0)  # of a side, what is left of it
    repeated: float = Field(default=1.0, ge=0, le=1)  # of these patches, those that lose what lies outside of the box

    def draw(self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]) -> FieldOfView | None:
        """The box; an axis of one voxel is left alone."""
        if rng.random() >= self.probability:
            return None
        is_cut = rng.random(3) < CUT
        shares, places = rng.uniform(*self.share, 3), rng.random(3)
        thick = [axis for axis in range(3) if patch[axis] > 1]
        cuts = []
        for axis in thick:
            length = min(patch[axis], max(1, round(shares[axis] * patch[axis])))
            if is_cut[axis] and length < patch[axis]:
                low = int(places[axis] * (patch[axis] - length + 1))
                cuts.append((axis, low, low + length))
        if not cuts:
            return None
        repeated = self.repeated == 1 or bool(rng.random() < self.repeated)
        return FieldOfView(tuple(cuts), len(cuts) / len(thick), repeated)

    def apply(self, tensor: Tensor, drawn: FieldOfView) -> Tensor:
        """Repeat the outermost voxels of the box in image, label or maps `(C, X, Y, Z)`."""
        import torch

        if not drawn.repeated:
            return tensor
        for axis, low, high in drawn.cuts:
            numbers = torch.arange(tensor.shape[axis + 1], device=tensor.device).clamp_(low, high - 1)
            tensor = tensor.index_select(axis + 1, numbers)
        return tensor

    @staticmethod
    def standardize(image: Tensor, zscored: Sequence[bool], drawn: FieldOfView) -> None:
        """Bring the intensities `(C, X, Y, Z)` of channels nearer to the z-score of the box, in place.

        Args:
            image: the patch.
            zscored: whether they are z-scored, for each channel or, where slices are channels, for each group of them.
            drawn: the box.
        """
        import torch

        box = image
        for axis, low, high in drawn.cuts:
            box = box.narrow(axis + 1, low, high - low)
        flat = box.flatten(1)
        mean, std = flat.mean(1), flat.std(1, correction=0).clamp_(min=SMALLEST_STD)
        if not all(zscored):
            kept = ~torch.tensor(zscored).repeat_interleave(len(image) // len(zscored))
            mean[kept], std[kept] = 0, 1
        image.sub_((mean * drawn.shift)[:, None, None, None])
        image.div_(std.pow_(drawn.shift)[:, None, None, None])
