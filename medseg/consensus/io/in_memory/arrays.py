"""A study from arrays: any label values, any missing value, masks and probabilities, with or without channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medseg.consensus.io.annotations.left_out import ask_for_structures
from medseg.consensus.io.annotations.surroundings import leave_out_surroundings
from medseg.consensus.io.in_memory.label_values import Values, as_integers, find_values, to_class_indices
from medseg.consensus.study import MISSING, Rater, Study
from medseg.errors import ConfigError, DataError

Regions = Sequence[np.ndarray | None] | Mapping[str, np.ndarray]

_SUM = 1e-3
"""Probabilities may so much exceed 1, or not sum to it, by rounding."""
_NOTHING = 1e-6
"""Probabilities that sum to less say that nothing was annotated."""


def study_from_arrays(
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

    Raises:
        DataError: arrays of different sizes, or numbers that are no labels and no probabilities.
        ConfigError: names, regions, spacing or a missing value that do not fit.
    """
    if missing == 0:
        raise ConfigError("missing=0: 0 is the background, and seen and found empty is not the same as not annotated")
    arrays = [np.asarray(annotation) for annotation in annotations]
    rater_names = _resolve_names(names, len(arrays))
    pixels = None if image is None else np.asarray(image)
    grid = _find_grid(pixels, arrays, rater_names)
    label_maps = [array for array in arrays if array.shape == grid]
    integer_maps: dict[str, np.ndarray] = {}
    channels = 1
    for name, array in zip(rater_names, arrays, strict=True):
        if array.shape == grid:
            integer_maps[name] = as_integers(array, name)
        else:
            channels = max(channels, len(array))
    values = _list_values(integer_maps, channels, missing)
    notes: list[str] = []
    raters: list[Rater] = []
    for name, array in zip(rater_names, arrays, strict=True):
        if name in integer_maps:
            # taken out of the dictionary, so that not all of them lie in memory twice
            rater = Rater(name, to_class_indices(integer_maps.pop(name), values, missing))
        else:
            labels, probabilities = _read_probabilities(array, name, len(values), notes)
            rater = Rater(name, labels, probabilities)
        raters.append(rater)
    notes += ask_for_structures(raters, missing, "missing=None")
    raters = [_limit_to_region(rater, _find_region(regions, rater_names, rater.name), grid) for rater in raters]
    _check_reserved(raters, values, missing, notes)
    dtype = np.result_type(*(array.dtype for array in label_maps)) if label_maps else np.dtype(np.uint8)
    classes = ("background", *(str(value) for value in values[1:]))
    raters, left_out = leave_out_surroundings(raters, classes)
    notes += left_out
    study = Study(tuple(raters), classes, _resolve_spacing(spacing_mm, grid), _read_channels(pixels, grid, nan))
    return study, Values(values, missing, dtype, grid), notes


def _resolve_names(names: Sequence[str] | None, count: int) -> list[str]:
    if not count:
        raise DataError("no annotation is given; at least one is needed")
    if count > MISSING:
        raise DataError(f"{count} raters; at most {MISSING} are possible")
    if names is None:
        return [f"rater{n}" for n in range(1, count + 1)]
    given = [str(name) for name in names]
    if not all(name.strip() for name in given):
        raise ConfigError(f"names {', '.join(map(repr, given))}: each of at least one letter or digit is wanted")
    if len(given) != count or len(set(given)) != count:
        raise ConfigError(f"names {', '.join(given)}: {count} different ones are wanted, one per annotation")
    return given


def _resolve_spacing(spacing_mm: Sequence[float] | None, grid: Sequence[int]) -> tuple[float, float, float]:
    """Spacing of the three axes of a study; of an axis that the image does not have 1 mm."""
    spacing = [1.0] * len(grid)
    if spacing_mm is not None:
        spacing = [float(mm) for mm in spacing_mm]
    if len(spacing) != len(grid) or not all(0 < mm < np.inf for mm in spacing):
        raise ConfigError(f"spacing {tuple(spacing)}: {len(grid)} numbers > 0 are wanted, in mm")
    without = [1.0] * (3 - len(spacing))
    x, y, z = [*spacing, *without]
    return x, y, z


def _find_grid(image: np.ndarray | None, annotations: Sequence[np.ndarray], names: Sequence[str]) -> tuple[int, ...]:
    """Shape of the grid, after checking that everything lies on it."""
    first = annotations[0]
    shapes = {array.shape for array in annotations} | {array.shape[1:] for array in annotations}
    candidates = _grids_without_image(annotations) if image is None else _grids_of_image(image)
    fitting = [shape for shape in candidates if len(shape) in (2, 3) and shape in shapes]
    if not fitting:
        problem = f"the image has size {_size(getattr(image, 'shape', ()))}, {names[0]} {_size(first.shape)}"
        raise DataError(problem, hint="give one channel or one frame, or put the channels first")
    grid = fitting[0]
    whose = names[0] if image is None else "the image"
    for name, array in zip(names, annotations, strict=True):
        is_probabilities = array.dtype.kind == "f" and array.shape[1:] == grid
        if array.shape != grid and not is_probabilities:
            raise DataError(f"{name} has size {_size(array.shape)}, {whose} {_size(grid)}; they must be equal")
    return grid


def _grids_of_image(image: np.ndarray) -> list[tuple[int, ...]]:
    """Shapes that an image may have the grid of: without channels, with channels first, with colours last."""
    shapes = [image.shape, image.shape[1:]]
    if image.shape[2:] == (3,):
        shapes.append(image.shape[:2])
    return shapes


def _grids_without_image(annotations: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
    """Shapes that annotations may have the grid of: those of label maps first, then without the first axis."""
    label_maps = []
    for array in annotations:
        if array.ndim == 2 or (array.ndim == 3 and array.dtype.kind != "f"):
            label_maps.append(array.shape)
    first = annotations[0].shape
    return [*label_maps, first, first[1:]]


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _list_values(label_maps: Mapping[str, np.ndarray], channels: int, missing: int | None) -> np.ndarray:
    """All label values, 0 first; channels of probabilities count from 0."""
    if missing is not None and 0 <= missing < channels:
        raise DataError(f"value {missing} means not annotated and is a class of the probabilities; change `missing`")
    found = set(range(channels))
    for array in label_maps.values():
        found.update(find_values(array))
    values = [0, *sorted(found - {0, missing})]
    if len(values) > MISSING:
        raise DataError(f"{len(values)} label values; at most {MISSING} are possible, with the background")
    return np.array(values, np.int64)


def _read_probabilities(array: np.ndarray, name: str, classes: int, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """First maxima and `(K, X, Y, Z)` float32 that sum to 1, or to 0 where nothing was annotated."""
    if not np.isfinite(array).all() or array.min() < -_SUM or array.max() > 1 + _SUM:
        raise DataError(f"{name} holds probabilities outside 0 to 1, or NaN", hint="apply a softmax first")
    grid = _with_three_axes(array.shape[1:])
    probabilities = np.zeros((classes, *grid), np.float32)
    probabilities[: len(array)] = np.clip(array, 0, 1).reshape(len(array), *grid)
    total = probabilities.sum(axis=0)
    is_given = total >= _NOTHING
    worst = float(np.abs(total[is_given] - 1).max(initial=0))
    if worst > _SUM:
        notes.append(f"{name}: probabilities sum to 1 with a deviation of up to {worst:.2g}; they were scaled")
    probabilities = np.divide(probabilities, total, out=np.zeros_like(probabilities), where=is_given)
    labels = np.where(is_given, probabilities.argmax(axis=0), MISSING).astype(np.uint8)
    return labels, probabilities


def _with_three_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of two or three axes as one of three; a 2D image has one slice."""
    return (*shape, *[1] * (3 - len(shape)))


def _find_region(regions: Regions | None, names: Sequence[str], name: str) -> np.ndarray | None:
    """The mask of what a rater annotated; None for everything."""
    if regions is None:
        return None
    if isinstance(regions, Mapping):
        strangers = sorted(set(regions) - set(names))
        if strangers:
            raise ConfigError(f"regions of {', '.join(strangers)}; the raters are {', '.join(names)}")
        return regions.get(name)
    if len(regions) != len(names):
        raise ConfigError(f"{len(regions)} regions for {len(names)} raters; one each, or None")
    return regions[names.index(name)]


def _limit_to_region(rater: Rater, region: np.ndarray | None, grid: Sequence[int]) -> Rater:
    """The rater, who annotated nothing outside of the region."""
    if region is None:
        return rater
    mask = np.asarray(region)
    if mask.shape != tuple(grid):
        problem = f"the region of {rater.name} has size {_size(mask.shape)}, the annotation {_size(grid)}"
        raise DataError(problem)
    inside = (mask != 0).reshape(rater.labels.shape)
    labels = np.where(inside, rater.labels, np.uint8(MISSING))
    if rater.probabilities is None:
        return replace(rater, labels=labels)
    return replace(rater, labels=labels, probabilities=rater.probabilities * inside)


def _check_reserved(raters: Sequence[Rater], values: np.ndarray, missing: int | None, notes: list[str]) -> None:
    """Refuse, or note, masks coded 0 and 255, which would silently become empty ones with gaps."""
    suspects = []
    for rater in raters:
        low, high = int(rater.labels.min()), int(rater.labels.max())
        has_class = ((rater.labels > 0) & (rater.labels < MISSING)).any()
        if low == 0 and high == MISSING and not has_class:
            suspects.append(rater.name)
    problem = f"nothing but 0 and {missing}, and {missing} means not annotated"
    if suspects and len(values) == 1:
        raise DataError(f"{', '.join(suspects)}: {problem}; if it is the structure, say missing=None")
    notes += [f"{name} holds {problem}; if it is the structure, recode it" for name in suspects]


def _read_channels(image: np.ndarray | None, grid: tuple[int, ...], nan: str | None) -> np.ndarray | None:
    """The image as `(C, X, Y, Z)` float32, finite."""
    if nan not in (None, "zero"):
        raise ConfigError(f"nan={nan!r}; None (an error) and 'zero' are offered")
    if image is None:
        return None
    if image.dtype.kind not in "biuf":
        raise DataError(f"the image holds {image.dtype}; real numbers are wanted")
    if image.shape == grid:
        channels = image[None]
    elif image.shape[1:] == grid:
        channels = image
    else:
        channels = np.moveaxis(image, -1, 0)
    volume = channels.astype(np.float32).reshape(len(channels), *_with_three_axes(grid))
    if not np.isfinite([volume.min(), volume.max()]).all():
        broken = ~np.isfinite(volume)
        if nan is None:
            count = int(broken.sum())
            raise DataError(f"the image has {count} voxels that are NaN or infinite; nan='zero' replaces them")
        volume[broken] = 0
    return volume
