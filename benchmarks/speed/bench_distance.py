"""Distance maps of patches: ours beside the reference recipe (two SciPy transforms and a boundary search).

    python benchmarks/speed/bench_distance.py [--rounds 7]

One thread, process time, candidates interleaved round by round; the ratio is the median of the per-round
ratios.
"""

from __future__ import annotations

import argparse

import edt
import numpy as np
from rounds import compare
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.segmentation import find_boundaries

from medseg.ops.distance import DistanceTargets, signed_distance


def reference(mask: np.ndarray) -> np.ndarray:
    """The authors' recipe, written from the card's formula with the same library calls."""
    outside, inside = distance_transform_edt(~mask), distance_transform_edt(mask)
    phi = outside / outside.max() - inside / inside.max()
    phi[find_boundaries(mask, mode="inner")] = 0
    return phi


def blob(shape: tuple[int, ...], share: float, seed: int = 0) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 5)
    middle = ((np.indices(shape) - np.array(shape)[:, None, None, None] / 2) ** 2).sum(0) ** 0.5
    score = noise / noise.std() * 4 - middle
    return score > np.quantile(score, 1 - share)


def organs(shape: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray:
    """Ellipsoids of organ-like sizes that may overlap; the later one wins."""
    rng, label, grid = np.random.default_rng(seed), np.zeros(shape, np.uint8), np.indices(shape)
    for value in range(1, count + 1):
        centre, axes = rng.uniform(0.2, 0.8, 3) * shape, rng.uniform(5, 14, 3)
        inside = (((grid - centre[:, None, None, None]) / axes[:, None, None, None]) ** 2).sum(0) < 1
        label[inside] = value
    return label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for shape in ((112, 112, 80), (96, 96, 96)):
        mask = blob(shape, 0.1)
        error = np.abs(reference(mask) - signed_distance(mask, boundary="zero")).max()
        compare(
            f"Binary patch {shape}, foreground {mask.mean():.1%}, largest difference {error:.1g}",
            {
                "reference recipe": lambda mask=mask: reference(mask),
                "signed_distance, zero": lambda mask=mask: signed_distance(mask, boundary="zero"),
                "signed_distance, half": lambda mask=mask: signed_distance(mask),
                "signed_distance, half, clip 24": lambda mask=mask: signed_distance(mask, clip=24.0),
                "floor: the one call of edt": lambda mask=mask: edt.edt(mask.view(np.uint8) + np.uint8(1), parallel=1),
            },
            rounds,
        )
    label = organs((96, 96, 96), 13)
    partly = label.copy()
    partly[:, :, ::3] = 255
    compare(
        f"13 classes {label.shape}",
        {
            "reference recipe per class": lambda: [reference(label == c) for c in range(1, 14)],
            "DistanceTargets": lambda: DistanceTargets(14)(label),
            "DistanceTargets, clip 24": lambda: DistanceTargets(14, clip=24.0)(label),
            "DistanceTargets, every third slice ignored": lambda: DistanceTargets(14)(partly),
        },
        rounds,
    )


if __name__ == "__main__":
    main()
