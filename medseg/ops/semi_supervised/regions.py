"""Connected components and whole images as samples of self-training, and how confident a network is of each."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.special import expit


def samples_of_class(
    labels: np.ndarray,
    log_odds: np.ndarray,
    value: int,
    *,
    classes: int,
    unit: Literal["voxel", "region", "image"],
    smallest: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The samples of a class in one case, and how confident a network is of each.

    Args:
        labels: class indices, `(X, Y, Z)`.
        log_odds: of each voxel's label, float16.
        value: index of the class.
        classes: number of classes.
        unit: what a sample is: a voxel, a connected component, or the image as a whole.
        smallest: voxels that a component has at least.

    Returns:
        For each voxel 1 + the number of its sample, 0 where none is; and log-odds of the samples `(n,)` float16.
    """
    if unit == "image":
        return whole_image(labels, log_odds, value, classes)
    where = labels == value
    if unit == "region":
        places, count = large_components(where, smallest)
        return places, mean_confidence(log_odds, places, count)
    places = np.zeros(labels.shape, np.int64)
    places[where] = np.arange(1, int(where.sum()) + 1)
    return places, log_odds[where]


def large_components(mask: np.ndarray, smallest: int) -> tuple[np.ndarray, int]:
    """Connected components, diagonals too, that are large enough.

    Args:
        mask: `(X, Y, Z)` bool.
        smallest: voxels that a component has at least.

    Returns:
        For each voxel the number of its component, from 1, or 0; and how many there are.
    """
    components, count = ndimage.label(mask, structure=np.ones([3] * mask.ndim))
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    large = 1 + np.flatnonzero(sizes[1:] >= smallest)
    numbers = np.zeros(count + 1, np.int64)
    numbers[large] = np.arange(1, len(large) + 1)
    return numbers[components], len(large)


def mean_confidence(log_odds: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Mean probability over each component, as log-odds again, which tell apart what is nearly certain.

    Args:
        log_odds: of each voxel's label, `(X, Y, Z)`.
        places: number of each voxel's component, from 1; 0: none.
        count: of components.

    Returns:
        `(count,)` float16.
    """
    inside = places > 0
    numbers, odds = places[inside], log_odds[inside].astype(np.float64)
    sure = np.bincount(numbers, expit(odds), count + 1)[1:]
    unsure = np.bincount(numbers, expit(-odds), count + 1)[1:]
    return (np.log(sure) - np.log(np.maximum(unsure, 1e-300))).astype(np.float16)


def whole_image(labels: np.ndarray, log_odds: np.ndarray, value: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """An image as the only sample of the class that most of its voxels have.

    Args:
        labels: class indices, `(X, Y, Z)`.
        log_odds: of each voxel's label.
        value: index of the class.
        classes: number of classes.

    Returns:
        1 for each voxel, and the mean confidence of those of the class, `(1,)` float16; of another class 0, and `(0,)`.
    """
    if int(np.bincount(labels.ravel(), minlength=classes).argmax()) != value:
        return np.zeros(labels.shape, np.int64), np.empty(0, np.float16)
    return np.ones(labels.shape, np.int64), mean_confidence(log_odds, (labels == value).astype(np.int64), 1)
