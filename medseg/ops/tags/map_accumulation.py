"""Maps accumulated over a training: a classifier looks at other parts of a structure at other times.

P.-T. Jiang, Q. Hou, Y. Cao, M.-M. Cheng, Y. Wei, H. Xiong: Integral Object Mining via Online Attention Accumulation,
ICCV 2019. The accumulated map of a class is the maximum over time of its normalised maps. `MapBank` is the authors':
maps of the training batches, kept for each case, which takes images that are not moved or cut. `Snapshots` keeps the
networks instead, a few over the training, and takes the maximum on whole images afterwards, whatever augmentation
there was.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg.ops.processes import gather_from_processes
from medseg.ops.tags.class_activation import PRESENT, largest_of, relative_maps

FULL = 255
"""Value of the maximum of a stored map."""


def as_bytes(maps: Tensor) -> Tensor:
    """`round(255 ReLU(M) / (max M + 1e-8))`, `(B, classes, *spatial)` uint8."""
    positive = maps.detach().float().clamp_min(0)
    return (FULL * positive / (largest_of(positive) + 1e-8)).round().to(torch.uint8)


class MapBank(nn.Module):
    """The accumulated maps of each case, by the number of the case; it grows with the largest number that it has seen.

    Args:
        classes: with a map, without the background.
        shape: of a map, 2 or 3 axes.
        least: probability of a class below which its map is not taken.
    """

    stored: Tensor
    filled: Tensor

    def __init__(self, classes: int, shape: Sequence[int], *, least: float = 0.1) -> None:
        super().__init__()
        if not 0 <= least < 1:
            raise ValueError(f"least {least:g} of the accumulated maps: must be at least 0 and less than 1")
        self.classes, self.shape, self.least = classes, tuple(shape), least
        self.register_buffer("stored", torch.zeros((0, classes, *shape), dtype=torch.uint8))
        self.register_buffer("filled", torch.zeros((0, classes), dtype=torch.bool))

    @torch.no_grad()
    def update(self, index: Tensor, maps: Tensor, tags: Tensor, logits: Tensor, *, last: bool = False) -> None:
        """Take in the maps of a batch, of all processes together.

        Args:
            index: numbers of the cases, `(B,)` int64.
            maps: `(B, classes, *shape)`; each is divided by its maximum here.
            tags: `(B, classes)`, 1 = present; maps of other classes are left out.
            logits: of the tags `(B, classes)`.
            last: whether a map that is still missing is taken whatever its probability.
        """
        index = gather_from_processes(index)
        new = gather_from_processes(as_bytes(maps))
        present = gather_from_processes((tags == PRESENT).to(torch.uint8)).bool()
        likely = gather_from_processes(logits.detach().float()).sigmoid() >= self.least
        if not len(index):
            return
        self._grow_to(int(index.max()) + 1)
        for place, case in enumerate(index.tolist()):
            taken = present[place] & likely[place]
            if last:
                taken |= present[place] & ~self.filled[case]
            self.stored[case, taken] = torch.maximum(self.stored[case, taken], new[place, taken])
            self.filled[case] |= taken

    def maps(self, index: Tensor) -> Tensor:
        """The accumulated maps of some cases, `(B, classes, *shape)` in [0, 1]; 0 where there is none."""
        self._grow_to(int(index.max()) + 1)
        return self.stored[index].float() / FULL

    def _grow_to(self, cases: int) -> None:
        missing = cases - len(self.stored)
        if missing > 0:
            self.stored = torch.cat([self.stored, self.stored.new_zeros((missing, *self.stored.shape[1:]))])
            self.filled = torch.cat([self.filled, self.filled.new_zeros((missing, self.classes))])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Become as large as the bank that is read."""
        for name in ("stored", "filled"):
            saved = state_dict.get(prefix + name)
            own = getattr(self, name)
            if saved is not None and saved.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


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
