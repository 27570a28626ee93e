"""Random changes of photographs: their size with a crop, and their colours. Scans have neither unless it is asked for.

Photographs are taken from any distance and in any light, where a scanner has a scale and a kind of contrast: papers on
photographs resize by 0.5 to 2 and cut a window of one size (L.-C. Chen et al., DeepLabv3+, arXiv 1802.02611).

The module imports neither torch nor NumPy when it is imported, as `medseg.ops.augmentation.transforms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, PositiveFloat

from medseg.ops.augmentation.transforms import IntensityTransform, RandomTransform, random_transform

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@random_transform("resize")
class Resize(RandomTransform):
    """The image made larger or smaller by a factor, before the patch is cut out of it at random.

    Where the image is then smaller than the patch, nobody knows what lies beyond its edges: the label is 255 there. As
    rotation and zoom (`Affine`), with which it is one map from patch to volume, it has no `apply` of its own.
    """

    probability: float = Field(default=0.0, ge=0, le=1)
    factor: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)

    def draw(self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray | None:
        """Matrix (3, 3) from patch offsets to volume offsets; an axis of one voxel is left alone."""
        import numpy as np

        if rng.random() >= self.probability:
            return None
        factor = rng.uniform(*self.factor)
        return np.diag([1 / factor if size > 1 else 1.0 for size in patch])


@random_transform("color_jitter")
class ColorJitter(IntensityTransform):
    """Contrast and brightness of each channel by itself, and how far the channels differ from their mean.

    With s the strength: each channel's distance from its mean is multiplied by 1 - s to 1 + s, its mean moves by up to
    s times its standard deviation, and before that the colours' distance from grey is multiplied by 1 - s to 1 + s.
    """

    probability: float = Field(default=0.0, ge=0, le=1)
    strength: float = Field(default=0.3, ge=0, le=1)

    def draw(self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]) -> int | None:
        """The seed of the numbers of each channel, whose count is known where the image is."""
        if rng.random() >= self.probability:
            return None
        return int(rng.integers(2**62))

    def apply(self, image: Tensor, drawn: int) -> None:
        """Change the colours, then each channel."""
        import torch

        numbers = torch.rand(2 * len(image) + 1, generator=torch.Generator().manual_seed(drawn))
        saturation, *each = (self.strength * (2 * numbers - 1)).tolist()
        if len(image) > 1:
            grey = image.mean(0, keepdim=True)
            image.sub_(grey).mul_(1 + saturation).add_(grey)
        for channel, contrast, brightness in zip(image, each[::2], each[1::2], strict=True):
            mean, std = channel.mean(), channel.std(correction=0)
            channel.sub_(mean).mul_(1 + contrast).add_(mean + brightness * std)
