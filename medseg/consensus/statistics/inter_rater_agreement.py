"""How far the raters agree with one another: pairwise Dice, Fleiss' kappa, Krippendorff's alpha.

    Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76(5), 1971
    Krippendorff, "Content Analysis", chapter on reliability: the nominal form

With m votes at a voxel, n_c of them for class c, and sums over voxels with m >= 2:

    o_c = sum n_c (n_c - 1) / (m - 1)       N_c = sum n_c       A = sum over c of o_c       N = sum over c of N_c
    kappa = (A / N - E) / (1 - E)           E = sum over c of (N_c / N)^2
    alpha = 1 - (N - 1) (N - A) / (N^2 - sum over c of N_c^2)

kappa takes only the voxels that every rater annotated (who annotated nothing does not count as one), alpha
all with two votes or more. For one class by itself all other classes are one. Both depend on how much
background is looked at, which is why the field is reported beside them.

Neighbouring voxels are not independent, so that an interval over voxels would be absurdly narrow. The field is
cut into up to 8 blocks along each axis, and whole blocks are drawn with replacement (percentile bootstrap).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from medseg.consensus.boxes import Box, box_size, intersect, relative_box
from medseg.consensus.fusers.vote_patterns import VotePatterns, find_patterns
from medseg.consensus.study import Study

BLOCKS, THINNEST = 8, 4
"""Blocks along an axis, and voxels that a block has at least."""
Facts = dict[str, Any]


def agreement(study: Study, *, crop: bool = True, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Facts:
    """All figures, JSON-ready; what does not exist is None.

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
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    patterns = find_patterns(study, crop=crop)
    blocks = block_counts(patterns)
    draws = np.random.default_rng(seed).multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), resamples)
    edges = (50 - 50 * level, 50 + 50 * level)
    return {
        "raters": [rater.name for rater in study.raters],
        "box": [[b.start, b.stop] for b in patterns.box],
        "box_voxels": int(patterns.counts.sum()),
        "pairwise_dice": pairwise_dice(patterns, study.classes),
        "fleiss_kappa": _coefficient("kappa", patterns, study.classes, blocks, draws, edges),
        "krippendorff_alpha": _coefficient("alpha", patterns, study.classes, blocks, draws, edges),
        "bootstrap": {"blocks": len(blocks), "resamples": resamples, "level": level, "seed": seed},
    }


def pairwise_dice(patterns: VotePatterns, names: tuple[str, ...]) -> Facts:
    """Dice of each two raters over the voxels that both annotated.

    Returns:
        `classes`: for each class but the background an R x R matrix, None where neither has the class or they
        share no voxel; `mean`: the mean over the classes that have a value; `compared`: over how many.
    """
    R, K = patterns.table.shape[1], patterns.classes
    dice = np.full((K - 1, R, R), np.nan)
    for i in range(R):
        for j in range(i, R):
            joint = np.zeros((K + 1, K + 1))
            np.add.at(joint, (patterns.table[:, i], patterns.table[:, j]), patterns.counts)
            joint = joint[:K, :K]
            both, sums = np.diag(joint), joint.sum(0) + joint.sum(1)
            dice[:, i, j] = dice[:, j, i] = np.where(sums > 0, 2 * both / np.maximum(sums, 1), np.nan)[1:]
    compared = np.isfinite(dice).sum(0)
    mean = np.where(compared > 0, np.nansum(dice, axis=0) / np.maximum(compared, 1), np.nan)
    return {
        "classes": {name: nulls(matrix) for name, matrix in zip(names[1:], dice, strict=True)},
        "mean": nulls(mean),
        "compared": compared.tolist(),
    }


def nulls(values: np.ndarray) -> list[Any]:
    """Nested lists with None for what is not finite."""
    if values.ndim > 1:
        return [nulls(row) for row in values]
    return [float(v) if np.isfinite(v) else None for v in values]


def block_counts(patterns: VotePatterns) -> np.ndarray:
    """`(blocks, P)` voxels of each pattern in each block of the field."""
    index, rows = patterns.indices(), []
    for block in _blocks(patterns.box):
        inside = intersect(block, patterns.coded_box)
        row = np.bincount(index[relative_box(inside, patterns.coded_box)].ravel(), minlength=len(patterns.table))
        row[0] += box_size(block) - box_size(inside)
        rows.append(row)
    return np.stack(rows)


def _blocks(field: Box) -> list[Box]:
    axes = []
    for b in field:
        length = b.stop - b.start
        edges = np.linspace(b.start, b.stop, min(BLOCKS, max(length // THINNEST, 1)) + 1).astype(int)
        axes.append([slice(int(a), int(z)) for a, z in pairwise(edges)])
    return [(x, y, z) for x in axes[0] for y in axes[1] for z in axes[2]]


def _coefficient(
    name: str,
    patterns: VotePatterns,
    classes: tuple[str, ...],
    blocks: np.ndarray,
    draws: np.ndarray,
    edges: tuple[float, float],
) -> Facts:
    """Overall and for each class, with intervals."""
    votes = patterns.count_votes().astype(float)
    cast = votes.sum(1)
    everybody = (patterns.grid_counts @ (patterns.table < patterns.classes) > 0).sum()
    counted = (cast >= 2) & ((cast == everybody) | (name == "alpha"))
    pairs = votes * (votes - 1) / np.maximum(cast - 1, 1)[:, None]
    rest = cast[:, None] - votes
    others = rest * (rest - 1) / np.maximum(cast - 1, 1)[:, None]
    # one matrix product per block, then everything is linear in the blocks
    sums = blocks @ (np.concatenate([pairs, others, votes], 1) * counted[:, None])
    drawn = np.concatenate([sums.sum(0, keepdims=True), draws @ sums])
    same, other, total = np.split(drawn, 3, axis=1)
    voxels = int(patterns.counts @ counted)

    def entry(agreed: np.ndarray, marginals: np.ndarray) -> Facts:
        values = _beyond_chance(name, agreed, marginals)
        known = values[1:][np.isfinite(values[1:])]
        low, high = np.percentile(known, edges) if len(blocks) > 1 and known.size else (np.nan, np.nan)
        value, low, high = nulls(np.array([values[0], low, high]))
        return {"value": value, "low": low, "high": high, "voxels": voxels}

    everything = total.sum(1)
    single = {
        c: entry(same[:, k] + other[:, k], np.stack([total[:, k], everything - total[:, k]], 1))
        for k, c in enumerate(classes)
    }
    return {"overall": entry(same.sum(1), total), "classes": single}


def _beyond_chance(name: str, agreed: np.ndarray, marginals: np.ndarray) -> np.ndarray:
    """Kappa or alpha; NaN where there is nothing to compare or only one class is ever used."""
    n, squares = marginals.sum(1), (marginals**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if name == "alpha":
            value = 1 - (n - 1) * (n - agreed) / (n**2 - squares)
        else:
            value = (agreed / n - squares / n**2) / (1 - squares / n**2)
    return np.where(n**2 > squares, value, np.nan)
