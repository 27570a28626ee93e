"""Where the time and memory of `gcssl` go on whole scans, beside SimpleITK's STAPLE on the same arrays.

    python benchmarks/consensus/bench_gcssl.py [--cases study ct organs] [--rounds 3]

"Votes alone" is `gcssl` with neither omissions nor outlines, as votes decided before it had these.
Generated raters (`consensus_phantom.py`): jitter, 3 voxels too wide, holes, half missing, outlier. Every run is a new
process on one thread; candidates take turns, and the ratios are medians of the per-round ratios. Seconds are those of
the fusion alone, imports and loading excluded; the peak is the whole process's, with its inputs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone knows
from consensus_phantom import Scene, generate
from consensus_table import dice, multilabel_staple

from medseg.consensus.fuse import run
from medseg.consensus.study import Rater, Study

CT = {"shape": (512, 512, 200), "spacing_mm": (0.8, 0.8, 1.5)}
CASES = {
    "study": Scene(shape=(192, 192, 96), spacing_mm=(1.0, 1.0, 2.0)),
    "ct": Scene(**CT, radius=0.12),
    "organs": Scene(**CT, radius=0.2, classes=14),
}
STAPLE = "SimpleITK"
METHODS: dict[str, dict[str, bool]] = {
    "gcssl": {},
    "gcssl, votes alone": {"omissions": False, "outlines": False},
    STAPLE: {},
}
"""What is timed -> its options."""


def staple(study: Study) -> np.ndarray:
    """SimpleITK on the whole grid, what is missing being background; the multi-label filter for more than two."""
    if len(study.classes) > 2:
        return multilabel_staple(study)
    images = [sitk.GetImageFromArray((e.labels == 1).astype(np.uint8)) for e in study.raters]
    return (sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0)) > 0.5).astype(np.uint8)


def save(folder: Path, scene: Scene) -> None:
    study, truth = generate(scene, 0)
    np.save(folder / "labels.npy", np.stack([e.labels for e in study.raters]))
    np.save(folder / "image.npy", study.image)
    np.save(folder / "truth.npy", truth)


def load(folder: Path, case: str) -> Study:
    labels, scene = np.load(folder / "labels.npy"), CASES[case]
    raters = tuple(Rater(f"e{r}", array) for r, array in enumerate(labels))
    classes = ("background", *(f"class{c}" for c in range(1, scene.classes)))
    return Study(raters, classes, scene.spacing_mm, np.load(folder / "image.npy"))


def once(folder: Path, case: str, method: str) -> None:
    """In a process of its own: fuse and tell."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    run(generate(Scene(shape=(48, 48, 24)), 0)[0])  # what is imported or compiled at the first call
    study = load(folder, case)
    cpu, wall = time.process_time(), time.perf_counter()
    stages: dict[str, float] = {}
    if method == STAPLE:
        answer = staple(study)
    else:
        fused = run(study, **METHODS[method])
        answer, stages = fused.labels, fused.facts["seconds"] | {"disputed_voxels": fused.facts["disputed_voxels"]}
    told = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    lines = Path("/proc/self/status").read_text().splitlines()  # Linux only
    peak = int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    told |= {"peak_gib": peak / 2**20, "dice": dice(answer, np.load(folder / "truth.npy")), "stages": stages}
    print(json.dumps(told))


def race(case: str, rounds: int) -> None:
    scene = CASES[case]
    size = "x".join(map(str, scene.shape))
    print(f"\n**{size}, {len(scene.raters)} raters, {scene.classes} labels**\n", flush=True)
    found: dict[str, list[dict]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), scene)
        for _ in range(rounds):
            for method, runs in found.items():
                call = [sys.executable, __file__, "--once", folder, case, method]
                runs.append(json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout))
    print("| method | CPU s | wall s | time / STAPLE's | peak, GiB | Dice |\n|---|---|---|---|---|---|")
    for method, runs in found.items():
        ratio = np.median([a["cpu"] / b["cpu"] for a, b in zip(runs, found[STAPLE], strict=True)])
        cpu, wall, peak = (np.median([r[key] for r in runs]) for key in ("cpu", "wall", "peak_gib"))
        print(f"| {method} | {cpu:.2f} | {wall:.2f} | {ratio:.2f} | {peak:.2f} | {runs[0]['dice']:.4f} |")
    print(
        "\nstages of gcssl:", ", ".join(f"{name} {value:.3g}" for name, value in found["gcssl"][-1]["stages"].items())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.once:
        once(Path(asked.once[0]), *asked.once[1:])
        return
    for case in asked.cases:
        race(case, asked.rounds)


if __name__ == "__main__":
    main()
