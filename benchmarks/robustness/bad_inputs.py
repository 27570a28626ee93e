"""Bad inputs of every kind that strangers sent: each file is made here, and the real command is run on it.

    python benchmarks/robustness/bad_inputs.py [--keep FOLDER]

Every command runs in a process forked from this one, which has imported what it needs. An input counts as right if it
is refused in one line or told by a warning; as wrongly silent if the command ends with 0 and says nothing of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image

from medseg.cli import main

SHAPE = (20, 18, 16)
Command = tuple[object, ...]
Trial = tuple[str, Callable[[Path], Command]]
USUAL = ("no labelled case under 'validation'", "every image is a single slice")
"""Warnings that good inputs of such sets get too."""

MAJORITY = ("consensus", "--method", "majority")


def cube(value: float = 1, dtype: str = "u1") -> np.ndarray:
    """`(X, Y, Z)`: a cube of 8 voxels a side."""
    labels = np.zeros(SHAPE, dtype)
    labels[6:14, 6:14, 4:12] = value
    return labels


def save(path: Path, array: np.ndarray, shift_mm: float = 0.0, slope: float = 1.0) -> Path:
    """A NIfTI file of 1 mm voxels, moved along z."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4)
    affine[2, 3] = shift_mm
    image = nib.Nifti1Image(array, affine)
    image.header.set_slope_inter(slope, 0)
    nib.save(image, path)
    return path


def write_set(folder: Path, labels: np.ndarray, shift_mm: float = 0.0, slope: float = 1.0) -> Path:
    """Two cases with these labels, and their manifest."""
    cases = []
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 10, SHAPE)
        save(folder / f"c{number}.nii.gz", (noise + 60 * cube()).astype("i2"))
        save(folder / f"c{number}_label.nii.gz", labels, shift_mm, slope)
        cases.append({"image": f"c{number}.nii.gz", "label": f"c{number}_label.nii.gz"})
    content = {"modality": "MR", "labels": {"0": "background", "1": "cube"}, "training": cases}
    (folder / "m.json").write_text(json.dumps(content))
    return folder / "m.json"


def check(labels: np.ndarray, **how: float) -> Callable[[Path], Command]:
    """`data check` of a set with these labels."""
    return lambda folder: ("data", "check", write_set(folder, labels, **how))


def train(labels: np.ndarray, **how: float) -> Callable[[Path], Command]:
    """One step of training on a set with these labels."""
    settings = ("network.width=4", "schedule.iterations=1", "schedule.batch.labeled=2")
    words = [word for each in settings for word in ("--set", f"stages.0.{each}")]
    words += ["--set", "data.patch=[16,16,16]"]

    def command(folder: Path) -> Command:
        manifest = write_set(folder, labels, **how)
        return ("train", "--task", "supervised", "--data", manifest, "--output", folder / "run", *words)

    return command


def evaluate(reference: np.ndarray, prediction: np.ndarray, shift_mm: float = 0.0) -> Callable[[Path], Command]:
    """`evaluate` of one file against another."""

    def command(folder: Path) -> Command:
        save(folder / "ref/c0.nii.gz", reference)
        save(folder / "pred/c0.nii.gz", prediction, shift_mm)
        return ("evaluate", "-p", folder / "pred", "-r", folder / "ref", "-o", folder / "t", "--no-pictures")

    return command


def consensus(labels: np.ndarray, shift_mm: float = 0.0) -> Callable[[Path], Command]:
    """`consensus` of a rater and one whose file is fine."""

    def command(folder: Path) -> Command:
        image = save(folder / "image.nii.gz", cube(100, "i2"))
        odd, fine = save(folder / "odd.nii.gz", labels, shift_mm), save(folder / "fine.nii.gz", cube())
        return (*MAJORITY, "--image", image, "--annotation", odd, "--annotation", fine, "-o", folder / "fused")

    return command


def all_commands(labels: np.ndarray, shift_mm: float = 0.0) -> list[Trial]:
    """The same labels by every command that reads them."""
    return [
        ("check", check(labels, shift_mm=shift_mm)),
        ("train", train(labels, shift_mm=shift_mm)),
        ("evaluate", evaluate(cube(), labels, shift_mm)),
        ("consensus", consensus(labels, shift_mm)),
    ]


def png(spoil: Callable[[bytes], bytes]) -> Callable[[Path], Command]:
    """`data check` of a set whose first picture is spoilt."""

    def command(folder: Path) -> Command:
        cases = []
        for number in range(2):
            noise = np.random.default_rng(number).integers(0, 255, (32, 32)).astype("u1")
            Image.fromarray(noise).save(folder / f"i{number}.png")
            Image.fromarray((noise > 128).astype("u1")).save(folder / f"l{number}.png")
            cases.append({"image": f"i{number}.png", "label": f"l{number}.png"})
        (folder / "i0.png").write_bytes(spoil((folder / "i0.png").read_bytes()))
        content = {"modality": "XR", "labels": {"0": "background", "1": "bright"}, "training": cases}
        (folder / "m.json").write_text(json.dumps(content))
        return ("data", "check", folder / "m.json")

    return command


def flipped(place: int) -> Callable[[bytes], bytes]:
    """One bit of a file, counted from its end if negative."""

    def spoil(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[place] ^= 4
        return bytes(changed)

    return spoil


def grey_masks(ending: str) -> Callable[[Path], Command]:
    """`data check` of masks of 0 and 255 that were JPEG or resized."""

    def command(folder: Path) -> Command:
        rows, columns = np.mgrid[:48, :64]
        disc = ((rows - 24) ** 2 + (columns - 32) ** 2 < 225).astype("u1")
        Image.fromarray(disc * 90).save(folder / "i.png")
        mask = Image.fromarray(disc * 255)
        if ending == ".png":
            mask = mask.resize((128, 96), Image.Resampling.BICUBIC).resize((64, 48), Image.Resampling.BICUBIC)
        mask.save(folder / f"l{ending}")
        labels = {"0": "background", **{str(value): f"class {value}" for value in range(1, 255)}}
        content = {"modality": "XR", "labels": labels, "training": [{"image": "i.png", "label": f"l{ending}"}]}
        (folder / "m.json").write_text(json.dumps(content))
        return ("data", "check", folder / "m.json")

    return command


def unknown_endings(ending: str) -> Callable[[Path], Command]:
    """`data init` of a folder in which one image has an ending that is not read."""

    def command(folder: Path) -> Command:
        save(folder / "images/c0.nii.gz", cube(100, "i2") + np.arange(16, dtype="i2"))
        save(folder / "labels/c0.nii.gz", cube())
        (folder / f"images/c1{ending}").write_bytes(b"x")
        return ("data", "init", folder, "-o", folder / "m.json")

    return command


def kinds() -> dict[str, list[Trial]]:
    """Kind of bad input -> what is tried."""
    extra = cube()
    extra[:2, :2, :2] = 3
    shifts = [trial for mm in (0.3, 0.6, 40) for trial in all_commands(cube(), mm)]
    fractions = [trial for value in (1.0005, 1.01, 3e38, np.nan) for trial in all_commands(cube(value, "f4"))]
    nothing = [("check", check(cube(v))) for v in (0, 255)] + [("train", train(cube(v))) for v in (0, 255)]
    nothing += [("check", check(np.ones_like(cube()))), ("train", train(np.ones_like(cube())))]
    places = (20, 40, 60, 200, 500, -30, -15, -3)
    return {
        "label values that are no whole numbers": fractions,
        "labels that teach nothing": nothing,
        "grey masks": [(ending, grey_masks(ending)) for ending in (".jpg", ".png")],
        "labels off their image": shifts,
        "values without a class": [("evaluate", evaluate(cube(), extra))],
        "PNG with a flipped bit": [(f"at {place}", png(flipped(place))) for place in places],
        "PNG cut off": [(f"by {n}", png(lambda content, n=n: content[:-n])) for n in (1, 12, 100)],  # type: ignore[misc]
        "files of unknown endings": [(e, unknown_endings(e)) for e in (".bmp", ".webp", ".mgz", ".mnc")],
    }


def run(command: Command) -> tuple[int, str]:
    """Exit code of a command in a forked process, and what it said."""
    with tempfile.TemporaryFile() as said:
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            os._exit(_called(command))
        _, status = os.waitpid(process, 0)
        said.seek(0)
        return os.waitstatus_to_exitcode(status), said.read().decode(errors="replace")


def _called(command: Command) -> int:
    code = 0
    try:
        main([str(word) for word in command])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:  # what a user would see as a traceback is what is looked for
        print(f"Traceback: {error!r}")
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def outcome(code: int, said: str) -> str:
    """How a command took a bad input."""
    if "Traceback" in said or code < 0 or code > 2:
        return "traceback"
    lines = [line for line in said.splitlines() if line.startswith(("error", "warning", "failed"))]
    if code or any(not any(usual in line for usual in USUAL) for line in lines):
        return "told"
    return "silent"


def trials(place: Path) -> Iterator[tuple[str, str, str]]:
    """Kind, name and outcome of each."""
    for kind, tried in kinds().items():
        for number, (name, make) in enumerate(tried):
            folder = place / kind.replace(" ", "_") / str(number)
            folder.mkdir(parents=True)
            yield kind, name, outcome(*run(make(folder)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="an empty folder for the files that are made")
    return parser.parse_args()


def tell(place: Path) -> None:
    """Run everything and print the table."""
    counts: dict[str, Counter[str]] = {}
    for kind, name, result in trials(place):
        counts.setdefault(kind, Counter())[result] += 1
        if result != "told":
            print(f"{kind}: {name}: {result}", file=sys.stderr)
    print("| kind | tried | refused or warned in one line | wrongly silent | traceback |")
    print("|---|---|---|---|---|")
    for kind, found in {**counts, "all": sum(counts.values(), Counter())}.items():
        print(f"| {kind} | {found.total()} | {found['told']} | {found['silent']} | {found['traceback']} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = parse()
    if options.keep:
        tell(options.keep)
    else:
        with tempfile.TemporaryDirectory() as folder:
            tell(Path(folder))
