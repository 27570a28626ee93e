"""Scans that show less than those of training: Dice in a box, predicted of the whole scan and of the box alone.

    python benchmarks/robustness/cropped_scans.py runs/first ../shared/data/la/compare_16.json
        --box 50x50x35 60x60x40 400x400x20

The box, in mm, lies about the middle of the labelled structures and ends where the scan does. Its voxels are written to
a file of their own, which is predicted as any other. Labels are read to place the box and to measure. Prints a Markdown
table: the mean over the cases of the mean Dice of the structures that the box holds, and the case that lost most.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from medseg.bundle.bundle import open_bundle
from medseg.bundle.runner import BundleRunner
from medseg.manifest.manifest import Manifest
from medseg.portable.io.read import read_volume
from medseg.portable.io.write import write_nifti

Box = tuple[slice, slice, slice]


def box_in_mm(text: str) -> list[float]:
    """`50x50x35` as three lengths."""
    lengths = [float(length) for length in text.split("x")]
    if len(lengths) != 3 or min(lengths) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no box; accepted is such as 50x50x35")
    return lengths


def place(label: np.ndarray, spacing_mm: list[float], box_mm: list[float]) -> Box:
    """The box about the middle of what is labelled, along the stored axes."""
    sides = []
    for axis in range(3):
        size = min(label.shape[axis], max(1, round(box_mm[axis] / spacing_mm[axis])))
        others = tuple(other for other in range(3) if other != axis)
        labelled = np.flatnonzero((label > 0).any(others))
        middle = (labelled[0] + labelled[-1] + 1) / 2
        low = int(np.clip(round(middle - size / 2), 0, label.shape[axis] - size))
        sides.append(slice(low, low + size))
    return sides[0], sides[1], sides[2]


def predict(runner: BundleRunner, files: list[Path]) -> np.ndarray:
    """Labels on the grid of the files."""
    return runner.predict(runner.read(files)).labels


def predict_box(runner: BundleRunner, files: list[Path], box: Box) -> np.ndarray:
    """Labels of the box, of which nothing else is known."""
    with tempfile.TemporaryDirectory() as folder:
        cropped = []
        for number, file in enumerate(files):
            voxels, header = read_volume(file)
            affine = header.affine.copy()
            affine[:3, 3] = affine[:3] @ [*(side.start for side in box), 1]
            cropped.append(Path(folder) / f"box_{number:04d}.nii.gz")
            write_nifti(cropped[-1], np.ascontiguousarray(voxels[0][box]), affine)
        return predict(runner, cropped)


def mean_dice(predicted: np.ndarray, true: np.ndarray, values: list[int]) -> float:
    """Mean Dice of the structures that the reference holds."""
    found = []
    for value in values:
        both, either = (predicted == value) & (true == value), (predicted == value).sum() + (true == value).sum()
        if (true == value).any():
            found.append(2 * both.sum() / either)
    return float(np.mean(found))


def main() -> None:
    """Predict and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a bundle or a run folder")
    parser.add_argument("manifest", type=Path, help="whose cases under --section have labels")
    parser.add_argument("--box", type=box_in_mm, nargs="+", default=[[50.0, 50.0, 35.0]], metavar="MMxMMxMM")
    parser.add_argument("--section", choices=["training", "validation", "test"], default="test")
    parser.add_argument("--cases", type=int, default=None, help="only the first ones")
    arguments = parser.parse_args()
    bundle, manifest = open_bundle(arguments.bundle), Manifest.load(arguments.manifest)
    runner = BundleRunner(bundle, torch.device("cpu"))
    values = list(bundle.data.label_values[1:])
    scores: list[list[tuple[float, float]]] = [[] for _ in arguments.box]
    for case in list(getattr(manifest, arguments.section))[: arguments.cases]:
        label_file = manifest.label(case)
        if label_file is None:
            continue
        label, header = read_volume(label_file)
        files = list(manifest.images(case))
        whole = predict(runner, files)
        for found, box_mm in zip(scores, arguments.box, strict=True):
            box = place(label[0], list(header.spacing_mm), box_mm)
            true = label[0][box]
            of_whole, of_box = whole[box], predict_box(runner, files, box)
            found.append((mean_dice(of_whole, true, values), mean_dice(of_box, true, values)))
    print("| box, mm | cases | whole scan | box alone | difference | largest loss |")
    print("|---|---|---|---|---|---|")
    for found, box_mm in zip(scores, arguments.box, strict=True):
        of_whole, of_box = (statistics.mean(column) for column in zip(*found, strict=True))
        loss = max(one - other for one, other in found)
        name = " x ".join(f"{length:g}" for length in box_mm)
        print(f"| {name} | {len(found)} | {of_whole:.3f} | {of_box:.3f} | {of_box - of_whole:+.3f} | {loss:.3f} |")


if __name__ == "__main__":
    main()
