"""Four raters outlined one organ, each erring in another way: fuse them and see who was trusted.

    python examples/consensus.py [FOLDER]

Everything is generated. The files in FOLDER can be fused from the command line as well:
`medseg consensus --image image.nii.gz --annotation careful.nii.gz --annotation generous.nii.gz ... --output fused`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

import medseg

SPACING_MM = (1.0, 1.0, 2.0)


def scan(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An organ of uneven shape in noise, and its true outline."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (96, 96, 32)), indexing="ij"))
    bumps = ndimage.gaussian_filter(random.standard_normal(grid.shape[1:]), (8, 8, 4))
    truth = np.linalg.norm(grid, axis=0) + 0.1 * bumps / bumps.std() < 0.6
    image = ndimage.gaussian_filter(100.0 * truth, 0.7) + random.normal(0, 30, truth.shape)
    return image.astype(np.float32), truth.astype(np.uint8)


def raters(truth: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """One is careful, one draws too wide, one stopped in mid-scan (255: not annotated), one was on the wrong place."""
    wobble = ndimage.gaussian_filter(random.standard_normal(truth.shape), 3)
    careful = ndimage.gaussian_filter(truth.astype(float), 1) + wobble / wobble.std() * 0.15 > 0.5
    half = truth.copy()
    half[..., 16:] = 255
    wrong = np.roll(truth, 12, axis=0)
    drawn = {"careful": careful, "generous": ndimage.binary_dilation(truth, iterations=3), "half": half, "wrong": wrong}
    return {name: labels.astype(np.uint8) for name, labels in drawn.items()}


def dice(labels: np.ndarray, truth: np.ndarray) -> float:
    """Overlap of two outlines, 1 if they are the same."""
    return 2 * np.count_nonzero((labels == 1) & (truth == 1)) / ((labels == 1).sum() + (truth == 1).sum())


def main(folder: Path) -> None:
    """Generate, fuse by three methods, and tell who counted how much in the last."""
    random = np.random.default_rng(0)
    image, truth = scan(random)
    drawn = raters(truth, random)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in {"image": image, **drawn}.items():
        nib.save(nib.Nifti1Image(array, np.diag([*SPACING_MM, 1])), folder / f"{name}.nii.gz")

    for method in ("majority", "staple", "gcssl"):
        fused = medseg.fuse(image, list(drawn.values()), names=list(drawn), spacing_mm=SPACING_MM, method=method)
        print(f"{method:<12} Dice with the truth {dice(fused.labels, truth):.3f}")
    print(f"\n{'rater':<10} consistency  weight  Dice with the consensus")
    for rater in fused.report["raters"]:
        agreement = rater["dice"]["mean"]
        print(f"{rater['name']:<10} {rater['self_consistency']:>11.2f} {rater['weight']:>7.2f} {agreement:>8.3f}")
    nib.save(nib.Nifti1Image(fused.labels, np.diag([*SPACING_MM, 1])), folder / "consensus.nii.gz")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/consensus_example"))
