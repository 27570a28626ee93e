"""Which case, and which part of it, a sample is: a function of seed, stream and number, never of history.

So the number of loader workers changes nothing, a resumed run goes on with the very sample it stopped
before, and any batch can be made again on its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from medseg.config.pipeline import Sampling
from medseg.data.body_slices import slice_weights
from medseg.data.cached_volume import CachedVolume
from medseg.errors import DataError

_ORDER, _SAMPLE, _TRANSFORMS = 0, 1, 2  # independent families of random numbers per stream


def _generator(seed: int, stream: str, family: int, number: int) -> np.random.Generator:
    entropy = [seed, zlib.crc32(stream.encode()), family, number]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def generator(seed: int, stream: str, number: int) -> np.random.Generator:
    """The random numbers that decide where in its volume sample `number` of a stream lies."""
    return _generator(seed, stream, _SAMPLE, number)


def transform_seed(seed: int, stream: str, number: int) -> list[int]:
    """Of the random transforms of sample `number` of a stream."""
    return [seed, zlib.crc32(stream.encode()), _TRANSFORMS, number]


@lru_cache(maxsize=16)
def _permutation(seed: int, stream: str, epoch: int, cases: int) -> np.ndarray:
    return _generator(seed, stream, _ORDER, epoch).permutation(cases)


def case_of(seed: int, stream: str, number: int, cases: int) -> int:
    """Index of the case of sample `number`: each case once per epoch of `cases` samples, in a new order."""
    epoch, place = divmod(number, cases)
    return int(_permutation(seed, stream, epoch, cases)[place])


class CaseOrder:
    """From which case each sample of a stream is taken.

    Args:
        cases: of the stream.
        sampling: see `config.Sampling`.
        across: the axis across which a planar view cuts; None for volumes.
    """

    def __init__(self, cases: Sequence[CachedVolume], sampling: Sampling, across: int | None) -> None:
        self._groups = [list(range(len(cases)))]
        annotated = [index for index, case in enumerate(cases) if not case.pseudo]
        predicted = [index for index, case in enumerate(cases) if case.pseudo]
        if sampling == "half" and annotated and predicted:
            self._groups = [annotated, predicted]
        self._cumulative: list[np.ndarray] | None = None
        if sampling != "cases" and across is not None:
            weights = np.array([float(slice_weights(case.body, across).sum()) for case in cases])
            self._cumulative = [np.cumsum(weights[group]) for group in self._groups]

    def case(self, seed: int, stream: str, number: int) -> int:
        """Index of the case of sample `number`; two groups of cases alternate."""
        place, which = divmod(number, len(self._groups))
        group = self._groups[which]
        name = stream if len(self._groups) == 1 else f"{stream}/{which}"
        if self._cumulative is None:
            return group[case_of(seed, name, place, len(group))]
        share = _generator(seed, name, _ORDER, place).random()
        return group[_index_at_share(self._cumulative[which], share)]


class TagOrder:
    """From which case each sample is taken where groups of samples are of cases that share a tag.

    Each tag has a group in turn, in a new order every time round. The cases of a group are different ones if so many
    have the tag; whichever are left over when all others had their turn have theirs in the next order.

    Args:
        cases: of the stream.
        classes: number of classes with background.
        group_size: samples of a group.

    Raises:
        DataError: no case has any tag.
    """

    def __init__(self, cases: Sequence[CachedVolume], classes: int, group_size: int) -> None:
        self._group_size = group_size
        self._with_tag: list[list[int]] = []
        present = np.array([case.tags(classes) == 1 for case in cases])
        for column in range(present.shape[1]):
            having = np.flatnonzero(present[:, column]).tolist()
            if having:
                self._with_tag.append(having)
        if not self._with_tag:
            raise DataError("no case has a tag of any class, and groups are made of cases that share one")

    def case(self, seed: int, stream: str, number: int) -> int:
        """Index of the case of sample `number`."""
        group, place = divmod(number, self._group_size)
        turn = group // len(self._with_tag)
        tag = case_of(seed, f"{stream}/tags", group, len(self._with_tag))
        having = self._with_tag[tag]
        groups_per_order = max(1, len(having) // self._group_size)
        epoch, group_in_order = divmod(turn, groups_per_order)
        place_in_order = (group_in_order * self._group_size + place) % len(having)
        return having[case_of(seed, f"{stream}/tag{tag}", epoch * len(having) + place_in_order, len(having))]


def start_of(
    volume: CachedVolume,
    patch: Sequence[int],
    rng: np.random.Generator,
    *,
    foreground: float = 0.0,
    labelled: bool = False,
    across: int | None = None,
    in_the_middle: bool = False,
) -> tuple[int, int, int]:
    """First voxel of a random patch.

    With probability `foreground` the patch is centred on a random voxel of a class taken uniformly from
    those present (background apart), as far as it stays within the volume. Otherwise every position is
    equally likely or, in a volume of which only a part is annotated, the patch is centred on a random voxel of
    that part. Along an axis that is shorter than the patch the volume lies anywhere within the patch. Slices
    without the body are seldom taken where a plane cuts.

    Args:
        volume: to cut from.
        patch: voxels of the patch, before it is rotated.
        rng: of the sample.
        foreground: share of patches that are centred on a class.
        labelled: False never looks at what the volume's label holds.
        across: the axis across which a planar view cuts, along which the patch has one voxel.
        in_the_middle: see `_ends`.
    """
    low, high = _ends(volume, patch, in_the_middle)
    # each sample takes the same random numbers, whatever comes of them
    start, on_a_class = _first_numbers(volume, patch, rng, foreground, in_the_middle)
    share_of_classes, share_of_voxels = rng.random(), rng.random()
    if across is not None:
        cumulative = np.cumsum(slice_weights(volume.body, across))
        start[across] = _index_at_share(cumulative, rng.random())
    centres = _possible_centres(volume, on_a_class, share_of_classes) if labelled else None
    if centres is not None:
        centre = centres[int(share_of_voxels * len(centres))]
        start = np.clip(centre - np.asarray(patch) // 2, low, high)
    x, y, z = start.tolist()
    return x, y, z


def is_centred(
    volume: CachedVolume,
    patch: Sequence[int],
    rng: np.random.Generator,
    *,
    foreground: float,
    in_the_middle: bool = False,
) -> bool:
    """Whether `start_of` centres the patch of a labelled stream on a class, of the same arguments."""
    _, on_a_class = _first_numbers(volume, patch, rng, foreground, in_the_middle)
    return on_a_class and bool(volume.foreground)


def _first_numbers(
    volume: CachedVolume, patch: Sequence[int], rng: np.random.Generator, foreground: float, in_the_middle: bool
) -> tuple[np.ndarray, bool]:
    """A place of the patch that is as likely as any other, and whether it is to be centred on a class instead."""
    low, high = _ends(volume, patch, in_the_middle)
    return rng.integers(low, high + 1), bool(rng.random() < foreground)


MARGIN = 3
"""Voxels on either side that DTC's authors pad a volume by beyond the patch."""


def _ends(volume: CachedVolume, patch: Sequence[int], in_the_middle: bool) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest first voxel of a patch along each axis.

    Args:
        volume: to cut from.
        patch: voxels along each axis.
        in_the_middle: as DTC's authors do it: a volume that is not larger than the patch along some axis is first
            padded along every axis on both sides by half of what is missing and `MARGIN` voxels. Along a shorter axis
            it then lies within `MARGIN` voxels of the middle of the patch.
    """
    ends = np.subtract(volume.shape, patch)
    if not in_the_middle:
        return np.minimum(ends, 0), np.maximum(ends, 0)
    if (ends > 0).all():
        return np.zeros(3, int), ends
    before = np.maximum(-ends // 2 + MARGIN, 0)
    return -before, ends + before


def _possible_centres(volume: CachedVolume, on_a_class: bool, share: float) -> np.ndarray | None:
    """Voxels `(n, 3)` on which a patch may be centred: those of one class, or of the annotated part; None: anywhere."""
    if on_a_class:
        classes = list(volume.foreground.values())
        if classes:
            return classes[int(share * len(classes))]
    return volume.annotated


def _index_at_share(cumulative: np.ndarray, share: float) -> int:
    """Index of the item that a share of the sum of all weights falls on.

    Args:
        cumulative: sums of the weights of each item and all before it.
        share: from 0 to 1.
    """
    index = int(np.searchsorted(cumulative, share * cumulative[-1], side="right"))
    return min(index, len(cumulative) - 1)
