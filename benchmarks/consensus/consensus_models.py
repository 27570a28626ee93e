"""Every fuser on what trained models found: each model is a rater, and the labels of the test cases are the truth.

    python benchmarks/consensus/consensus_models.py MANIFEST --runs RUN RUN [RUN ...] [--list test] [--limit 20]

RUN is the folder of a run of `medseg compare`, such as `runs/la_rate/runs/planned-seed0`; its predictions are one
rater's label maps. Cases are those of the manifest's list that every run predicted. Models that learned from the same
few scans overlook the same things, which no fuser's model of raters allows for. The table is that of
`consensus_crowd.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from consensus_crowd import measure, table

from medseg.consensus.fuse import FUSERS
from medseg.consensus.io.read_study import read_study
from medseg.consensus.study import Study
from medseg.errors import MedsegError
from medseg.manifest.manifest import Manifest


def labels_of_images(manifest: Manifest, name: str) -> dict[Path, Path]:
    """Image -> label of the labelled cases in a list of the manifest."""
    found = {}
    for _, section, case in manifest.places():
        label = manifest.label(case)
        if section == name and label is not None:
            (image, *_) = manifest.images(case)
            found[image] = label
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--list", default="test")
    parser.add_argument("--methods", nargs="+", choices=FUSERS, default=list(FUSERS))
    parser.add_argument("--limit", type=int, help="only so many cases, the first by name")
    asked = parser.parse_args()
    labels = labels_of_images(Manifest.load(asked.manifest), asked.list)
    names = [run.name for run in asked.runs]

    def predictions(image: Path) -> list[Path]:
        return [run / "predictions" / image.name for run in asked.runs]

    def read(image: Path) -> tuple[Study, np.ndarray]:
        files = [*predictions(image), labels[image]]
        study, _ = read_study(image, files, names=[*names, "truth"], references=1, missing=None)
        truth = study.raters[-1].labels
        return Study(study.raters[:-1], study.classes, study.spacing_mm, study.image), truth

    images = [image for image in sorted(labels) if all(file.exists() for file in predictions(image))]
    if not images or len(names) < 2:
        parser.error(
            f"{len(images)} cases of {asked.list} were predicted by all {len(names)} runs; wanted are two runs"
        )
    try:
        print(table(measure(images[: asked.limit], asked.methods, read)))
    except MedsegError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
