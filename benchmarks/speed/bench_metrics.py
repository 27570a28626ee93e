"""Metrics of two masks: all of ours beside MONAI's Dice + HD95 + ASSD.

    python benchmarks/speed/bench_metrics.py [--rounds 7]

One thread, process time, candidates interleaved round by round; the ratio is the median of the per-round
ratios. Ours returns more in that time: both HD95 definitions, HD, ASD, surface Dice, volumes and counts.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from bench_distance import organs
from monai.metrics import DiceMetric, compute_average_surface_distance, compute_hausdorff_distance
from rounds import compare
from scipy.ndimage import gaussian_filter

from medseg.metrics import segmentation_metrics

Figures = dict[str, np.ndarray]


def two_masks(shape: tuple[int, ...], share: float) -> tuple[np.ndarray, np.ndarray]:
    """A blob and a good but imperfect segmentation of it: Dice about 0.95, HD95 about 2 voxels."""
    rng = np.random.default_rng(0)
    coarse, fine = (gaussian_filter(rng.normal(size=shape), sigma) for sigma in (5, 3))
    middle = ((np.indices(shape) - np.array(shape)[:, None, None, None] / 2) ** 2).sum(0) ** 0.5
    first = 4 * coarse / coarse.std() - middle
    scores = first, first + 1.2 * fine / fine.std()
    a, b = ((score > np.quantile(score, 1 - share)).astype(np.uint8) for score in scores)
    return a, b


def with_monai(prediction: np.ndarray, reference: np.ndarray, classes: int, spacing: list[float]) -> Figures:
    one_hot = (np.stack([a == c for c in range(classes)])[None] for a in (prediction, reference))
    p, r = map(torch.from_numpy, one_hot)
    return {
        "dice": DiceMetric(include_background=False, reduction="none")(p.float(), r.float()).numpy()[0],
        "hd95_mm": compute_hausdorff_distance(p, r, percentile=95, spacing=spacing).numpy()[0],
        "assd_mm": compute_average_surface_distance(p, r, symmetric=True, spacing=spacing).numpy()[0],
    }


def with_medseg(prediction: np.ndarray, reference: np.ndarray, classes: int, spacing: list[float]) -> Figures:
    found = segmentation_metrics(
        prediction, reference, label_values=range(1, classes), spacing_mm=spacing, tolerance_mm=2.0
    )
    return {name: np.array([row[name] for row in found.values()]) for name in ("dice", "hd95_mm", "assd_mm")}


def run(title: str, prediction: np.ndarray, reference: np.ndarray, spacing: list[float], rounds: int) -> None:
    given = prediction, reference, int(reference.max()) + 1, spacing
    theirs, ours = with_monai(*given), with_medseg(*given)
    gap = max(float(np.nanmax(np.abs(theirs[name] - ours[name]))) for name in theirs)
    tools = {"MONAI": lambda: with_monai(*given), "medseg": lambda: with_medseg(*given)}
    compare(f"{title}, spacing {spacing}, largest difference {gap:.1g}", tools, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for shape, spacing in (((112, 112, 80), [1.0, 1.0, 1.0]), ((192, 192, 96), [0.8, 0.8, 2.5])):
        reference, prediction = two_masks(shape, 0.053)
        run(f"One structure {shape}, foreground 5.3%", prediction, reference, spacing, rounds)
    reference = organs((160, 160, 80), 13)
    prediction = np.roll(reference, (1, -1, 1), (0, 1, 2))
    run(f"13 labels {reference.shape}", prediction, reference, [0.8, 0.8, 2.5], rounds)


if __name__ == "__main__":
    main()
