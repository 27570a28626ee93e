"""Fusers on real images: raters simulated from real labels, which are the truth, and two raters who drew vessels.

    python benchmarks/consensus/consensus_real.py --data ../shared/data [--sets la btcv drive] [--cases 2] [--seeds 5]

`simulated_raters.py` has the raters and the panels. Dice is the mean over the structures of the truth. A cell says the
mean over cases and seeds, the standard deviation over seeds of the mean over cases, and the worst single study; the
seconds are process time. The last two cells are about the default's weights: their rank correlation with the raters'
Dice with the truth, mean over the studies, and in how many studies the worst rater has the highest weight. For DRIVE's
two raters there is no truth: what is told is how near each answer lies to either.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.stats import spearmanr
from simulated_raters import PANELS, rater

from medseg.consensus.compare_methods import compare
from medseg.consensus.fuse import run
from medseg.consensus.io.read_study import read_study
from medseg.consensus.statistics.report_data import contingencies, dice_by_class
from medseg.consensus.study import Fused, Rater, Study

METHODS = ("majority", "staple", "ml-staple", "simple", "sba", "gcssl")
VARIANTS: dict[str, dict[str, Any]] = {
    "gcssl, votes alone": {"weights": "consistency", "omissions": False, "outlines": False},
    "gcssl, outlines as votes": {"outlines": False},
    "gcssl, smoothness 1": {"smoothness": 1.0},
}
THIN = "gcssl, smoothness 1"


def simulated(image: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...], panel: str, seed: int) -> Study:
    random = np.random.default_rng([seed, *panel.encode()])
    raters = tuple(Rater(f"{kind}{r}", rater(kind, truth, spacing, random)) for r, kind in enumerate(PANELS[panel]))
    names = ("background", *(f"class{c}" for c in range(1, int(truth.max()) + 1)))
    x, y, z = spacing
    return Study(raters, names, (x, y, z), image)


def volumes(folder: Path, cases: int) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, ...]]]:
    """Images `(1, X, Y, Z)` with their labels and spacing, the first by name."""
    for path in sorted((folder / "labels").glob("*.nii.gz"))[:cases]:
        label, picture = nib.load(path), nib.load(folder / "images" / path.name)
        image = np.asarray(picture.dataobj, np.float32)[None]
        yield image, np.asarray(label.dataobj).astype(np.uint8), tuple(map(float, label.header.get_zooms()[:3]))


def pictures(folder: Path, cases: int) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, ...]]]:
    """Retinas with the first rater's vessels as truth."""
    for study in pairs(folder, cases):
        assert study.image is not None
        yield study.image, study.raters[0].labels, study.spacing_mm


def pairs(folder: Path, cases: int) -> Iterator[Study]:
    """Retinas with both raters."""
    for path in sorted((folder / "images").glob("*.png"))[:cases]:
        drawn = [folder / f"expert_{n}" / path.name for n in (1, 2)]
        yield read_study(path, drawn, names=("first", "second"), missing=None)[0]


def weight_of_the_right(study: Study, truth: np.ndarray, fused: Fused) -> tuple[float, bool]:
    """Rank correlation of weight and true Dice, and whether the worst rater has the highest weight."""
    true_dice = np.array([dice_by_class(table, study.classes)["mean"] for table in contingencies(study, truth)], float)
    weights = np.array([row["weight"] for row in fused.raters])
    return float(spearmanr(weights, true_dice).statistic), bool(weights.argmax() == true_dice.argmin())


def score(studies: list[tuple[int, Study, np.ndarray]]) -> str:
    """The table's row of a panel: `(seed, study, truth)`."""
    dice: dict[str, dict[int, list[float]]] = {name: {} for name in (*METHODS, *VARIANTS)}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    ranks, mistaken = [], 0
    for seed, study, truth in studies:
        fused = run(study, "gcssl")
        rank, is_mistaken = weight_of_the_right(study, truth, fused)
        ranks.append(rank)
        mistaken += is_mistaken
        for row in compare(study, METHODS, truth):
            dice[row["method"]].setdefault(seed, []).append(row["dice_to_reference"]["mean"])
            seconds[row["method"]].append(row["cpu_seconds"])
        for name, options in VARIANTS.items():
            (row,) = compare(study, ("gcssl",), truth, {"gcssl": run(study, "gcssl", **options)})
            dice[name].setdefault(seed, []).append(row["dice_to_reference"]["mean"])
    cells = []
    for name, by_seed in dice.items():
        means = [np.mean(values) for values in by_seed.values()]
        worst = min(min(values) for values in by_seed.values())
        spent = f" {np.mean(seconds[name]):.2g} s" if name in seconds else ""
        cells.append(
            f"{np.mean(means):.4f} ± {np.std(means, ddof=1) if len(means) > 1 else 0:.4f} ({worst:.3f}){spent}"
        )
    return " | ".join([*cells, f"{np.mean(ranks):.2f}", f"{mistaken} of {len(studies)}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=("la", "btcv", "drive"), default=("la", "btcv", "drive"))
    parser.add_argument("--panels", nargs="+", choices=PANELS, default=tuple(PANELS))
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    names = (*METHODS, *VARIANTS, "rank correlation", "worst heaviest")
    print(f"| data | raters | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}", flush=True)
    for data in asked.sets:
        read = pictures if data == "drive" else volumes
        cases = list(read(asked.data / data, asked.cases))
        for panel in asked.panels:
            studies = [
                (seed, simulated(image, truth, spacing, panel, seed), truth)
                for seed in range(asked.seeds)
                for image, truth, spacing in cases
            ]
            print(f"| {data}, {len(cases)} cases, {asked.seeds} seeds | {panel} | {score(studies)} |", flush=True)
    if "drive" in asked.sets:
        real_pairs(asked.data / "drive")


def real_pairs(folder: Path) -> None:
    """How near each answer lies to the two raters of DRIVE, who are all there is."""
    print("\n| DRIVE, both raters | Dice to the first | Dice to the second | vessels, share of the first's |")
    print("|---|---|---|---|")
    found: dict[str, list[tuple[float, float, float]]] = {}
    for study in pairs(folder, 10):
        first, second = (e.labels for e in study.raters)
        for name, labels in answers(study).items():
            near = dice(labels, first), dice(labels, second), np.count_nonzero(labels) / np.count_nonzero(first)
            found.setdefault(name, []).append(near)
    for name, rows in found.items():
        print(
            f"| {name} | " + " | ".join(f"{np.mean(c):.4f} ± {np.std(c):.4f}" for c in zip(*rows, strict=True)) + " |"
        )


def answers(study: Study) -> dict[str, np.ndarray]:
    fused = {name: run(study, name).labels for name in METHODS}
    return {"the second rater": study.raters[1].labels, **fused, THIN: run(study, "gcssl", smoothness=1.0).labels}


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero((a > 0) & (b > 0)) / (np.count_nonzero(a) + np.count_nonzero(b))


if __name__ == "__main__":
    main()
