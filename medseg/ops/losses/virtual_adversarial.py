"""Virtual adversarial training: the small change of an image that moves the network's prediction most.

T. Miyato, S. Maeda, M. Koyama, S. Ishii: Virtual adversarial training, IEEE TPAMI 2019; arXiv 1704.03976.

    d   = g / ||g||,  g = gradient with respect to d0 of KL(p(x + xi d0), p(x)),  d0 ~ N(0, 1)
    L   = KL(p(x + r), p(x)),  r = eps d, p(x) without gradient

One norm is one image's. eps is given as the root mean square of a voxel, so that it means the same for patches of any
size: the 32 of S4L's authors for 224 x 224 x 3 is 0.08. Their xi is 1e-6 for the whole image, which float32 loses
beside values near 1; here it is `PROBE` of a voxel.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medseg.ops.batch_statistics import frozen_statistics
from medseg.ops.losses.segmentation import masked_mean

PROBE = 1e-3
"""Root mean square of a voxel by which the direction is sought."""

SMALLEST_NORM = 1e-20

Direction = Literal["changed", "clean"]
"""Which prediction stands first in KL: that of the changed image (S4L's code), or that of the image itself (Miyato)."""


def divergence(
    changed: Tensor, clean: Tensor, direction: Direction = "changed", inside: Tensor | None = None
) -> Tensor:
    """Mean over images and voxels of the Kullback-Leibler divergence of two predictions.

    Args:
        changed: logits `(B, K, ...)`.
        clean: logits of the same shape.
        direction: which stands first.
        inside: `(B, 1, ...)` bool, what shows the images and counts; None: everything.
    """
    first, second = (changed, clean) if direction == "changed" else (clean, changed)
    log_first, log_second = first.float().log_softmax(1), second.float().log_softmax(1)
    return masked_mean((log_first.exp() * (log_first - log_second)).sum(1, keepdim=True), inside)


def of_length(image: Tensor, each: float) -> Tensor:
    """Each image scaled to a root mean square; an image of zeros stays.

    Args:
        image: `(B, ...)`.
        each: root mean square of a voxel.
    """
    flat = image.flatten(1)
    norm = flat.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM)
    return (flat / norm * each * flat.shape[1] ** 0.5).view_as(image)


def adversarial_change(
    network: nn.Module,
    image: Tensor,
    clean: Tensor,
    radius: float,
    direction: Direction,
    inside: Tensor | None = None,
) -> Tensor:
    """The change of each image that moves its prediction most, by one power iteration.

    Args:
        network: images to logits `(B, K, *spatial)` or `(B, K)`.
        image: `(B, C, *spatial)`.
        clean: its logits, without gradient.
        radius: root mean square of a voxel of the change.
        direction: of the divergence.
        inside: as of `divergence`.
    """
    probe = of_length(torch.randn(image.shape).to(image.device), PROBE).requires_grad_()
    device = image.device.type
    is_mixed = torch.is_autocast_enabled(device)
    # half precision has no room for so small a change, neither in what is changed nor in what it is compared with
    with torch.autocast(device, enabled=False):
        if is_mixed:
            with torch.no_grad():
                clean = network(image.float())
        with torch.enable_grad():
            moved = divergence(network(image.float() + probe), clean, direction, inside)
            (gradient,) = torch.autograd.grad(moved, probe)
    return of_length(gradient.detach(), radius)


def adversarial_loss(
    network: nn.Module,
    image: Tensor,
    clean: Tensor,
    *,
    radius: float,
    direction: Direction = "changed",
    inside: Tensor | None = None,
) -> Tensor:
    """The divergence of the prediction of the changed image from that of the image.

    Args:
        network: images to logits; the running statistics of its norms stay as they are.
        image: `(B, C, *spatial)`.
        clean: its logits.
        radius: root mean square of a voxel of the change.
        direction: of the divergence.
        inside: as of `divergence`.
    """
    clean = clean.detach()
    with frozen_statistics(network):
        change = adversarial_change(network, image, clean, radius, direction, inside)
        return divergence(network(image + change), clean, direction, inside)


def mean_entropy(logits: Tensor, inside: Tensor | None = None) -> Tensor:
    """Mean over images and voxels of the entropy of the prediction.

    Args:
        logits: `(B, K, ...)`.
        inside: `(B, 1, ...)` bool, what shows the images and counts; None: everything.
    """
    log_probability = logits.float().log_softmax(1)
    return -masked_mean((log_probability.exp() * log_probability).sum(1, keepdim=True), inside)
