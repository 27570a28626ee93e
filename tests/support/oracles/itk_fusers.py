"""SimpleITK's own STAPLE, multi-label STAPLE and voting, which ours are compared with.

They know no missing annotation: every voxel of every map is a vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

UNDECIDED = 255
"""What the filters write where the vote is tied."""


@dataclass(frozen=True, eq=False)
class ItkStaple:
    """SimpleITK's STAPLE of one class against all others.

    Args:
        truth: probability of the class at each voxel, in the shape of the maps.
        sensitivity: `(R,)`.
        specificity: `(R,)`.
        iterations: as the filter counts them.
    """

    truth: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray
    iterations: int


def itk_staple(masks: Sequence[np.ndarray]) -> ItkStaple:
    """STAPLE of masks of 0 and 1."""
    tool = sitk.STAPLEImageFilter()
    truth = sitk.GetArrayFromImage(tool.Execute(_images(masks)))
    sensitivity, specificity = np.array(tool.GetSensitivity()), np.array(tool.GetSpecificity())
    return ItkStaple(truth, sensitivity, specificity, tool.GetElapsedIterations())


def itk_multilabel_staple(
    labels: Sequence[np.ndarray], classes: int, iterations: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Multi-label STAPLE: its labels, and `(R, K + 1, K)` its confusion matrices, one row per vote.

    Args:
        labels: one map of class indices per rater.
        classes: K.
        iterations: at most; 0 gives the matrices that the filter starts from, None is its own default.
    """
    tool = sitk.MultiLabelSTAPLEImageFilter()
    if iterations is not None:
        tool.SetMaximumNumberOfIterations(iterations)
    fused = sitk.GetArrayFromImage(tool.Execute(_images(labels)))
    matrices = [np.reshape(tool.GetConfusionMatrix(r), (classes + 1, classes)) for r in range(len(labels))]
    return fused, np.array(matrices)


def itk_voting(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Label voting; `UNDECIDED` where the vote is tied."""
    tool = sitk.LabelVotingImageFilter()
    tool.SetLabelForUndecidedPixels(UNDECIDED)
    return sitk.GetArrayFromImage(tool.Execute(_images(labels)))


def _images(arrays: Sequence[np.ndarray]) -> list[sitk.Image]:
    return [sitk.GetImageFromArray(np.ascontiguousarray(array, np.uint8)) for array in arrays]
