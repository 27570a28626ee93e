"""A data set of studies through `medseg consensus`: one process per core beside one process, and the fusing alone.

    python benchmarks/consensus/bench_consensus_batch.py [--studies 100] [--size 96 96 48] [--jobs 2]

Generated raters (`consensus_phantom.py`) as compressed NIfTI files, reports without the viewer. Wall time of the whole
command, start and files included; nothing else should run meanwhile. "one command per study" starts a new process for
each, as a script over files would; it is timed on some of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from consensus_phantom import Scene, generate

from medseg.consensus.fuse import run

SINGLE = 8
"""Studies done by a command of their own each."""


def write(folder: Path, scene: Scene, studies: int) -> tuple[Path, float]:
    """The studies as files and a manifest; and the mean seconds of fusing one in memory."""
    cases, seconds = [], []
    affine = np.diag([*scene.spacing_mm, 1.0])
    for number in range(studies):
        study, _ = generate(scene, number)
        assert study.image is not None
        start = time.perf_counter()
        run(study)
        seconds.append(time.perf_counter() - start)
        place = folder / f"s{number:03}"
        place.mkdir(parents=True)
        nib.save(nib.Nifti1Image(study.image[0], affine), place / "image.nii.gz")
        drawn = []
        for rater in study.raters:
            nib.save(nib.Nifti1Image(rater.labels, affine), place / f"{rater.name}.nii.gz")
            drawn.append({"rater": rater.name, "label": f"{place.name}/{rater.name}.nii.gz"})
        cases.append({"case": place.name, "image": f"{place.name}/image.nii.gz", "annotations": drawn})
    manifest = folder / "manifest.json"
    head = {"name": "batch", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}}
    manifest.write_text(json.dumps(head | {"training": cases}))
    return manifest, float(np.mean(seconds[1:]))


def wall(output: Path, *arguments: object) -> float:
    shutil.rmtree(output, ignore_errors=True)
    call = [sys.executable, "-m", "medseg", "consensus", *map(str, arguments), "-o", str(output), "--no-viewer"]
    start = time.perf_counter()
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=3, default=(96, 96, 48))
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    x, y, z = asked.size
    with tempfile.TemporaryDirectory() as folder:
        manifest, alone = write(Path(folder, "data"), Scene(shape=(x, y, z), spacing_mm=(1.0, 1.0, 2.0)), asked.studies)
        output = Path(folder, "out")
        several = wall(output, "--data", manifest, "--jobs", asked.jobs)
        one = wall(output, "--data", manifest, "--jobs", 1)
        again = 0.0
        for case in json.loads(manifest.read_text())["training"][:SINGLE]:
            files = [part for a in case["annotations"] for part in ("-a", manifest.parent / a["label"])]
            again += wall(output, "-i", manifest.parent / case["image"], *files)
        print(f"{asked.studies} studies of {x}x{y}x{z}, 5 raters\n")
        print("| how | s per study | studies per minute |\n|---|---|---|")
        rows = {
            f"one command, {asked.jobs} processes": several / asked.studies,
            "one command, one process": one / asked.studies,
            "one command per study": again / min(SINGLE, asked.studies),
            "gcssl alone, in memory": alone,
        }
        for name, seconds in rows.items():
            print(f"| {name} | {seconds:.2f} | {60 / seconds:.0f} |")


if __name__ == "__main__":
    main()
