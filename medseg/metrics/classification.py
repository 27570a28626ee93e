"""How well the classes of whole images are found, one vote for each image; no torch.

    accuracy           share of the images whose class is found
    recall of a class  share of the images of the class that are given it
    precision          share of the images that are given the class that are of it
    balanced accuracy  mean of the recalls over the classes that occur among the true ones

Balanced accuracy: K. H. Brodersen, C. S. Ong, K. E. Stephan, J. M. Buhmann, The Balanced Accuracy and Its Posterior
Distribution, ICPR 2010.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

import numpy as np


@dataclass(frozen=True)
class ImageMetric:
    """A score of the classes of images, as tables show it.

    Args:
        name: of the score of one class.
        definition: a phrase.
        heading: of the column with its mean over the classes.
    """

    name: str
    definition: str
    heading: str

    def text(self, value: float | None) -> str:
        """A value with three digits."""
        return "-" if value is None else f"{value:.3f}"


IMAGE_METRICS = {
    "recall": ImageMetric(
        "recall", "mean over the classes of the share of its images that are found", "balanced accuracy"
    ),
    "precision": ImageMetric(
        "precision", "mean over the classes of the share of the images given it that are of it", "mean precision"
    ),
}


@dataclass(frozen=True)
class ClassScores:
    """Scores of a set of images.

    Args:
        images: of each class, how many are of it.
        predicted: of each class, how many are given it.
        recalls: of each class; None where no image is of it.
        precisions: of each class; None where no image is given it.
        accuracy: None without an image.
        balanced_accuracy: None without an image.
    """

    images: tuple[int, ...]
    predicted: tuple[int, ...]
    recalls: tuple[float | None, ...]
    precisions: tuple[float | None, ...]
    accuracy: float | None
    balanced_accuracy: float | None


def scores_of_table(table: np.ndarray) -> ClassScores:
    """Scores of a table of counts.

    Args:
        table: `(classes, classes)` or `(classes, classes + 1)`: images of the class of the row that are given the class
            of the column; the last column of the second form counts those that are given none.

    Examples:
        Three images of the first class, of which two are found, and one of the second, which is found.

        >>> found = scores_of_table(np.array([[2, 1], [0, 1]]))
        >>> found.accuracy, round(found.balanced_accuracy, 4), found.precisions
        (0.75, 0.8333, (1.0, 0.5))
    """
    right = np.diagonal(table)
    images, predicted = table.sum(1), table.sum(0)[: len(table)]
    recalls = _shares(right, images)
    occurring = [recall for recall in recalls if recall is not None]
    return ClassScores(
        tuple(int(count) for count in images),
        tuple(int(count) for count in predicted),
        recalls,
        _shares(right, predicted),
        float(right.sum() / images.sum()) if images.sum() else None,
        mean(occurring) if occurring else None,
    )


def _shares(parts: np.ndarray, wholes: np.ndarray) -> tuple[float | None, ...]:
    found: list[float | None] = []
    for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True):
        found.append(part / whole if whole else None)
    return tuple(found)
