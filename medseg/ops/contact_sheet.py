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
        `(n, X, Y)` float32, a copy without gradient, so that nothing larger is kept alive.
    """
    shown = images[:count, 0].detach()
    if shown.ndim == 4:
        shown = shown[..., shown.shape[-1] // 2]
    return shown.float().clone()


def contact_sheet(rows: Sequence[Tensor]) -> Tensor:
    """Rows of slices as one picture, x to the right and y downwards, as photographs are; from black to white.

    Args:
        rows: each `(n, X, Y)`, all of one size; shorter rows are filled up with black.

    Returns:
        `(1, len(rows) Y, max(n) X)` float32 in [0, 1]: 0 is the smallest value of all rows, 1 the largest.
    """
    low = min(float(row.min()) for row in rows)
    high = max(float(row.max()) for row in rows)
    longest = max(len(row) for row in rows)
    lines = []
    for row in rows:
        grey = (row - low) / max(high - low, 1e-6)
        whole = F.pad(grey, (0, 0, 0, 0, 0, longest - len(row)))
        lines.append(torch.cat(list(whole.mT), dim=1))
    return torch.cat(lines)[None].nan_to_num().clamp(0, 1)


class MixedImages:
    """Keeps what a consistency method last showed its student, for a picture of it.

    Examples:
        >>> shown = MixedImages()
        >>> shown.sheet()
        {}
        >>> shown.keep(torch.zeros(2, 1, 8, 6), torch.ones(2, 1, 8, 6), torch.zeros(2, 3, 8, 6))
        >>> shown.sheet()["mixed images"].shape
        torch.Size([1, 18, 16])
    """

    COUNT = 4

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._logits = torch.zeros(0)

    def keep(self, images: Tensor, mixed: Tensor, targets: Tensor) -> None:
        """Keep the middle slices of a batch.

        Args:
            images: as they were, `(B, C, *spatial)`.
            mixed: as the student sees them, likewise.
            targets: the teacher's logits of these, `(B, classes, *spatial)`.
        """
        self._rows = [middle_slices(each, self.COUNT) for each in (images, mixed)]
        logits = targets[: self.COUNT].detach()
        if logits.ndim == 5:
            logits = logits[..., logits.shape[-1] // 2]
        self._logits = logits.clone()  # what is made of them takes time, and few steps are shown

    def sheet(self) -> dict[str, Tensor]:
        """Rows: the images, what the student saw, and the classes that the teacher gave it, background black."""
        if not self._rows:
            return {}
        low = min(float(row.min()) for row in self._rows)
        high = max(float(row.max()) for row in self._rows)
        share = self._logits.argmax(1) / max(1, self._logits.shape[1] - 1)
        return {"mixed images": contact_sheet([*self._rows, low + share * (high - low)])}
