"""Maps accumulated over a training: a classifier looks at other parts of a structure at other times.

P.-T. Jiang, Q. Hou, Y. Cao, M.-M. Cheng, Y. Wei, H. Xiong: Integral Object Mining via Online Attention Accumulation,
ICCV 2019. The accumulated map of a class is the maximum over time of its normalised maps. The authors keep the maps of
the training batches for each image, which must not be moved or cut for that. `Snapshots` keeps the networks instead, a
few over the training, and takes the maximum on whole images afterwards, whatever augmentation there was.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from medseg.ops.tags.class_activation import relative_maps


class Snapshots(nn.Module):
    """A module that gives maps, as it was at several times of a training, and the maximum of what they say.

    The copies are in evaluation mode, have no gradient, and are in checkpoints with the method that owns them. Before a
    time is over its copy is that of the module at the start.

    Args:
        module: images `(B, C, *spatial)` to maps `(B, K, *spatial)`.
        fractions: of the run after which the module is copied, in (0, 1].
    """

    def __init__(self, module: nn.Module, fractions: Sequence[float]) -> None:
        super().__init__()
        if not fractions or not all(0 < each <= 1 for each in fractions):
            raise ValueError(f"times of snapshots are {list(fractions)}; accepted are fractions of the run in (0, 1]")
        self.fractions = tuple(sorted(fractions))
        self.copies = nn.ModuleList(copy.deepcopy(module).requires_grad_(False) for _ in self.fractions)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the method is in."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, module: nn.Module, iteration: int, total: int) -> None:
        """Copy the module if it is time, after the 0-based step `iteration` of `total`.

        Args:
            module: that was given, as it is now.
            iteration: that is over.
            total: of the run.
        """
        for fraction, kept in zip(self.fractions, self.copies, strict=True):
            if iteration + 1 == max(1, round(fraction * total)):
                kept.load_state_dict(module.state_dict())

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, C, *spatial)` to the maximum of all relative maps `(B, K, *spatial)`, in [0, 1)."""
        found = relative_maps(self.copies[0](image))
        for kept in self.copies[1:]:
            found = torch.maximum(found, relative_maps(kept(image)))
        return found
