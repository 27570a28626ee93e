"""Patches of labelled images whose class is that of their centre: chosen boxes, and the images cut out of them.

The rules are those of Mix-and-Match tuning (Zhan et al., AAAI 2018). Everything is drawn from torch's generator of the
CPU, whose state is in the checkpoints; it looks at labels, so that boxes are chosen on the CPU and cut on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor

from medseg.ops.losses.segmentation import IGNORE

CANDIDATES = 5
"""Places drawn for each patch that is kept."""

Box = tuple[slice, ...]
"""The part of a patch that lies inside its image, one slice for each spatial axis."""


@dataclass(frozen=True)
class PatchRules:
    """How patches are chosen.

    Args:
        smallest: voxels of the smallest patch, along each axis.
        largest: of the largest one.
        background: the class with a small quota of its own; None: all classes are alike.
        background_share: its quota, a share of the patches of an image.
        balance: "class", draw a class first, each with the same probability, then a voxel of it; "area", draw a voxel.
        overlap: share of a patch that those before it may cover already.
        min_purity: share of a patch that the class of its centre fills at least.
    """

    smallest: tuple[int, ...]
    largest: tuple[int, ...]
    background: int | None = 0
    background_share: float = 0.1
    balance: Literal["class", "area"] = "class"
    overlap: float = 0.6
    min_purity: float = 0.0

    def quotas(self, count: int) -> tuple[int, int]:
        """Of the patches of an image those of other classes, and those of the background."""
        if self.background is None or count < 2 or self.background_share == 0:
            return count, 0
        background = max(1, int(self.background_share * count + 1e-9))  # 0.1 * 10 shall be 1
        return max(1, count - background), min(background, count - 1)


@dataclass(frozen=True)
class Patches:
    """Where patches lie in one image.

    Attributes:
        centers: `(n, dims)` int64 voxels.
        sizes: `(n, dims)` int64, even but for axes of one voxel.
        classes: `(n,)` int64, of the centres.
    """

    centers: Tensor
    sizes: Tensor
    classes: Tensor

    @property
    def starts(self) -> Tensor:
        """First voxel of each patch, `(n, dims)`; may lie outside."""
        return self.centers - self.sizes // 2

    def boxes(self, shape: Sequence[int]) -> list[Box]:
        """Of each patch the part inside an image of a shape."""
        limits = torch.tensor(list(shape))
        first = self.starts.clamp(min=0).tolist()
        last = torch.minimum(self.starts + self.sizes, limits).tolist()
        found = []
        for lower, upper in zip(first, last, strict=True):
            found.append(tuple(slice(a, b) for a, b in zip(lower, upper, strict=True)))
        return found

    def select(self, numbers: Sequence[int]) -> Patches:
        """Some of them, in this order."""
        chosen = torch.tensor(list(numbers), dtype=torch.int64)
        return Patches(self.centers[chosen], self.sizes[chosen], self.classes[chosen])


def join(parts: Sequence[Patches]) -> Patches:
    """Patches of the same image, one after the other."""
    return Patches(
        torch.cat([part.centers for part in parts]),
        torch.cat([part.sizes for part in parts]),
        torch.cat([part.classes for part in parts]),
    )


def choose_patches(label: Tensor, count: int, rules: PatchRules) -> Patches | None:
    """The patches of one image.

    Args:
        label: `(*spatial)` class indices on the CPU, 255 = ignore; such voxels are no centres.
        count: how many patches, at least 1.
        rules: how they are chosen.

    Returns:
        None: the image has nothing but 255.
    """
    positions = class_positions(label)
    if not positions:
        return None
    foreground_quota, background_quota = rules.quotas(count)
    foreground = {value: places for value, places in positions.items() if value != rules.background}
    background = {value: places for value, places in positions.items() if value == rules.background}
    candidates = _draw(label, foreground or background, CANDIDATES * foreground_quota, rules)
    chosen = [candidates.select(_spread(candidates, label, foreground_quota, rules))]
    if background_quota:
        candidates = _draw(label, background or foreground, CANDIDATES * background_quota, rules)
        chosen.append(candidates.select(_pure_first(candidates, label, rules)[:background_quota]))
    return join(chosen)


def _pure_first(candidates: Patches, label: Tensor, rules: PatchRules) -> list[int]:
    """Numbers of the candidates in order, those that are pure enough before the others."""
    pure, impure = [], []
    for number, share in enumerate(purities(candidates, label)):
        if share >= rules.min_purity:
            pure.append(number)
        else:
            impure.append(number)
    return pure + impure


def class_positions(label: Tensor) -> dict[int, Tensor]:
    """Class -> where it is, as indices of the flat label; 255 is no class."""
    flat = label.reshape(-1)
    counts = torch.bincount(flat.long(), minlength=IGNORE + 1)
    counts[IGNORE] = 0
    present = counts.nonzero()[:, 0].tolist()
    return {value: (flat == value).nonzero()[:, 0] for value in present}


def _draw(label: Tensor, positions: dict[int, Tensor], count: int, rules: PatchRules) -> Patches:
    """Candidates at voxels of some classes, drawn with replacement."""
    classes = list(positions)
    if rules.balance == "class":
        flat = torch.empty(count, dtype=torch.int64)
        drawn = torch.randint(len(classes), (count,))
        for number, value in enumerate(classes):
            places = (drawn == number).nonzero()[:, 0]
            flat[places] = positions[value][torch.randint(len(positions[value]), (len(places),))]
    else:
        everywhere = torch.cat(list(positions.values()))
        flat = everywhere[torch.randint(len(everywhere), (count,))]
    centers = torch.stack(torch.unravel_index(flat, label.shape), dim=1)
    return Patches(centers, _draw_sizes(count, label.shape, rules), label.reshape(-1)[flat].long())


def _draw_sizes(count: int, shape: Sequence[int], rules: PatchRules) -> Tensor:
    """Even sizes `(count, dims)`, uniform between the smallest and the largest, at most the image's."""
    smallest, largest = torch.tensor(rules.smallest), torch.tensor(rules.largest)
    drawn = torch.rand(count, 1)
    sizes = smallest + (drawn * (largest - smallest + 1)).long()
    sizes = torch.minimum(sizes, torch.tensor(list(shape)))
    return torch.where(sizes > 1, sizes // 2 * 2, sizes)


def _spread(candidates: Patches, label: Tensor, wanted: int, rules: PatchRules) -> list[int]:
    """The candidates, in order, of which little is covered by those before; if too few, then skipped ones too."""
    covered = np.zeros(tuple(label.shape), dtype=bool)
    shares = purities(candidates, label) if rules.min_purity else [1.0] * len(candidates.classes)
    kept: list[int] = []
    skipped: list[int] = []
    for number, box in enumerate(candidates.boxes(label.shape)):
        if len(kept) == wanted:
            break
        if shares[number] < rules.min_purity or covered[box].mean() > rules.overlap:
            skipped.append(number)
            continue
        covered[box] = True
        kept.append(number)
    return [*kept, *skipped[: wanted - len(kept)]]


def purities(patches: Patches, label: Tensor) -> list[float]:
    """Of each patch the share, inside the image, that has the class of its centre."""
    values = label.numpy()
    boxes = patches.boxes(label.shape)
    classes = patches.classes.tolist()
    return [float((values[box] == value).mean()) for box, value in zip(boxes, classes, strict=True)]


def cut_patches(images: Tensor, patches: Sequence[Patches], shape: Sequence[int]) -> Tensor:
    """Cut patches out and bring all to one size, linearly; zeros where they reach beyond their image.

    Args:
        images: `(B, C, *spatial)`.
        patches: of each image, the same number n.
        shape: of the result, along each spatial axis.

    Returns:
        `(B n, C, *shape)`, those of an image one after the other.
    """
    count, dims = len(patches[0].classes), len(shape)
    starts = torch.stack([each.starts for each in patches]).to(images.device, torch.float32)
    sizes = torch.stack([each.sizes for each in patches]).to(images.device, torch.float32)
    coordinates = []
    for axis, length in enumerate(shape):
        steps = (torch.arange(length, device=images.device) + 0.5) / length
        place = starts[..., axis, None] + sizes[..., axis, None] * steps  # the voxel's middle, from the image's edge
        along = 2 * place / images.shape[2 + axis] - 1
        view = [1] * dims
        view[axis] = length
        coordinates.append(along.reshape(len(patches), count, *view).expand(-1, -1, *shape))
    grid = torch.stack(coordinates[::-1], dim=-1)  # the last axis comes first
    grid = grid.reshape(len(patches), count * shape[0], *shape[1:], dims)
    cut = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    cut = cut.reshape(len(patches), images.shape[1], count, *shape)
    return cut.movedim(2, 1).flatten(0, 1)
