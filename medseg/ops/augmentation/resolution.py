"""Random loss of sharpness: scans of other machines are blurred, or coarser than the voxels that they are stored in.

Both are those of nnU-Net's augmentation (Isensee et al., Nature Methods 2021, supplementary note 4), and off unless a
pipeline gives them a probability.

The module imports neither torch nor NumPy when it is imported, as `medseg.ops.augmentation.transforms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, PositiveFloat

from medseg.ops.augmentation.transforms import IntensityTransform, random_transform

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@random_transform("blur")
class Blur(IntensityTransform):
    """A Gaussian filter of every channel along the axes of the patch that are thicker than a voxel.

    The outermost voxels are repeated beyond the edges. Slices that a planar network sees beside its own are not mixed.
    """

    probability: float = Field(default=0.0, ge=0, le=1)
    sigma: tuple[PositiveFloat, PositiveFloat] = (0.5, 1.0)  # voxels

    def draw(
        self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]
    ) -> tuple[float, ...] | None:
        """Standard deviation along each axis, voxels; 0: it is not filtered."""
        if rng.random() >= self.probability:
            return None
        sigma = rng.uniform(*self.sigma)
        return tuple(sigma if size > 1 else 0.0 for size in patch)

    def apply(self, image: Tensor, drawn: Sequence[float]) -> None:
        """Filter along each axis."""
        import torch
        from monai.networks.layers.convutils import gaussian_1d
        from monai.networks.layers.simplelayers import separable_filtering

        nothing = torch.ones(1)
        kernels = [gaussian_1d(torch.tensor(sigma), normalize=True) if sigma else nothing for sigma in drawn]
        image.copy_(separable_filtering(image[None], kernels, mode="replicate")[0])


@random_transform("low_resolution")
class LowResolution(IntensityTransform):
    """The image as of a scan with larger voxels: the nearest of fewer voxels are kept and interpolated linearly.

    Along the axes of the patch that are thicker than a voxel; the slices that a planar network sees stay all.
    """

    probability: float = Field(default=0.0, ge=0, le=1)
    factor: tuple[PositiveFloat, PositiveFloat] = (0.5, 1.0)  # voxels along an axis, as a part of those there are

    def draw(
        self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]
    ) -> tuple[float, ...] | None:
        """The factor along each axis; 1: it stays."""
        if rng.random() >= self.probability:
            return None
        factor = rng.uniform(*self.factor)
        return tuple(factor if size > 1 else 1.0 for size in patch)

    def apply(self, image: Tensor, drawn: Sequence[float]) -> None:
        """Make the image coarser along each axis, and bring it back to its size."""
        from torch.nn.functional import interpolate

        shape = image.shape[1:]
        fewer = [max(1, round(size * part)) for size, part in zip(shape, drawn, strict=True)]
        coarse = interpolate(image[None], size=fewer, mode="nearest-exact")
        image.copy_(interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0])
