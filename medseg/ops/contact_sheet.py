"""Small pictures of what a method makes of a batch: slices of images side by side, in rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor


def middle_slices(images: Tensor, count: int) -> Tensor:
    """What is shown of a batch: the first channel of its first images, of volumes the middle along the last axis.

    Args:
        images: `(B, C, *spatial)`.
        count: of images, at most.

    Returns:
        `(n, height, width)` float32, a copy without gradient, so that nothing larger is kept alive.
    """
    shown = images[:count, 0].detach()
    if shown.ndim == 4:
        shown = shown[..., shown.shape[-1] // 2]
    return shown.float().clone()


def contact_sheet(rows: Sequence[Tensor]) -> Tensor:
    """Rows of slices as one picture, the smallest value of all black and the largest white.

    Args:
        rows: each `(n, height, width)`, with the same height and width; shorter rows are filled up with black.

    Returns:
        `(1, len(rows) height, max(n) width)` float32 in [0, 1].
    """
    low = min(float(row.min()) for row in rows)
    high = max(float(row.max()) for row in rows)
    longest = max(len(row) for row in rows)
    lines = []
    for row in rows:
        grey = (row - low) / max(high - low, 1e-6)
        whole = F.pad(grey, (0, 0, 0, 0, 0, longest - len(row)))
        lines.append(torch.cat(list(whole), dim=1))
    return torch.cat(lines)[None].nan_to_num().clamp(0, 1)
