"""Every kind of erring rater: Dice of the fusers against the generated truth, and their CPU seconds.

    python benchmarks/consensus/consensus_table.py [--rows five vessels ...] [--seeds 6] [--seeds-3d 3]

Dice is the mean over the foreground classes; a cell says the mean over the seeds, the worst seed in brackets, and the
mean CPU seconds of the process. The first seed is run once before the clock counts. SimpleITK's STAPLE is the bare
filter on the whole grid, what a rater left out being background to it; the other fusers crop by themselves.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone knows
from consensus_phantom import Scene, generate

from medseg.consensus.fuse import run
from medseg.consensus.statistics.report_data import versions
from medseg.consensus.study import MISSING, Study

VOLUME = Scene(shape=(192, 192, 96), spacing_mm=(1.0, 1.0, 2.0))
ROWS: dict[str, tuple[str, Scene]] = {
    "five": ("5 raters: jitter, over-seg, holes, missing half, outlier", Scene()),
    "rows": ("same, missing every second row", Scene(("jitter", "over", "holes", "rows", "outlier"))),
    "four": ("4 raters (no jitter)", Scene(("over", "holes", "missing", "outlier"))),
    "three": ("3 raters: jitter, over-seg, outlier", Scene(("jitter", "over", "outlier"))),
    "good": ("5 good raters", Scene(("good",) * 5)),
    "labels": ("4 labels, 5 raters", Scene(classes=4)),
    "vessels": ("thin vessels, width 3", Scene(kind="vessels")),
    "flat": ("image without contrast", Scene(contrast=0.0)),
    "volume": ("192x192x96, spacing 1x1x2", VOLUME),
    "volume26": ("192x192x96, 26 neighbours", VOLUME),
    "volume4": ("192x192x96, 4 labels", replace(VOLUME, classes=4)),
}
Fuse = Callable[[Study], np.ndarray]


def staple(study: Study) -> np.ndarray:
    """SimpleITK's STAPLE of each class against the rest; the likeliest class above 1/2 wins."""
    best, labels = np.full(study.shape, 0.5), np.zeros(study.shape, np.uint8)
    for c in range(1, len(study.classes)):
        images = [sitk.GetImageFromArray((e.labels == c).astype(np.uint8)) for e in study.raters]
        truth = sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0))
        labels[truth > best] = c
        np.maximum(best, truth, out=best)
    return labels


def multilabel_staple(study: Study) -> np.ndarray:
    """SimpleITK's multi-label STAPLE; what it leaves undecided is background."""
    tool = sitk.MultiLabelSTAPLEImageFilter()
    tool.SetLabelForUndecidedPixels(0)
    votes = [np.where(rater.labels == MISSING, 0, rater.labels) for rater in study.raters]
    return sitk.GetArrayFromImage(tool.Execute([sitk.GetImageFromArray(labels) for labels in votes]))


def fusers(row: str) -> dict[str, Fuse]:
    """The table's columns."""
    cut = {"neighbours": 26} if row == "volume26" else {}
    return {
        "majority": lambda study: run(study, "majority").labels,
        "STAPLE (SimpleITK)": staple,
        "multi-label STAPLE (SimpleITK)": multilabel_staple,
        "uniform + cut": lambda study: run(study, "gcssl", weights="uniform", ssl=False, **cut).labels,
        "gcssl `sc`": lambda study: run(study, "gcssl", weights="sc", **cut).labels,
        "gcssl `logodds`": lambda study: run(study, "gcssl", **cut).labels,
        "gcssl `logodds`, outlines as votes": lambda study: run(study, "gcssl", outlines=False, **cut).labels,
        "gcssl `logodds`, S = 1": lambda study: run(study, "gcssl", smoothness=1.0, **cut).labels,
    }


def dice(answer: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes above 0."""
    scores = []
    for c in range(1, int(truth.max()) + 1):
        a, b = answer == c, truth == c
        scores.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return float(np.mean(scores))


def measure(row: str, seeds: int) -> list[str]:
    """Cells of one row."""
    scene, columns = ROWS[row][1], fusers(row)
    scores: dict[str, list[float]] = {name: [] for name in columns}
    seconds: dict[str, list[float]] = {name: [] for name in columns}
    for seed in range(seeds):
        study, truth = generate(scene, seed)
        for name, fuse in columns.items():
            if seed == 0:
                fuse(_corner(study))  # what is imported or compiled at the first call
            start = time.process_time()
            answer = fuse(study)
            seconds[name].append(time.process_time() - start)
            assert (answer != MISSING).all()
            scores[name].append(dice(answer, truth))
    return [f"{np.mean(s):.4f} ({min(s):.4f}) {np.mean(seconds[name]):.3g} s" for name, s in scores.items()]


def _corner(study: Study) -> Study:
    """The middle of a study, small."""
    half = [slice(max(n // 2 - 32, 0), n // 2 + 32) for n in study.shape]
    raters = tuple(replace(e, labels=np.ascontiguousarray(e.labels[tuple(half)])) for e in study.raters)
    assert study.image is not None
    return replace(study, raters=raters, image=np.ascontiguousarray(study.image[(slice(None), *half)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=[row for row in ROWS if row[-1] not in "64"])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--seeds-3d", type=int, default=3)
    chosen = parser.parse_args()
    print(", ".join(f"{name} {number}" for name, number in versions().items()))
    names = list(fusers("five"))
    print(f"\n| row | seeds | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
    for row in chosen.rows:
        seeds = chosen.seeds_3d if row.startswith("volume") else chosen.seeds
        print(f"| {ROWS[row][0]} | {seeds} | {' | '.join(measure(row, seeds))} |", flush=True)
    print(f"\nPeak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
