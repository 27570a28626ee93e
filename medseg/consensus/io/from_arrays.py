"""A study from arrays: any label values, any missing value, masks and probabilities, with or without channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medseg.consensus.io.label_values import Values, distinct, indices, integers
from medseg.consensus.study import MISSING, Rater, Study
from medseg.errors import ConfigError, DataError

Regions = Sequence[np.ndarray | None] | Mapping[str, np.ndarray]

_SUM = 1e-3
"""Probabilities may so much exceed 1, or not sum to it, by rounding."""
_NOTHING = 1e-6
"""Probabilities that sum to less say that nothing was annotated."""


def study_of(
    image: np.ndarray | None,
    annotations: Sequence[np.ndarray],
    *,
    spacing_mm: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    missing: int | None = MISSING,
    regions: Regions | None = None,
    nan: str | None = None,
) -> tuple[Study, Values, list[str]]:
    """A study from arrays; see `medseg.consensus.fuse.fuse` for what they may be.

    Returns:
        study: in class indices.
        values: to spell the answer.
        notes: what was strange.
    """
    if missing == 0:
        raise ConfigError("missing=0: 0 is the background, and seen and found empty is not the same as not annotated")
    given = [np.asarray(a) for a in annotations]
    titles = _names(names, len(given))
    picture = None if image is None else np.asarray(image)
    grid = _grid(picture, given, titles)
    hard = {t: integers(a, t) for t, a in zip(titles, given, strict=True) if a.shape == grid}
    channels = max((len(a) for a in given if a.shape != grid), default=1)
    values, notes = _values(hard, channels, missing), list[str]()
    raters = []
    for title, array in zip(titles, given, strict=True):
        if title in hard:
            labels, soft = indices(hard.pop(title), values, missing), None
        else:
            labels, soft = _probabilities(array, title, len(values), notes)
        raters.append(_within(Rater(title, labels, soft), _region(regions, titles, title), grid))
    _check_reserved(raters, values, missing, notes)
    dtype = np.result_type(*([a.dtype for a in given if a.shape == grid] or [np.dtype(np.uint8)]))
    classes = ("background", *(str(v) for v in values[1:]))
    study = Study(tuple(raters), classes, _spacing(spacing_mm, grid), _channels(picture, grid, nan))
    return study, Values(values, missing, dtype, grid), notes


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    if not count:
        raise DataError("no annotation is given; at least one is needed")
    if count > MISSING:
        raise DataError(f"{count} raters; at most {MISSING} are possible")
    titles = [f"rater{n + 1}" for n in range(count)] if names is None else [str(name) for name in names]
    if len(titles) != count or len(set(titles)) != count:
        raise ConfigError(f"names {', '.join(titles)}: {count} different ones are wanted, one per annotation")
    return titles


def _spacing(spacing_mm: Sequence[float] | None, grid: Sequence[int]) -> tuple[float, float, float]:
    spacing = [1.0] * len(grid) if spacing_mm is None else [float(mm) for mm in spacing_mm]
    if len(spacing) != len(grid) or not all(0 < mm < np.inf for mm in spacing):
        raise ConfigError(f"spacing {tuple(spacing)}: {len(grid)} numbers > 0 are wanted, in mm")
    x, y, z = [*spacing, *[1.0] * (3 - len(spacing))]
    return x, y, z


def _grid(image: np.ndarray | None, given: Sequence[np.ndarray], titles: Sequence[str]) -> tuple[int, ...]:
    """Shape of the grid, after checking that everything lies on it."""
    if image is None:
        whole = [a.shape for a in given if a.ndim == 2 or (a.ndim == 3 and a.dtype.kind != "f")]
        candidates = [*whole, given[0].shape, given[0].shape[1:]]
    else:
        candidates = [image.shape, image.shape[1:]] + ([image.shape[:2]] if image.shape[2:] == (3,) else [])
    fitting = [c for c in candidates if len(c) in (2, 3) and any(c in (a.shape, a.shape[1:]) for a in given)]
    if not fitting:
        problem = f"the image has size {_size(getattr(image, 'shape', ()))}, {titles[0]} {_size(given[0].shape)}"
        raise DataError(problem, hint="give one channel or one frame, or put the channels first")
    for title, array in zip(titles, given, strict=True):
        if array.shape != fitting[0] and not (array.dtype.kind == "f" and array.shape[1:] == fitting[0]):
            whose = "the image" if image is not None else titles[0]
            raise DataError(f"{title} has size {_size(array.shape)}, {whose} {_size(fitting[0])}; they must be equal")
    return fitting[0]


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _values(hard: Mapping[str, np.ndarray], channels: int, missing: int | None) -> np.ndarray:
    """All label values, 0 first; channels of probabilities count from 0."""
    found = {v for array in hard.values() for v in distinct(array)} - {missing}
    if missing is not None and 0 <= missing < channels:
        raise DataError(f"value {missing} means not annotated and is a class of the probabilities; change `missing`")
    values = [0, *sorted((found | set(range(channels))) - {0})]
    if len(values) > MISSING:
        raise DataError(f"{len(values)} label values; at most {MISSING} are possible, with the background")
    return np.array(values, np.int64)


def _probabilities(array: np.ndarray, title: str, classes: int, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """First maxima and `(K, X, Y, Z)` float32 that sum to 1, or to 0 where nothing was annotated."""
    if not np.isfinite(array).all() or array.min() < -_SUM or array.max() > 1 + _SUM:
        raise DataError(f"{title} holds probabilities outside 0 to 1, or NaN", hint="apply a softmax first")
    soft = np.zeros((classes, *array.shape[1:], *[1] * (4 - array.ndim)), np.float32)
    soft[: len(array)] = np.clip(array, 0, 1).reshape(len(array), *soft.shape[1:])
    total = soft.sum(axis=0)
    given = total >= _NOTHING
    worst = float(np.abs(total[given] - 1).max(initial=0))
    if worst > _SUM:
        notes.append(f"{title}: probabilities sum to 1 with a deviation of up to {worst:.2g}; they were scaled")
    soft = np.divide(soft, total, out=np.zeros_like(soft), where=given)
    return np.where(given, soft.argmax(axis=0), MISSING).astype(np.uint8), soft


def _region(regions: Regions | None, titles: Sequence[str], title: str) -> np.ndarray | None:
    if regions is None:
        return None
    if isinstance(regions, Mapping):
        strangers = sorted(set(regions) - set(titles))
        if strangers:
            raise ConfigError(f"regions of {', '.join(strangers)}; the raters are {', '.join(titles)}")
        return regions.get(title)
    if len(regions) != len(titles):
        raise ConfigError(f"{len(regions)} regions for {len(titles)} raters; one each, or None")
    return regions[titles.index(title)]


def _within(rater: Rater, region: np.ndarray | None, grid: Sequence[int]) -> Rater:
    """The rater, silent outside of the region that he annotated."""
    if region is None:
        return rater
    inside = np.asarray(region)
    if inside.shape != tuple(grid):
        raise DataError(f"the region of {rater.name} has size {_size(inside.shape)}, he {_size(grid)}")
    inside = (inside != 0).reshape(rater.labels.shape)
    labels = np.where(inside, rater.labels, np.uint8(MISSING))
    soft = rater.probabilities
    return replace(rater, labels=labels, probabilities=None if soft is None else soft * inside)


def _check_reserved(raters: Sequence[Rater], values: np.ndarray, missing: int | None, notes: list[str]) -> None:
    """Masks coded 0 and 255 would silently become empty ones with gaps."""
    suspects = []
    for rater in raters:
        low, high = int(rater.labels.min()), int(rater.labels.max())
        if low == 0 and high == MISSING and not ((rater.labels > 0) & (rater.labels < MISSING)).any():
            suspects.append(rater.name)
    told = f"nothing but 0 and {missing}, and {missing} means not annotated"
    if suspects and len(values) == 1:
        raise DataError(f"{', '.join(suspects)}: {told}; if it is the structure, say missing=None")
    notes += [f"{name} holds {told}; if it is the structure, recode it" for name in suspects]


def _channels(image: np.ndarray | None, grid: tuple[int, ...], nan: str | None) -> np.ndarray | None:
    """`(C, X, Y, Z)` float32."""
    if nan not in (None, "zero"):
        raise ConfigError(f"nan={nan!r}; None (an error) and 'zero' are offered")
    if image is None:
        return None
    if image.dtype.kind not in "biuf":
        raise DataError(f"the image holds {image.dtype}; real numbers are wanted")
    if image.shape == grid:
        image = image[None]
    elif image.shape[1:] != grid:
        image = np.moveaxis(image, -1, 0)
    volume = image.astype(np.float32).reshape(len(image), *grid, *[1] * (3 - len(grid)))
    if not np.isfinite([volume.min(), volume.max()]).all():
        bad = ~np.isfinite(volume)
        if nan is None:
            raise DataError(f"the image has {int(bad.sum())} voxels that are NaN or infinite; nan='zero' replaces them")
        volume[bad] = 0
    return volume
