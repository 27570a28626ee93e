"""Where in the body a training patch lies, so that what is cut out of one patient can be put where another has it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medseg.data.augment import Draw
from medseg.data.cached_volume import CachedVolume
from medseg.ops.augmentation.field_of_view import Crop


def place_in_body(
    volume: CachedVolume, draw: Draw, start: Sequence[int], patch: Sequence[int], axes: Sequence[int]
) -> Tensor:  # fmt: skip
    """The map from voxels of a patch to places in the body.

    Args:
        volume: that the patch is cut out of.
        draw: how the patch is changed; its turns, flips and zoom are part of the map.
        start: first voxel of the patch of `draw.source_shape`.
        patch: voxels along x, y, z.
        axes: of the volume that the network sees.

    Returns:
        `(n, n + 1)` float32 for n axes: a matrix A and a column c. Voxel v of the patch lies at A v + c, where along
        each axis 0 is the first slice that shows the body and 1 the last one.
    """
    matrix, first = _voxels_of_volume(draw, start, patch)
    low, length = _body_box(volume)
    relative = np.concatenate([matrix, (first - low)[:, None]], axis=1) / length[:, None]
    rows, columns = list(axes), [*axes, 3]
    return torch.from_numpy(relative[np.ix_(rows, columns)].astype(np.float32))


def _voxels_of_volume(draw: Draw, start: Sequence[int], patch: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Matrix `(3, 3)` and first voxel `(3,)` of the map from voxels of a patch to those of its volume."""
    wanted = draw.source_shape(patch)
    turned, offset = _turns(draw, wanted, patch)
    if draw.matrix is None:
        return turned, np.asarray(start) + offset
    middle = (np.asarray(wanted) - 1) / 2
    return draw.matrix @ turned, np.asarray(start) + middle + draw.matrix @ (offset - middle)


def _turns(draw: Draw, wanted: Sequence[int], patch: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same map for flips and quarter turns alone, found by turning the corners of a box."""
    ends = [torch.tensor([0.0, length - 1.0]) for length in wanted]
    corners = torch.stack(torch.meshgrid(*ends, indexing="ij"))
    for kind, value in draw.spatial():
        if kind.name != Crop.name:  # it leaves every voxel where it is
            corners = kind.apply(corners, value)
    found = corners.double().numpy()
    origin = found[:, 0, 0, 0]
    ahead = np.stack([found[:, 1, 0, 0], found[:, 0, 1, 0], found[:, 0, 0, 1]], axis=1)
    return (ahead - origin[:, None]) / np.maximum(np.subtract(patch, 1), 1), origin


def _body_box(volume: CachedVolume) -> tuple[np.ndarray, np.ndarray]:
    """First slice that shows the body along each axis, and how far the last one is from it, both `(3,)`."""
    lows, lengths = [], []
    for shown in volume.body:
        low, high = shown.index("1"), shown.rindex("1")
        lows.append(low)
        lengths.append(max(1, high - low))
    return np.array(lows, float), np.array(lengths, float)
