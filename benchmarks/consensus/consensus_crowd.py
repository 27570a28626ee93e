"""Every fuser on a crowd's outlines, against experts who took no part in the panel.

    python benchmarks/consensus/consensus_crowd.py FOLDER [--methods gcssl staple ...] [--limit 20]

FOLDER has one folder for each image:

    FOLDER/IMAGE/image.*            the image: PNG, TIFF, NIfTI, ...
    FOLDER/IMAGE/crowd/*.*          a label map of each member of the crowd, two or more
    FOLDER/IMAGE/experts/*.*        a label map of each expert, one or more

all of one image on one grid, 0 the background. Truth is the vote of the experts; where they are tied there is none, and
nothing is counted. A cell is the mean over the images of the mean Dice over the classes, and its standard error (the
deviation over the images over the root of their number). The last row is the mean member of the crowd. Below, of the
default method: the rank correlation of the members' weights and Dice, and in how many images the worst member has the
highest weight. Sets such as BU-BIL of Boston University (Gurari et al., WACV 2015) can be laid out so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from medseg.consensus.compare_methods import compare
from medseg.consensus.fuse import FUSERS, run
from medseg.consensus.io.read_study import read_study
from medseg.consensus.study import MISSING, Study
from medseg.errors import DataError, MedsegError

CROWD = "a member of the crowd"
DEFAULT = "gcssl"


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


@dataclass
class Measured:
    """What was found.

    Args:
        dice: of each method on each image, and of the mean member of the crowd.
        ranks: rank correlation of the default's weights and the members' Dice on each image; NaN where either is the
            same for all members.
        mistaken: number of images whose worst member has the highest weight.
    """

    dice: dict[str, list[float]]
    ranks: list[float] = field(default_factory=list)
    mistaken: int = 0


def measure(
    images: Sequence[Path], methods: Sequence[str], read: Callable[[Path], tuple[Study, np.ndarray]] = read_crowd
) -> Measured:
    """Fuse the crowd of each image, and compare with its truth.

    Args:
        images: what `read` takes, one for each image.
        methods: names of fusers.
        read: gives the study of an image, and the truth `(X, Y, Z)` uint8.
    """
    found = Measured({name: [] for name in (*methods, CROWD)})
    for image in images:
        study, truth = read(image)
        fused = {DEFAULT: run(study, DEFAULT)} if DEFAULT in methods else {}
        for row in compare(study, methods, truth, fused):
            if row["error"] is not None:
                raise DataError(f"{row['method']}: {row['error']}", path=image)
            found.dice[row["method"]].append(row["dice_to_reference"]["mean"])
        members = np.array([mean_dice(rater.labels, truth, len(study.classes)) for rater in study.raters])
        found.dice[CROWD].append(float(members.mean()))
        if fused:
            weights = np.array([rater["weight"] for rater in fused[DEFAULT].raters])
            alike = np.ptp(weights) == 0 or np.ptp(members) == 0
            found.ranks.append(np.nan if alike else float(spearmanr(weights, members).statistic))
            found.mistaken += bool(not alike and weights.argmax() == members.argmin())
    return found


def table(found: Measured) -> str:
    """The results as a table in Markdown, and a line about the default's weights."""
    images = len(found.dice[CROWD])
    lines = [f"{images} images", "", "| method | Dice ± standard error | worst image |", "|---|---|---|"]
    for name, scores in found.dice.items():
        error = f"{np.std(scores, ddof=1) / np.sqrt(images):.4f}" if images > 1 else "-"
        lines.append(f"| {name} | {np.mean(scores):.4f} ± {error} | {min(scores):.3f} |")
    if np.isfinite(found.ranks).any():
        mean = np.nanmean(found.ranks)
        lines += ["", f"Weights of {DEFAULT}: rank correlation with Dice {mean:.2f}; worst member heaviest in "]
        lines[-1] += f"{found.mistaken} of {images} images"
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
