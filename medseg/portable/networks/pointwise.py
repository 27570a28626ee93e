"""A 1x1x1 convolution as a matrix product, for which PyTorch has no fast kernel on a CPU where channels lie last."""

from __future__ import annotations

import torch
from torch import Tensor


def wants_product(features: Tensor) -> bool:
    """Whether `features` `(B, C, *spatial)` lie so that `pointwise` is faster than a convolution: volumes on a CPU."""
    return features.ndim == 5 and not features.is_cuda and features.is_contiguous(memory_format=torch.channels_last_3d)


def pointwise(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same as a 1x1x1 convolution, but for rounding; gradients keep the layout of the features.

    Args:
        features: `(B, C, X, Y, Z)`, channels last.
        weight: `(K, C, 1, 1, 1)`.
        bias: `(K,)`.

    Returns:
        `(B, K, X, Y, Z)`, channels last.

    Examples:
        >>> import torch
        >>> from medseg.portable.networks.pointwise import pointwise
        >>> features = torch.tensor([2.0, 3.0]).view(1, 2, 1, 1, 1)
        >>> weight = torch.tensor([[1.0, 0.0], [1.0, -1.0]]).view(2, 2, 1, 1, 1)
        >>> pointwise(features, weight, torch.tensor([0.0, 10.0])).flatten().tolist()
        [2.0, 9.0]
    """
    images, channels, outputs = features.shape[0], features.shape[1], weight.shape[0]
    points = features.movedim(1, -1).flatten(1, -2)
    # a product for each image: torch.nn.functional.linear would copy the gradient of all voxels
    matrix = weight.flatten(1).t().expand(images, channels, outputs)
    product = torch.baddbmm(bias.expand(images, 1, outputs), points, matrix)
    return product.unflatten(1, features.shape[2:]).movedim(-1, 1)
