"""Mutated files of every format that medseg reads: refused in one line, read as they were, or read as something else.

    python benchmarks/robustness/fuzz_inputs.py --count 2000 --seed 0 --output fuzz/

Each mutation of a small valid file is read by the real reader in a process of its own with a time limit. A format
without checksums cannot tell a changed voxel from another one; where it has none, that is said in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone knows
from dicoms import write_series
from models import make_bundle
from PIL import Image

from medseg.bundle.bundle import open_bundle
from medseg.dicom.scan.series import open_series
from medseg.engine import checkpoint
from medseg.errors import MedsegError
from medseg.manifest.manifest import Manifest
from medseg.portable.io.read import read_volume
from medseg.workflows.train import settings

OUTCOMES = ("refused", "same", "warned", "other", "crash", "hang")
ODD_NUMBERS = (
    b"\x00" * 4,
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    struct.pack("<f", float("nan")),
    struct.pack("<f", float("inf")),
)
ODD_WORDS = (b"-1", b"0", b"1e308", b"NaN", b"99999999999999", b"null", b"[]", b'""', b"../x", b"x" * 3000, b"\x00")


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        write: makes a valid file in an empty folder; returns the one that is mutated.
        read: what a command makes of it: its value, and whether it warned.
        checked: whether the format has checksums of all values.
        text: whether it is a text, of which words are mutated.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], tuple[Any, bool]]
    checked: bool
    text: bool = False


def voxels() -> np.ndarray:
    """`(8, 7, 6)` int16, no two neighbours alike."""
    return np.random.default_rng(0).integers(0, 1000, (8, 7, 6)).astype(np.int16)


def write_nifti(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        nib.save(nib.Nifti1Image(voxels(), np.diag([-1.0, -1.5, 2.0, 1.0])), folder / name)
        return folder / name

    return write


def write_itk(name: str, *, packed: bool) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        sitk.WriteImage(sitk.GetImageFromArray(voxels().T.copy()), str(folder / name), packed)
        return folder / name

    return write


def write_png(folder: Path) -> Path:
    Image.fromarray((voxels()[..., 0] % 256).astype(np.uint8)).save(folder / "a.png")
    return folder / "a.png"


def write_dicom(folder: Path) -> Path:
    return write_series(folder / "series", voxels().astype(np.uint16))[2]


def write_manifest(folder: Path) -> Path:
    case = {"image": "a.nii.gz", "label": "b.nii.gz"}
    content = {
        "labels": {"0": "background", "1": "liver"},
        "modality": {"0": "CT"},
        "training": [case],
        "unlabeled": ["c.nii.gz"],
    }
    (folder / "m.json").write_text(json.dumps(content, indent=1))
    return folder / "m.json"


def write_pipeline(folder: Path) -> Path:
    shutil.copy(settings.shipped()["dtc"], folder / "p.yaml")
    return folder / "p.yaml"


def write_bundle_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return make_bundle(folder / "bundle") / name

    return write


def write_checkpoint(folder: Path) -> Path:
    import torch

    weights = {"weight": torch.arange(60.0).reshape(3, 4, 5)}
    checkpoint.save_atomic({"method": weights, "iteration": 7}, folder / "last.pt")
    return folder / "last.pt"


def read_image(path: Path) -> tuple[Any, bool]:
    array, header = read_volume(path)
    return (array.tobytes(), array.shape, str(array.dtype), header.affine.round(4).tolist()), bool(header.warnings)


def read_dicom(path: Path) -> tuple[Any, bool]:
    series = open_series(path.parent)
    array, affine = series.voxels(), series.header.affine.round(4).tolist()
    return (array.tobytes(), array.shape, affine), bool(series.header.warnings)


def read_manifest(path: Path) -> tuple[Any, bool]:
    return Manifest.load(path).model_dump(mode="json"), False


def read_pipeline(path: Path) -> tuple[Any, bool]:
    content, source = settings.read_task(str(path))
    return settings.check(content, source).model_dump(mode="json"), False


def read_bundle(path: Path) -> tuple[Any, bool]:
    bundle = open_bundle(path.parents[1])
    weights = {name: value.numpy().tobytes() for name, value in bundle.network.state_dict().items()}
    return (weights, bundle.data.model_dump(mode="json"), repr(vars(bundle.inferer))), False


def read_checkpoint(path: Path) -> tuple[Any, bool]:
    state = checkpoint.read(path)
    return (state["method"]["weight"].tolist(), state["iteration"]), False


FORMATS = {
    "NIfTI": Format(write_nifti("a.nii"), read_image, False),
    "NIfTI, gzip": Format(write_nifti("a.nii.gz"), read_image, True),
    "NRRD": Format(write_itk("a.nrrd", packed=False), read_image, False),
    "NRRD, gzip": Format(write_itk("a.nrrd", packed=True), read_image, False),
    "MetaImage": Format(write_itk("a.mha", packed=False), read_image, False),
    "MetaImage, zlib": Format(write_itk("a.mha", packed=True), read_image, False),
    "PNG": Format(write_png, read_image, True),
    "DICOM slice": Format(write_dicom, read_dicom, False),
    "manifest, JSON": Format(write_manifest, read_manifest, False, text=True),
    "pipeline, YAML": Format(write_pipeline, read_pipeline, False, text=True),
    "bundle, configuration": Format(write_bundle_file("configs/inference.json"), read_bundle, False, text=True),
    "bundle, weights": Format(write_bundle_file("models/model.pt"), read_bundle, True),
    "checkpoint": Format(write_checkpoint, read_checkpoint, True),
}


def mutated(content: bytes, rng: random.Random, *, text: bool) -> bytes:
    """The content with one fault of a random kind; half of the faults are in the first thousand bytes, the headers."""
    end = min(len(content), 1000) if rng.random() < 0.5 else len(content)
    at = rng.randrange(end)
    kinds = ["flip", "cut", "drop", "double", "number", "zeros"]
    kind = rng.choice([*kinds, "word", "word", "word"] if text else [*kinds, "word"])
    length = rng.randint(1, 40)
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "drop":
        return content[:at] + content[at + length :]
    if kind == "double":
        return content[: at + length] + content[at:]
    if kind == "number":
        return content[:at] + rng.choice(ODD_NUMBERS) + content[at + 4 :]
    if kind == "zeros":
        return content[:at] + bytes(length) + content[at + length :]
    return content[:at] + rng.choice(ODD_WORDS) + content[at + rng.randint(0, 6) :]


def outcome(read: Callable[[Path], tuple[Any, bool]], path: Path, wanted: Any, seconds: int) -> tuple[str, str]:
    """What came of reading a file in a process of its own, and the words of an error that is none of ours."""
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        signal.alarm(seconds)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            value, warned = read(path)
            found = "same" if value == wanted else "warned" if warned else "other"
            os.write(theirs, found.encode())
        except MedsegError as error:
            os.write(theirs, b"refused" if "\n" not in str(error) else b"crash: more than one line")
        except BaseException as error:
            os.write(theirs, f"crash: {type(error).__name__}: {error}"[:300].encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as stream:
        told = stream.read().decode(errors="replace")
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return ("hang", "") if number == signal.SIGALRM else ("crash", f"signal {number}")
    word, _, more = told.partition(": ")
    return word, more


def main() -> None:
    """Print a line for each format; what crashed, hung or was read as something else in spite of checksums is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="mutations, shared out among the formats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a format, as the table names it")
    parser.add_argument("--limit", type=int, default=20, help="seconds for each")
    parser.add_argument("--output", type=Path, default=Path("fuzz"), help="folder for what went wrong")
    options = parser.parse_args()
    formats = {name: each for name, each in FORMATS.items() if options.only in (None, name)}
    print("| format | " + " | ".join(OUTCOMES) + " | checksums |\n|---|" + "---|" * (len(OUTCOMES) + 1), flush=True)
    for number, (name, each) in enumerate(formats.items()):
        count = options.count // len(formats) + (number < options.count % len(formats))
        with tempfile.TemporaryDirectory() as place:
            counts = try_format(name, each, Path(place), count, options)
        cells = [str(counts[word]) for word in OUTCOMES]
        print(f"| {name} | " + " | ".join(cells) + f" | {'yes' if each.checked else 'no'} |", flush=True)


def try_format(name: str, each: Format, place: Path, count: int, options: argparse.Namespace) -> Counter[str]:
    """Counts of outcomes of so many mutations of one format."""
    path = each.write(place)
    content = path.read_bytes()
    wanted, _ = each.read(path)
    counts: Counter[str] = Counter()
    for number in range(count):
        rng = random.Random(f"{options.seed} {name} {number}")
        path.write_bytes(mutated(content, rng, text=each.text))
        word, more = outcome(each.read, path, wanted, options.limit)
        counts[word] += 1
        if word in ("crash", "hang") or (word == "other" and each.checked):
            options.output.mkdir(parents=True, exist_ok=True)
            kept = options.output / f"{name.replace(', ', '-')}-{number}{path.suffix}"
            shutil.copy(path, kept)
            print(f"{kept}: {word} {more}", file=sys.stderr, flush=True)
    return counts


if __name__ == "__main__":
    main()
