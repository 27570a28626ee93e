"""Makes the pictures of the README by medseg's own commands, on generated data.

    python docs/pictures/make.py --work pictures_work/

Needs Chromium, which shows the pages, and takes about ten minutes of two cores. What is in `--work` is used again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "consensus"))

from consensus_phantom import Scene, generate

from medseg.portable.io.write import write_nifti

HERE = Path(__file__).resolve().parent
WIDTH, SHOWN = 1100, 900
"""Pixels of the browser's window, and of a picture."""


def medseg(*words: str | Path) -> None:
    """Run a command of medseg."""
    subprocess.run([sys.executable, "-m", "medseg", *map(str, words)], check=True)


def demonstration(work: Path) -> Path:
    """The page of `medseg demo`."""
    page = work / "demo" / "report.html"
    if not page.exists():
        medseg("demo", "--output", work / "demo")
    return page


def consensus(work: Path) -> Path:
    """The page of a consensus of five raters, of which one drew elsewhere and one left a half out."""
    scene = Scene(
        shape=(128, 128, 48), spacing_mm=(1.0, 1.0, 2.0), raters=("jitter", "over", "holes", "missing", "outlier")
    )
    study, _ = generate(scene, seed=3)
    affine = np.diag([*scene.spacing_mm, 1.0])
    assert study.image is not None
    write_nifti(work / "image.nii.gz", study.image[0].astype(np.float32), affine, source=None)
    words: list[str | Path] = []
    for name, rater in zip(("anna", "bob", "cleo", "dora", "emil"), study.raters, strict=True):
        write_nifti(work / f"{name}.nii.gz", rater.labels, affine, source=None)
        words += ["--annotation", work / f"{name}.nii.gz"]
    medseg(
        "consensus",
        "--image",
        work / "image.nii.gz",
        *words,
        "--label",
        "1=lesion",
        "--overwrite",
        "-o",
        work / "fused",
    )
    return work / "fused" / "report.html"


def picture(page: Path, target: Path, height: int) -> None:
    """The top of a page, as a browser shows it."""
    shot = target.with_suffix(".full.png")
    window = f"--window-size={WIDTH},{height}"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", window, f"--screenshot={shot}"]
    subprocess.run(["chromium", *flags, page.resolve().as_uri()], check=True, capture_output=True)
    with Image.open(shot) as image:
        smaller = image.convert("RGB").resize(
            (SHOWN, round(image.height * SHOWN / image.width)), Image.Resampling.LANCZOS
        )
        few = smaller.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(target, optimize=True)
    shot.unlink()


def main() -> None:
    """Make all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    picture(consensus(work), HERE / "consensus.png", 1250)
    page = demonstration(work)
    picture(page, HERE / "demonstration.png", 1500)
    picture(work / "demo" / "dmpct" / "report.html", HERE / "training.png", 1300)
    print(page)


if __name__ == "__main__":
    main()
