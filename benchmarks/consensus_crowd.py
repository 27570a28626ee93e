"""Every fuser on a crowd's outlines, against experts who took no part in the panel.

    python benchmarks/consensus_crowd.py FOLDER [--methods gcssl staple ...] [--limit 20]

FOLDER has one folder for each image:

    FOLDER/IMAGE/image.*            the image: PNG, TIFF, NIfTI, ...
    FOLDER/IMAGE/crowd/*.*          a label map of each member of the crowd, two or more
    FOLDER/IMAGE/experts/*.*        a label map of each expert, one or more

all of one image on one grid, 0 the background. Truth is the vote of the experts; where they are tied there is none, and
nothing is counted. A cell is the mean over the images of the mean Dice over the classes, and its standard error (the
deviation over the images over the root of their number). The last row is the mean member of the crowd. Sets such as
BU-BIL of Boston University (Gurari et al., WACV 2015) can be laid out so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.consensus.compare_methods import compare
from medseg.consensus.fuse import FUSERS
from medseg.consensus.io.read_study import read_study
from medseg.consensus.study import MISSING, Study
from medseg.errors import DataError, MedsegError

CROWD = "a member of the crowd"


def read_crowd(folder: Path) -> tuple[Study, np.ndarray]:
    """The crowd's study of one image, and the experts' vote: `(X, Y, Z)` uint8, `MISSING` where they are tied.

    Raises:
        DataError: there is no image, no crowd or no expert.
    """
    images = sorted(folder.glob("image.*"))
    crowd, experts = (sorted((folder / name).glob("*")) for name in ("crowd", "experts"))
    if len(images) != 1:
        raise DataError(f"has {len(images)} files called image.*; one is wanted", path=folder)
    for name, files, least in (("crowd", crowd, 2), ("experts", experts, 1)):
        if len(files) < least:
            raise DataError(f"holds {len(files)} annotations; at least {least} are wanted", path=folder / name)
    # read together, so that both have the same classes
    names = [f"{name}{n}" for name, files in (("crowd", crowd), ("expert", experts)) for n in range(len(files))]
    study, _ = read_study(images[0], [*crowd, *experts], names=names, references=len(experts), missing=None)
    truth = vote([rater.labels for rater in study.raters[len(crowd) :]], len(study.classes))
    return Study(study.raters[: len(crowd)], study.classes, study.spacing_mm, study.image), truth


def vote(labels: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """The most frequent label of each voxel, `MISSING` where several are equally frequent."""
    votes = np.stack([sum((array == c).astype(np.uint8) for array in labels) for c in range(classes)])
    truth = votes.argmax(axis=0).astype(np.uint8)
    tied = np.count_nonzero(votes == votes.max(axis=0), axis=0) > 1
    truth[tied] = MISSING
    return truth


def mean_dice(labels: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """Mean Dice over the classes that either has, where there is truth."""
    known, scores = truth != MISSING, []
    for c in range(1, classes):
        first, second = (labels == c) & known, (truth == c) & known
        total = np.count_nonzero(first) + np.count_nonzero(second)
        if total:
            scores.append(2 * np.count_nonzero(first & second) / total)
    return float(np.mean(scores)) if scores else 1.0


def measure(folders: Sequence[Path], methods: Sequence[str]) -> dict[str, list[float]]:
    """Dice of each method on each image, and of the mean member of the crowd."""
    found: dict[str, list[float]] = {name: [] for name in (*methods, CROWD)}
    for folder in folders:
        study, truth = read_crowd(folder)
        for row in compare(study, methods, truth):
            if row["error"] is not None:
                raise DataError(f"{row['method']}: {row['error']}", path=folder)
            found[row["method"]].append(row["dice_to_reference"]["mean"])
        members = [mean_dice(rater.labels, truth, len(study.classes)) for rater in study.raters]
        found[CROWD].append(float(np.mean(members)))
    return found


def table(found: dict[str, list[float]]) -> str:
    """The results as a table in Markdown."""
    images = len(next(iter(found.values())))
    lines = [f"{images} images", "", "| method | Dice ± standard error | worst image |", "|---|---|---|"]
    for name, scores in found.items():
        error = f"{np.std(scores, ddof=1) / np.sqrt(images):.4f}" if images > 1 else "-"
        lines.append(f"| {name} | {np.mean(scores):.4f} ± {error} | {min(scores):.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", choices=FUSERS, default=list(FUSERS))
    parser.add_argument("--limit", type=int, help="only so many images, the first by name")
    asked = parser.parse_args()
    folders = sorted(path for path in asked.folder.glob("*") if path.is_dir())[: asked.limit]
    if not folders:
        parser.error(f"{asked.folder} has no folder of an image; --help has the layout")
    try:
        print(table(measure(folders, asked.methods)))
    except MedsegError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
