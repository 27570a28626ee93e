"""STAPLE and multi-label STAPLE: ours beside SimpleITK's filters on the same arrays.

    python benchmarks/speed/bench_staple.py [--size 192 192 96] [--labels 2 14] [--raters 5] [--rounds 3]

Raters are warped and shifted copies of ellipsoids, with complete annotations; the whole grid, and cropped to the
labels and their margin. SimpleITK runs its bare filter on one thread; ours is the whole fuser, from label maps to label
map, confidence and report. Candidates take turns; the ratios are medians of the per-round ratios of process time and
of wall time. The titles tell how far the answers lie apart. Peak memory, over the inputs, is taken in a fresh process
for each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone knows
from rounds import compare
from scipy.ndimage import gaussian_filter

from medseg.consensus.fuse import run
from medseg.consensus.fusers.multilabel_staple import class_prior, iterate
from medseg.consensus.fusers.vote_patterns import find_patterns
from medseg.consensus.study import Rater, Study

METHODS = ("SimpleITK", "medseg")


def drawings(shape: tuple[int, int, int], classes: int, raters: int) -> list[np.ndarray]:
    """Ellipsoids, each rater's warped by some voxels; the last one's are shifted by three as well."""
    random, grid = np.random.default_rng(0), np.indices(shape, np.float32)
    truth, sides = np.zeros(shape, np.uint8), np.array(shape)
    for c in range(1, classes):
        centre = 0.5 * sides if classes == 2 else random.uniform(0.2, 0.8, 3) * sides
        axes = (0.3 if classes == 2 else 0.12) * sides
        truth[sum(((g - m) / a) ** 2 for g, m, a in zip(grid, centre, axes, strict=True)) < 1] = c
    drawn = []
    for r in range(raters):
        noise = (gaussian_filter(random.standard_normal(shape, np.float32), 4, mode="wrap") for _ in range(3))
        moved = [g + 2 * f / f.std() + 3 * (r == raters - 1) for g, f in zip(grid, noise, strict=True)]
        at = [np.clip(np.rint(m), 0, n - 1).astype(np.int32) for m, n in zip(moved, shape, strict=True)]
        drawn.append(truth[tuple(at)])
    return drawn


def study_of(labels: Sequence[np.ndarray], classes: int) -> Study:
    raters = tuple(Rater(f"e{r}", array) for r, array in enumerate(labels))
    return Study(raters, tuple(f"class{c}" for c in range(classes)), (1.0, 1.0, 2.0))


def bare_filter(study: Study, crop: bool) -> tuple[np.ndarray, sitk.ImageFilter]:
    """SimpleITK's answer in the box; probabilities for two labels."""
    box = find_patterns(study, crop=crop).box
    images = [sitk.GetImageFromArray(np.ascontiguousarray(e.labels[box])) for e in study.raters]
    tool = sitk.STAPLEImageFilter() if len(study.classes) == 2 else sitk.MultiLabelSTAPLEImageFilter()
    return sitk.GetArrayFromImage(tool.Execute(images)), tool


def fuser_of(study: Study) -> str:
    return "staple" if len(study.classes) == 2 else "ml-staple"


def candidates(study: Study, crop: bool) -> dict[str, Callable[[], object]]:
    return {
        METHODS[0]: lambda: bare_filter(study, crop),
        METHODS[1]: lambda: run(study, fuser_of(study), crop=crop),
    }


def apart(study: Study, crop: bool) -> str:
    """How far the two answers differ."""
    theirs, tool = bare_filter(study, crop)
    fused = run(study, fuser_of(study), crop=crop)
    box = find_patterns(study, crop=crop).box
    labels, confidence = fused.labels[box], fused.confidence[box]
    if len(study.classes) > 2:
        differ = np.count_nonzero(labels != theirs)
        same = np.count_nonzero(from_their_start(study, crop) != theirs)
        return f"{differ} of {labels.size} voxels differ, {same} if ours starts where SimpleITK's does"
    gap = np.abs(np.where(labels > 0, confidence, 1 - confidence) - theirs).max()
    told = [(e["sensitivity"]["class1"], e["specificity"]["class1"]) for e in fused.raters]
    rates = np.abs(np.array(told) - np.transpose([tool.GetSensitivity(), tool.GetSpecificity()])).max()
    ours = fused.facts["iterations"]["class1"]
    return (
        f"{np.count_nonzero(labels != (theirs > 0.5))} of {labels.size} voxels differ, W by {gap:.1g}, p and q by "
        f"{rates:.1g}; {ours} and {tool.GetElapsedIterations()} iterations"
    )


def from_their_start(study: Study, crop: bool) -> np.ndarray:
    """Our labels in the box, from SimpleITK's first confusion matrices, which count tied voxels for other votes."""
    patterns, K = find_patterns(study, crop=crop), len(study.classes)
    images = [sitk.GetImageFromArray(np.ascontiguousarray(e.labels[patterns.box])) for e in study.raters]
    tool = sitk.MultiLabelSTAPLEImageFilter()
    tool.SetMaximumNumberOfIterations(0)
    tool.Execute(images)
    theta = np.array([np.reshape(tool.GetConfusionMatrix(r), (K + 1, K)) for r in range(len(images))])
    theta[:, -1] = 1
    found = iterate(patterns.table, patterns.counts, theta, class_prior(patterns, patterns.counts))
    return patterns.to_volume(found.truth.argmax(1))[patterns.box]


def race(study: Study, crop: bool, rounds: int) -> None:
    wall: dict[str, list[float]] = {name: [] for name in METHODS}

    def timed(name: str, task: Callable[[], object]) -> Callable[[], None]:
        def once() -> None:
            start = time.perf_counter()
            task()
            wall[name].append(time.perf_counter() - start)

        return once

    size, where = "x".join(map(str, study.shape)), "cropped" if crop else "whole grid"
    title = f"{size}, {len(study.raters)} raters, {len(study.classes)} labels, {where}: {apart(study, crop)}"
    tasks = {name: timed(name, task) for name, task in candidates(study, crop).items()}
    ratios = compare(title, tasks, rounds, warm_up=False)
    by_wall = np.median(np.divide(wall[METHODS[0]], wall[METHODS[1]]))
    medians = ", ".join(f"{name} {np.median(taken):.4g} s" for name, taken in wall.items())
    print(f"\nfaster by {1 / ratios[METHODS[1]]:.0f} (process time), {by_wall:.0f} (wall: {medians})")


def peaks(study: Study, crop: bool) -> None:
    """Peak memory of each method over its inputs."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "labels.npy"), np.stack([e.labels for e in study.raters]))
        for method in METHODS:
            call = [sys.executable, __file__, "--peak", folder, str(len(study.classes)), method, str(int(crop))]
            told = subprocess.run(call, check=True, capture_output=True, text=True).stdout
            print(f"peak over the inputs, {method}: {told.strip()}")


def peak(folder: str, classes: str, method: str, crop: str) -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    study = study_of(np.load(Path(folder, "labels.npy")), int(classes))
    small = study_of([e.labels[:24, :24, :24] for e in study.raters], int(classes))
    candidates(small, crop=False)[method]()  # what is imported at the first call
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading; Linux only
    before = peak_kilobytes()
    candidates(study, bool(int(crop)))[method]()
    megabytes = (peak_kilobytes() - before) / 2**10
    print(f"{megabytes:.0f} MiB, {megabytes * 2**20 / np.prod(study.shape):.1f} bytes per voxel of the grid")


def peak_kilobytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(192, 192, 96))
    parser.add_argument("--labels", type=int, nargs="+", default=(2, 14))
    parser.add_argument("--raters", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        peak(*asked.peak)
        return
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    x, y, z = asked.size
    for classes in asked.labels:
        study = study_of(drawings((x, y, z), classes, asked.raters), classes)
        for crop in (False, True):
            race(study, crop, asked.rounds)
        peaks(study, crop=False)


if __name__ == "__main__":
    main()
