"""Exact rotations by quarter turns, and the sets of them that a network may be asked to tell apart.

`quarter4` and `half2` are for planes; `axial4`, `axis10` (A. Taleb et al.: 3D self-supervised methods for medical
imaging, NeurIPS 2020), `cube24` and `half4` for volumes. A quarter turn exchanges two axes. Where the voxels are not
as long along both, or were not before the image was resampled, their shape or the blur would give the answer away:
such a set is refused, and `auto` takes the largest that is not. Turns are counter-clockwise, as `torch.rot90` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product
from math import prod

import torch
from torch import Tensor

SPACING_TOLERANCE = 0.05
"""By which two spacings of exchanged axes may differ."""

SETS = {2: ("quarter4", "half2"), 3: ("axial4", "axis10", "cube24", "half4")}
"""Spatial dimensions -> names of sets."""

AUTO = "auto"

Pair = tuple[int, int]


@dataclass(frozen=True)
class Rotation:
    """A rotation that maps voxels onto voxels: axes are permuted, then some are reversed.

    Args:
        order: for each axis of the result the axis of the image that it is.
        reversed_axes: axes of the result that run backwards.
    """

    order: tuple[int, ...]
    reversed_axes: tuple[int, ...] = ()

    def __call__(self, image: Tensor) -> Tensor:
        """Turn `(B, C, *spatial)`; the result may be a view, and keeps the dtype."""
        turned = image.permute(0, 1, *(axis + 2 for axis in self.order))
        return turned.flip([axis + 2 for axis in self.reversed_axes]) if self.reversed_axes else turned

    def inverse(self) -> Rotation:
        """The rotation that undoes this one."""
        order = tuple(self.order.index(axis) for axis in range(len(self.order)))
        return Rotation(order, tuple(sorted(self.order[axis] for axis in self.reversed_axes)))


@dataclass(frozen=True)
class RotationSet:
    """Rotations that are told apart by their number; the first is the identity.

    Args:
        name: of the set.
        rotations: what each number means.
        exchanged: axes that some rotation exchanges with one another, which an image must have equally long.
    """

    name: str
    rotations: tuple[Rotation, ...]
    exchanged: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.rotations)

    def turn(self, images: Tensor, numbers: Sequence[int]) -> Tensor:
        """Each image turned by the rotation of its number.

        Args:
            images: `(B, C, *spatial)`, equally long along the exchanged axes.
            numbers: one for each image.
        """
        turned = [self.rotations[number](images[i : i + 1]) for i, number in enumerate(numbers)]
        return torch.cat(turned)


def quarter_turns(dims: int, pair: Pair, count: int) -> Rotation:
    """As many counter-clockwise quarter turns in the plane of two axes, as `torch.rot90(image, count, pair)`.

    Args:
        dims: 2 or 3.
        pair: of axes.
        count: 0 to 3.
    """
    first, second = pair
    order = list(range(dims))
    if count % 2:
        order[first], order[second] = second, first
    backwards: dict[int, tuple[int, ...]] = {0: (), 1: (first,), 2: (first, second), 3: (second,)}
    return Rotation(tuple(order), backwards[count])


def cube_rotations() -> tuple[Rotation, ...]:
    """All 24 rotations of a cube, the identity first."""
    found = []
    for order in permutations(range(3)):
        inversions = sum(order[a] > order[b] for a, b in combinations(range(3), 2))
        for signs in product((1, -1), repeat=3):
            if (-1) ** inversions * prod(signs) == 1:
                backwards = tuple(axis for axis, sign in enumerate(signs) if sign < 0)
                found.append(Rotation(order, backwards))
    return tuple(found)


def choose_rotations(
    name: str, spacing_mm: Sequence[float], native_mm: Sequence[float] | None = None, *, never: Sequence[Pair] = ()
) -> RotationSet:
    """A set of rotations that the spacing does not give away.

    Args:
        name: one of `SETS`, or "auto": for planes quarter4, for volumes axis10, axial4 in the plane of the two finest
            axes that are alike, and half2 or half4 where no two are.
        spacing_mm: of the images that the network sees, along each of its axes.
        native_mm: of the files, along the same axes; by default the same.
        never: pairs of axes that "auto" does not exchange, whatever their spacing.

    Raises:
        ValueError: an unknown set, or one that exchanges axes of different spacing; it names the axes.
    """
    dims = len(spacing_mm)
    files = spacing_mm if native_mm is None else native_mm
    accepted = SETS[dims]
    if name not in (AUTO, *accepted):
        kind = "planes" if dims == 2 else "volumes"
        raise ValueError(f"rotations {name!r} is not known for {kind}; one of {', '.join((AUTO, *accepted))}")
    pairs = [pair for pair in combinations(range(dims), 2) if _are_alike(pair, spacing_mm, files)]
    pairs.sort(key=lambda pair: spacing_mm[pair[0]] * spacing_mm[pair[1]])
    everything = list(combinations(range(dims), 2))
    if name == AUTO:
        pairs = [pair for pair in pairs if pair not in never]
        name = _largest_set(dims, len(pairs))
    wanted = [] if name.startswith("half") else everything
    if name == "axial4":
        wanted = pairs[:1] or everything[:1]
    for pair in wanted:
        if pair not in pairs:
            raise ValueError(_unequal(name, pair, spacing_mm, files, dims))
    return _make_set(name, dims, wanted)


def _largest_set(dims: int, alike: int) -> str:
    if dims == 2:
        return "quarter4" if alike else "half2"
    if alike == 3:
        return "axis10"
    return "axial4" if alike else "half4"


def _make_set(name: str, dims: int, pairs: Sequence[Pair]) -> RotationSet:
    exchanged = tuple(sorted({axis for pair in pairs for axis in pair}))
    if name == "cube24":
        return RotationSet(name, cube_rotations(), exchanged)
    found = [Rotation(tuple(range(dims)))]
    for pair in pairs or combinations(range(dims), 2):
        counts = (1, 2, 3) if pairs else (2,)
        found += [quarter_turns(dims, pair, count) for count in counts]
    return RotationSet(name, tuple(found), exchanged)


def _are_alike(pair: Pair, *spacings: Sequence[float]) -> bool:
    for spacing in spacings:
        lengths = [spacing[axis] for axis in pair]
        if max(lengths) > min(lengths) * (1 + SPACING_TOLERANCE):
            return False
    return True


def _unequal(name: str, pair: Pair, spacing_mm: Sequence[float], native_mm: Sequence[float], dims: int) -> str:
    where = "" if not _are_alike(pair, spacing_mm) else " of the files"
    spacing = native_mm if where else spacing_mm
    lengths = " and ".join(f"{spacing[axis]:g}" for axis in pair)
    axes = " and ".join(str(axis) for axis in pair)
    return (
        f"rotations {name} exchanges the axes {axes} of the network, whose spacing{where} is {lengths} mm: it would "
        f"give the answer away; accepted is {'half2' if dims == 2 else 'axial4 of two that are alike, or half4'}, "
        f"or {AUTO}"
    )
