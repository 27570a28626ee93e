"""What a network is made for: sizes of patches, and how often each axis is halved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

from medseg.errors import ConfigError

Strides = list[list[int]]


def plan_strides(
    patch: Sequence[int], levels: int = 4, smallest: int = 4, spacing_mm: Sequence[float] | None = None
) -> Strides:
    """Down-sampling per level and axis: an axis is halved while at least `smallest` voxels of it are left.

    With the spacing an axis waits until the voxels are nearly as long along the others (nnU-Net's rule): thick slices
    are not joined before what lies within them is.

    Args:
        patch: voxels along each axis of the network, 2 or 3 of them.
        levels: at most this many down-samplings.
        smallest: voxels along an axis below which it is not halved any more.
        spacing_mm: of the patch along each axis; None: not looked at.

    Returns:
        One list of factors per level; levels at which no axis could be halved are left out.

    Raises:
        ConfigError: no axis can be halved.
    """
    sizes, strides = list(patch), []
    lengths = list(spacing_mm or [1.0] * len(sizes))
    for _ in range(levels):
        can_be_halved = [size % 2 == 0 and size // 2 >= smallest for size in sizes]
        if not any(can_be_halved):
            break
        shortest = min(length for length, can in zip(lengths, can_be_halved, strict=True) if can)
        step = [2 if can and length < 2 * shortest else 1 for length, can in zip(lengths, can_be_halved, strict=True)]
        sizes = [size // s for size, s in zip(sizes, step, strict=True)]
        lengths = [length * s for length, s in zip(lengths, step, strict=True)]
        strides.append(step)
    if not strides:
        raise ConfigError(f"a patch of {list(patch)} voxels is too small for a network; at least 8 along one axis")
    return strides


def fit_size(size: float, *, largest: float | None = None, levels: int = 4, smallest: int = 4) -> int:
    """The patch size nearest to `size` that can be halved `levels` times, or as often as is worth it.

    Args:
        size: wanted voxels along an axis.
        largest: not to be exceeded, where a halving allows it; by default `size`.
        levels: halvings.
        smallest: voxels that should be left after the last halving.
    """
    limit = size if largest is None else largest
    size = min(size, limit)
    halvings = max(0, min(levels, int(log2(size / smallest)))) if size >= smallest else 0
    factor = 2**halvings
    steps = int(size / factor + 0.5)
    while steps > 1 and steps * factor > limit:
        steps -= 1
    return max(1, steps) * factor


@dataclass(frozen=True)
class Size:
    """What a network is made for.

    Args:
        patch: voxels of a training patch along each axis of the network, 2 or 3 of them.
        in_channels: of the image.
        out_channels: of the output.
        width: channels of the first level.
        strides: down-sampling per level and axis.
    """

    patch: tuple[int, ...]
    in_channels: int
    out_channels: int
    width: int
    strides: Strides

    @property
    def dims(self) -> int:
        """Spatial axes, 2 or 3."""
        return len(self.patch)

    @property
    def arguments(self) -> dict[str, Any]:
        """What networks of MONAI call the axes and channels."""
        return {"spatial_dims": self.dims, "in_channels": self.in_channels, "out_channels": self.out_channels}

    def widths(self, most: int | None = None) -> list[int]:
        """Channels of each level: doubled from one to the next, up to a limit."""
        doubled = [self.width * 2**level for level in range(len(self.strides) + 1)]
        return doubled if most is None else [min(width, most) for width in doubled]
