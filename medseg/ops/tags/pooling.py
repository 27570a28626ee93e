"""From maps of classes to one score for each class of an image, which tags can teach.

N. Araslanov, S. Roth: Single-Stage Semantic Segmentation from Image Labels, CVPR 2020; arXiv 2005.08104.

    m_i     = softmax over classes of z_i
    nGWP^c  = sum_i m_i^c z_i^c / (1 + sum_i m_i^c)            normalised global weighted pooling
    focal^c = (1 - mean_i m_i^c)^3 log(0.01 + mean_i m_i^c)    penalty of classes that hardly any voxel has

Their sum is a logit of "the class is in the image". The mean of z would ask for the class everywhere, its maximum for
one voxel of it; the weighted mean asks for it only where it wins. The paper has a "small constant" where its code has
1: with a small one a class that hardly any voxel has would get a logit of full size.
"""

from __future__ import annotations

import torch
from torch import Tensor

EXPONENT = 3.0
LEAST = 0.01


def ngwp(logits: Tensor, inside: Tensor | None = None, *, constant: float = 1.0) -> Tensor:
    """Normalised global weighted pooling.

    Args:
        logits: z `(B, C, *spatial)`, of all classes with background.
        inside: `(B, 1, *spatial)` bool, voxels to pool over, such as those that are no padding; None: all.
        constant: added to the denominator.

    Returns:
        `(B, C)` float32.

    Examples:
        >>> import torch
        >>> from medseg.ops.tags.pooling import ngwp
        >>> logits = torch.tensor([[[[0.0, 0.0]], [[0.0, 2.0]]]])
        >>> round(float(ngwp(logits)[0, 1]), 6)
        0.739918
    """
    logits = logits.float()
    weights = logits.softmax(1)
    if inside is not None:
        weights = weights * inside
    return (weights * logits).flatten(2).sum(2) / (constant + weights.flatten(2).sum(2))


def focal_penalty(
    logits: Tensor, inside: Tensor | None = None, *, exponent: float = EXPONENT, least: float = LEAST
) -> Tensor:
    """Focal penalty of the mean probability of each class: the smaller it is, the further below zero.

    Args:
        logits: z `(B, C, *spatial)`, of all classes with background.
        inside: `(B, 1, *spatial)` bool, voxels that count; None: all. An image of which none counts has a mean of 0.
        exponent: gamma of the paper.
        least: lambda of the paper.

    Returns:
        `(B, C)` float32.
    """
    probabilities = logits.float().softmax(1)
    if inside is None:
        mean = probabilities.flatten(2).mean(2)
    else:
        counted = inside.flatten(2).sum(2).clamp_min(1)
        mean = (probabilities * inside).flatten(2).sum(2) / counted
    return (1 - mean) ** exponent * torch.log(least + mean)
