"""How far the raters agree with one another: pairwise Dice, Fleiss' kappa, Krippendorff's alpha.

    Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76(5), 1971
    Krippendorff, "Content Analysis", chapter on reliability: the nominal form

With m votes at a voxel, n_c of them for class c, and sums over voxels with m >= 2:

    o_c = sum n_c (n_c - 1) / (m - 1)       N_c = sum n_c       A = sum over c of o_c       N = sum over c of N_c
    kappa = (A / N - E) / (1 - E)           E = sum over c of (N_c / N)^2
    alpha = 1 - (N - 1) (N - A) / (N^2 - sum over c of N_c^2)

kappa takes only the voxels that every rater annotated (who annotated nothing does not count as one), alpha
all with two votes or more. For one class by itself all other classes are one. Both depend on how much
background is looked at, which is why the box is reported beside them.

Neighbouring voxels are not independent, so that an interval over voxels would be absurdly narrow. The box is
cut into up to 8 blocks along each axis, and whole blocks are drawn with replacement (percentile bootstrap).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from medseg.consensus.boxes import Box, box_size, intersect, relative_box
from medseg.consensus.fusers.pair_dice import dice_of_pairs, mean_dice_of_pairs
from medseg.consensus.fusers.vote_patterns import VotePatterns, find_patterns
from medseg.consensus.study import Study

BLOCKS, THINNEST = 8, 4
"""Blocks along an axis, and voxels that a block has at least."""
Facts = dict[str, Any]


def agreement(study: Study, *, crop: bool = True, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Facts:
    """All measures of agreement, JSON-ready; what does not exist is None.

    Args:
        study: one rater or more.
        crop: look only at the box of what anybody labelled, with its margin.
        resamples: of the bootstrap.
        level: of the intervals.
        seed: of the bootstrap.

    Returns:
        `raters`; `box` and `box_voxels`; `pairwise_dice` (`pairwise_dice`); `fleiss_kappa` and
        `krippendorff_alpha`, each with `overall` and `classes`, whose entries have `value`, `low`, `high`,
        and `voxels` that counted; `bootstrap` with what the intervals are of.

    Raises:
        ValueError: a level outside (0, 1).

    Examples:
        Two raters of 8 voxels agree on 6, and give each class 8 of their 16 votes: kappa = (6/8 - 1/2) / (1 - 1/2).

        >>> import numpy as np
        >>> from medseg.consensus.statistics.inter_rater_agreement import agreement
        >>> from medseg.consensus.study import Rater, Study
        >>> anna = np.uint8([[[0, 0, 0, 0, 1, 1, 1, 1]]])
        >>> bob = np.uint8([[[0, 0, 0, 1, 0, 1, 1, 1]]])
        >>> study = Study((Rater("anna", anna), Rater("bob", bob)), ("background", "liver"), (1.0, 1.0, 1.0))
        >>> found = agreement(study)
        >>> found["pairwise_dice"]["classes"]["liver"]
        [[1.0, 0.75], [0.75, 1.0]]
        >>> found["fleiss_kappa"]["overall"]["value"]
        0.5
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    patterns = find_patterns(study, crop=crop)
    bootstrap = _draw_blocks(patterns, resamples, level, seed)
    return {
        "raters": [rater.name for rater in study.raters],
        "box": [[side.start, side.stop] for side in patterns.box],
        "box_voxels": int(patterns.counts.sum()),
        "pairwise_dice": pairwise_dice(patterns, study.classes),
        "fleiss_kappa": _coefficient("kappa", patterns, study.classes, bootstrap),
        "krippendorff_alpha": _coefficient("alpha", patterns, study.classes, bootstrap),
        "bootstrap": {"blocks": len(bootstrap.blocks), "resamples": resamples, "level": level, "seed": seed},
    }


def pairwise_dice(patterns: VotePatterns, names: tuple[str, ...]) -> Facts:
    """Dice of each two raters over the voxels that both annotated.

    Returns:
        `classes`: for each class but the background an R x R matrix, None where neither has the class or they
        share no voxel; `mean`: the mean over the classes that have a value; `compared`: over how many.
    """
    dice = dice_of_pairs(patterns)
    compared = np.isfinite(dice).sum(0)
    mean = mean_dice_of_pairs(dice)
    return {
        "classes": {name: _none_for_nan(matrix) for name, matrix in zip(names[1:], dice, strict=True)},
        "mean": _none_for_nan(mean),
        "compared": compared.tolist(),
    }


def _none_for_nan(values: np.ndarray) -> list[Any]:
    """Nested lists with None for what is not finite."""
    if values.ndim > 1:
        return [_none_for_nan(row) for row in values]
    return [float(value) if np.isfinite(value) else None for value in values]


@dataclass(frozen=True, eq=False)
class _Bootstrap:
    """Blocks of the box, and which of them each resample has.

    Args:
        blocks: `(B, P)` voxels of each pattern in each block.
        draws: `(D, B)` how often a resample has each block.
        percentiles: ends of the interval.
    """

    blocks: np.ndarray
    draws: np.ndarray
    percentiles: tuple[float, float]


def _draw_blocks(patterns: VotePatterns, resamples: int, level: float, seed: int) -> _Bootstrap:
    blocks = _count_in_blocks(patterns)
    equal = np.full(len(blocks), 1 / len(blocks))
    draws = np.random.default_rng(seed).multinomial(len(blocks), equal, resamples)
    return _Bootstrap(blocks, draws, (50 - 50 * level, 50 + 50 * level))


def _count_in_blocks(patterns: VotePatterns) -> np.ndarray:
    """`(B, P)` voxels of each pattern in each block of the box."""
    indices = patterns.indices()
    counts = []
    for block in _blocks_of(patterns.box):
        coded = intersect(block, patterns.coded_box)
        inside = indices[relative_box(coded, patterns.coded_box)]
        count = np.bincount(inside.ravel(), minlength=len(patterns.table))
        count[0] += box_size(block) - box_size(coded)
        counts.append(count)
    return np.stack(counts)


def _blocks_of(box: Box) -> list[Box]:
    axes = []
    for side in box:
        number = min(BLOCKS, max((side.stop - side.start) // THINNEST, 1))
        edges = np.linspace(side.start, side.stop, number + 1).astype(int)
        axes.append([slice(int(start), int(stop)) for start, stop in pairwise(edges)])
    return [(x, y, z) for x in axes[0] for y in axes[1] for z in axes[2]]


def _coefficient(name: str, patterns: VotePatterns, classes: tuple[str, ...], bootstrap: _Bootstrap) -> Facts:
    """Kappa or alpha, overall and for each class, with intervals."""
    votes = patterns.count_votes().astype(float)
    voters = votes.sum(1)
    counted = voters >= 2
    if name == "kappa":
        counted &= voters == patterns.active_raters().sum()
    other_votes = voters[:, None] - votes
    agreeing = votes * (votes - 1) / np.maximum(voters - 1, 1)[:, None]
    agreeing_on_others = other_votes * (other_votes - 1) / np.maximum(voters - 1, 1)[:, None]
    # one matrix product per block, then everything is linear in the blocks
    columns = np.concatenate([agreeing, agreeing_on_others, votes], 1)
    sums = bootstrap.blocks @ (columns * counted[:, None])
    samples = np.concatenate([sums.sum(0, keepdims=True), bootstrap.draws @ sums])
    same, other, total = np.split(samples, 3, axis=1)
    voxels = int(patterns.counts @ counted)

    everything = total.sum(1)
    single = {}
    for k, class_name in enumerate(classes):
        marginals = np.stack([total[:, k], everything - total[:, k]], 1)
        values = _beyond_chance(name, same[:, k] + other[:, k], marginals)
        single[class_name] = _with_interval(values, voxels, bootstrap)
    overall = _beyond_chance(name, same.sum(1), total)
    return {"overall": _with_interval(overall, voxels, bootstrap), "classes": single}


def _beyond_chance(name: str, agreed: np.ndarray, marginals: np.ndarray) -> np.ndarray:
    """Kappa or alpha; NaN where there is nothing to compare or only one class is ever used.

    Args:
        name: "kappa" or "alpha".
        agreed: `(D,)` A of each sample.
        marginals: `(D, classes)` N_c of each sample.
    """
    n, squares = marginals.sum(1), (marginals**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if name == "alpha":
            value = 1 - (n - 1) * (n - agreed) / (n**2 - squares)
        else:
            expected = squares / n**2
            value = (agreed / n - expected) / (1 - expected)
    return np.where(n**2 > squares, value, np.nan)


def _with_interval(values: np.ndarray, voxels: int, bootstrap: _Bootstrap) -> Facts:
    """The value of the study, which is the first, and the interval of the resamples, which are the others."""
    resampled = values[1:][np.isfinite(values[1:])]
    low = high = np.nan
    if len(bootstrap.blocks) > 1 and resampled.size:
        low, high = np.percentile(resampled, bootstrap.percentiles)
    value, low, high = _none_for_nan(np.array([values[0], low, high]))
    return {"value": value, "low": low, "high": high, "voxels": voxels}
