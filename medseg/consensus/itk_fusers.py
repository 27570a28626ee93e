"""SimpleITK's own STAPLE, multi-label STAPLE and voting, as independent oracles.

They know no missing annotation: what a rater left out is background to them, and the facts say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone knows

from medseg.consensus.fusers.fusion_log import Account, present, shares
from medseg.consensus.fusers.shape_based_averaging import agreeing
from medseg.consensus.fusers.staple import trust
from medseg.consensus.fusers.vote_patterns import Patterns, compress
from medseg.consensus.study import MISSING, Fused, Study
from medseg.errors import ConfigError

Undecided = Literal["background", "undecided"]
SLOW_FROM = 10
"""Raters above which multi-label STAPLE is said to be slow."""


def staple_itk(study: Study, *, crop: bool = True) -> Fused:
    """SimpleITK's STAPLE of each class against all others; the likeliest class above 1/2 wins, else background.

    Args:
        study: raters; what they left out counts as background.
        crop: look only at the box of what anybody labelled, with its margin.

    Returns:
        Confidence as in `staple.staple`. Where ITK answers NaN (every rater has the class everywhere) the share
        of the votes stands in, with a warning.
    """
    account = Account("staple", crop=crop)
    patterns, parts = _prepare(account, study, crop)
    best, labels = np.zeros(parts[0].shape), np.zeros(parts[0].shape, np.uint8)
    rows: list[dict[str, Any]] = [{"name": e.name, "sensitivity": {}, "specificity": {}} for e in study.raters]
    account.facts["iterations"] = {}
    for c in (c for c in range(1, patterns.classes) if any((part == c).any() for part in parts)):
        masks, tool, name = [(part == c).astype(np.uint8) for part in parts], sitk.STAPLEImageFilter(), study.classes[c]
        with account.stage("staple"):
            truth = sitk.GetArrayFromImage(tool.Execute(_images(masks)))
        if np.isnan(truth).any():
            account.warn(f"{name}: SimpleITK's STAPLE answers NaN; the share of the votes stands in")
            truth = np.mean(masks, axis=0)
        labels[(truth > best) & (truth > 0.5)] = c
        np.maximum(best, truth, out=best)
        account.facts["iterations"][name] = tool.GetElapsedIterations()
        for row, p, q in zip(rows, tool.GetSensitivity(), tool.GetSpecificity(), strict=True):
            row["sensitivity"][name] = p if np.isfinite(p) else None
            row["specificity"][name] = q if np.isfinite(q) else None
    for row, weight in zip(rows, shares(trust(rows) * present(patterns)), strict=True):
        row["weight"] = weight
    fused = np.zeros(study.shape, np.uint8)
    fused[patterns.field] = labels
    confidence = np.ones(study.shape, np.float32)
    confidence[patterns.field] = np.where(labels > 0, best, 1 - best)
    return Fused(fused, confidence, rows, account.facts)


def multilabel_staple_itk(study: Study, *, crop: bool = True, undecided: Undecided = "background") -> Fused:
    """SimpleITK's multi-label STAPLE, whose start counts tied voxels for the wrong vote.

    Args:
        study: raters; what they left out counts as background.
        crop: look only at the box of what anybody labelled, with its margin.
        undecided: what becomes of voxels that the filter leaves undecided.

    Returns:
        Confidence: share of the voxel's raters that gave it the label.

    Raises:
        ConfigError: an unknown rule for undecided voxels.
    """
    account = Account("ml-staple", crop=crop, undecided=undecided)
    if len(study.raters) > SLOW_FROM:
        account.warn(f"SimpleITK's multi-label STAPLE is slow with {len(study.raters)} raters")
    return _by_filter(account, study, sitk.MultiLabelSTAPLEImageFilter(), crop, undecided)


def voting_itk(study: Study, *, undecided: Undecided = "background") -> Fused:
    """SimpleITK's label voting.

    Args:
        study: raters; what they left out counts as background.
        undecided: what becomes of tied voxels.

    Returns:
        Confidence: share of the voxel's raters that gave it the label.

    Raises:
        ConfigError: an unknown rule for undecided voxels.
    """
    account = Account("voting-itk", undecided=undecided)
    return _by_filter(account, study, sitk.LabelVotingImageFilter(), True, undecided)


def _by_filter(
    account: Account,
    study: Study,
    tool: sitk.MultiLabelSTAPLEImageFilter | sitk.LabelVotingImageFilter,
    crop: bool,
    undecided: Undecided,
) -> Fused:
    if undecided not in get_args(Undecided):
        raise ConfigError(f"undecided must be one of {', '.join(get_args(Undecided))}, got {undecided!r}")
    patterns, parts = _prepare(account, study, crop)
    tool.SetLabelForUndecidedPixels(MISSING)
    with account.stage("filter"):
        found = sitk.GetArrayFromImage(tool.Execute(_images(parts)))
    account.facts["tied_voxels"] = int(np.count_nonzero(found == MISSING))
    fused = np.zeros(study.shape, np.uint8)
    fused[patterns.field] = np.where(found == MISSING, 0, found) if undecided == "background" else found
    weights = shares(present(patterns))
    raters = [{"name": e.name, "weight": w} for e, w in zip(study.raters, weights, strict=True)]
    return Fused(fused, agreeing(study, fused), raters, account.facts)


def _prepare(account: Account, study: Study, crop: bool) -> tuple[Patterns, list[np.ndarray]]:
    with account.stage("patterns"):
        patterns = compress(study, crop=crop)
    account.describe(study, patterns)
    parts = [rater.labels[patterns.field] for rater in study.raters]
    if any((part == MISSING).any() for part in parts):
        account.warn("SimpleITK knows no missing annotation: it counts as background here")
    return patterns, [np.where(part == MISSING, 0, part).astype(np.uint8) for part in parts]


def _images(arrays: Sequence[np.ndarray]) -> list[sitk.Image]:
    return [sitk.GetImageFromArray(array) for array in arrays]
