"""A patch of one patient, moved so that it shows at each voxel the part of the body that another patch shows there."""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.ops.losses.segmentation import IGNORE


def align_to_body(image: Tensor, label: Tensor, place: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Move, turn and resize a patch; each voxel has the value of the nearest one.

    Args:
        image: `(C, *spatial)`.
        label: `(1, *spatial)` class indices.
        place: of the patch, `(n, n + 1)` as `medseg.stream.Stream` says of the key "place".
        wanted: of the patch that it shall lie as.

    Returns:
        Image and label of the same shapes; what lies outside of the patch has the label 255.
    """
    shape = image.shape[1:]
    inverse = torch.linalg.inv(place[:, :-1].double())
    matrix = inverse @ wanted[:, :-1].double()
    shift = inverse @ (wanted[:, -1] - place[:, -1]).double()
    axes = [torch.arange(length, dtype=torch.float64, device=image.device) for length in shape]
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    sources = torch.einsum("ab,b...->a...", matrix, voxels) + shift.view(-1, *[1] * len(shape))
    nearest = (sources + 0.5).floor().long()
    is_inside = torch.ones(shape, dtype=torch.bool, device=image.device)
    numbers = []
    for of_axis, length in zip(nearest, shape, strict=True):
        is_inside &= (of_axis >= 0) & (of_axis < length)
        numbers.append(of_axis.clamp(0, length - 1))
    index = (slice(None), *numbers)
    return image[index], torch.where(is_inside, label[index], IGNORE)
