"""The case and the place of each training sample: a function of seed, stream and number, never of history.

So the number of loader workers changes nothing, a resumed run goes on with the very sample it stopped
before, and any batch can be made again on its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from medseg.config import Sampling
from medseg.data.body_slices import slice_weights
from medseg.data.cached_volume import CachedVolume

_ORDER, _SAMPLE, _TRANSFORMS = 0, 1, 2  # independent families of random numbers per stream


def _generator(seed: int, stream: str, family: int, number: int) -> np.random.Generator:
    entropy = [seed, zlib.crc32(stream.encode()), family, number]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def generator(seed: int, stream: str, number: int) -> np.random.Generator:
    """The random numbers by which the place of sample `number` of a stream is chosen."""
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


class CaseSampler:
    """Chooses the case of each sample of a stream.

    Args:
        cases: of the stream.
        sampling: see `config.Sampling`.
        across: the axis across which a planar view cuts; None for volumes.
    """

    def __init__(self, cases: Sequence[CachedVolume], sampling: Sampling, across: int | None) -> None:
        self._groups = [list(range(len(cases)))]
        if sampling == "half":
            annotated = [i for i, case in enumerate(cases) if not case.pseudo]
            pseudo = [i for i, case in enumerate(cases) if case.pseudo]
            if annotated and pseudo:
                self._groups = [annotated, pseudo]
        self._cumulative_weights: list[np.ndarray] | None = None
        if sampling != "cases" and across is not None:
            weights = np.array([float(slice_weights(case.body, across).sum()) for case in cases])
            self._cumulative_weights = [np.cumsum(weights[group]) for group in self._groups]

    def case(self, seed: int, stream: str, number: int) -> int:
        """Index of the case of sample `number`; of two groups, samples are of the one and the other alternately."""
        place, which = divmod(number, len(self._groups))
        group = self._groups[which]
        name = stream if len(self._groups) == 1 else f"{stream}/{which}"
        if self._cumulative_weights is None:
            return group[case_of(seed, name, place, len(group))]
        u = _generator(seed, name, _ORDER, place).random()
        return group[_weighed(self._cumulative_weights[which], u)]


def start_of(
    volume: CachedVolume,
    patch: Sequence[int],
    rng: np.random.Generator,
    *,
    foreground: float = 0.0,
    labelled: bool = False,
    across: int | None = None,
) -> tuple[int, int, int]:
    """First voxel of a random patch.

    With probability `foreground` the patch is centred on a random voxel of a class drawn uniformly from
    those present (background apart), as far as it stays within the volume. Otherwise every position is
    equally likely or, in a volume of which only a part was annotated, the patch is centred on a random voxel of
    that part. Along an axis that is shorter than the patch the volume lies anywhere within the patch. Slices
    without the body are seldom taken where a plane cuts.

    Args:
        volume: to cut from.
        patch: voxels of the patch, before it is turned.
        rng: of the sample.
        foreground: share of patches that are centred on a class.
        labelled: False never looks at what is known of the label.
        across: the axis across which a planar view cuts, along which the patch has one voxel.
    """
    ends = np.subtract(volume.shape, patch)
    low, high = np.minimum(ends, 0), np.maximum(ends, 0)
    anywhere = rng.integers(low, high + 1)
    centred, group, place = rng.random() < foreground, rng.random(), rng.random()
    candidates: np.ndarray | None = None
    if labelled:
        classes = volume.foreground if centred else {}
        candidates = _pick(list(classes.values()), group) if classes else volume.annotated
    if across is not None:
        anywhere[across] = _weighed(np.cumsum(slice_weights(volume.body, across)), rng.random())
    start = anywhere
    if candidates is not None:
        start = np.clip(_pick(candidates, place) - np.asarray(patch) // 2, low, high)
    x, y, z = start.tolist()
    return x, y, z


def _weighed(rising: np.ndarray, u: float) -> int:
    """Index of the item that a fraction of the sum of all weights falls on."""
    return min(int(np.searchsorted(rising, u * rising[-1], side="right")), len(rising) - 1)


def _pick(items: Sequence | np.ndarray, u: float) -> np.ndarray:
    """The item at a fraction of a sequence."""
    return items[int(u * len(items))]
