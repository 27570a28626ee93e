"""Scans for a machine that has none: packed as 8-bit arrays, unpacked as NIfTI, or generated.

    python benchmarks/gpu/scans.py pack MANIFEST FOLDER
    python benchmarks/gpu/scans.py unpack FOLDER OUTPUT

Packing loses nothing: a scan must have at most 256 evenly spaced grey values, as those of the left atrium have. Each
array is stored as its differences along x and y, which xz makes much smaller than the scans' own gzip does.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SECTIONS = ("training", "unlabeled", "test")
INDEX = "scans.json"


def pack(manifest: Path, folder: Path) -> Path:
    """Write all scans of a manifest, and the labels that it names, into a new folder.

    Raises:
        OSError: a folder that is there already, or a file that is missing.
        ValueError: a file with values that 8 bits cannot hold. Nothing new is left.
    """
    if folder.exists():
        raise FileExistsError(f"{folder}: is there already")
    content = json.loads(manifest.read_text(encoding="utf-8"))
    folder.mkdir(parents=True)
    names = sorted({name for case in _cases(content) for name in _files(case)})
    try:
        with ThreadPoolExecutor() as pool:
            entries = list(pool.map(lambda name: _pack_one(manifest.parent, name, folder), names))
    except BaseException:
        shutil.rmtree(folder)
        raise
    (folder / INDEX).write_text(json.dumps({"manifest": content, "files": dict(zip(names, entries, strict=True))}))
    return folder


def _cases(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for section in SECTIONS:
        yield from content.get(section, ())


def _files(case: dict[str, Any]) -> list[str]:
    return [case[key] for key in ("image", "label") if key in case]


def _pack_one(source: Path, name: str, folder: Path) -> dict[str, Any]:
    path = source / name
    scan = nib.load(path)
    levels, step, lowest = eight_bit(np.asanyarray(scan.dataobj), path)
    packed = Path(name.removesuffix(".gz").removesuffix(".nii") + ".xz")
    (folder / packed).parent.mkdir(parents=True, exist_ok=True)
    (folder / packed).write_bytes(lzma.compress(differences(levels).tobytes("F")))
    return {
        "packed": str(packed),
        "shape": levels.shape,
        "affine": scan.affine.tolist(),
        "step": step,
        "lowest": lowest,
    }


def eight_bit(values: np.ndarray, path: Path) -> tuple[np.ndarray, float, float]:
    """Grey levels, the value of one level, and the lowest value: `values == lowest + step * levels`.

    Raises:
        ValueError: values that 256 even levels do not hold.
    """
    found = np.unique(values)
    lowest = float(found[0])
    step = float(np.diff(found).min()) if len(found) > 1 else 1.0
    levels = np.rint((values - lowest) / step)
    if levels.max() > 255 or np.abs(levels * step + lowest - values).max() > 0.01 * step:
        raise ValueError(f"{path}: has {len(found)} values; accepted are at most 256 evenly spaced ones")
    return levels.astype(np.uint8), step, lowest


def differences(levels: np.ndarray) -> np.ndarray:
    """Each voxel less its neighbours along x and y, modulo 256."""
    for axis in (0, 1):
        levels = np.diff(levels, axis=axis, prepend=np.uint8(0))
    return levels


def summed(differing: np.ndarray) -> np.ndarray:
    """Undo `differences`."""
    for axis in (1, 0):
        differing = np.cumsum(differing, axis=axis, dtype=np.uint8)
    return differing


def unpack(folder: Path, output: Path) -> Path:
    """Write the packed scans as `.nii` with a manifest, unless they are there already.

    Returns:
        The manifest.
    """
    manifest = output / "manifest.json"
    if manifest.exists():
        return manifest
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    output.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda entry: _unpack_one(folder, output, entry), index["files"].values()))
    content = index["manifest"]
    for case in _cases(content):
        for key in ("image", "label"):
            if key in case:
                case[key] = _plain(index["files"][case[key]])
    return _last(manifest, content)


def _plain(entry: dict[str, Any]) -> str:
    return entry["packed"].removesuffix(".xz") + ".nii"


def _unpack_one(folder: Path, output: Path, entry: dict[str, Any]) -> None:
    stored = lzma.decompress((folder / entry["packed"]).read_bytes())
    levels = summed(np.frombuffer(stored, np.uint8).reshape(entry["shape"], order="F"))
    _write(output / _plain(entry), levels, np.array(entry["affine"]), entry["step"], entry["lowest"])


def _write(path: Path, levels: np.ndarray, affine: np.ndarray, step: float, lowest: float) -> None:
    """A file of bytes whose header has the scale; nibabel stores the levels as they are once a scale is given."""
    image = nib.Nifti1Image(levels.astype(np.uint8), affine)
    image.header.set_slope_inter(step, lowest)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def _last(manifest: Path, content: dict[str, Any]) -> Path:
    """Write the manifest when all its files are there, whole or not at all."""
    temporary = manifest.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(manifest)
    return manifest


def generate(folder: Path, shape: tuple[int, int, int], *, classes: int = 2, spacing_mm: float = 1.0) -> Path:
    """Four labelled, two unlabelled and two test scans: noise with bright ellipsoids.

    Returns:
        The manifest.
    """
    manifest = folder / "manifest.json"
    if manifest.exists():
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    content: dict[str, Any] = {
        "name": "generated",
        "modality": {"0": "MR"},
        "labels": {"0": "background"} | {str(value): f"object {value}" for value in range(1, classes)},
    }
    for section, count in zip(SECTIONS, (4, 2, 2), strict=True):
        content[section] = []
        for number in range(count):
            case = {"image": f"{section}{number}.nii", "label": f"{section}{number}-label.nii"}
            label = _ellipsoids(shape, classes, rng)
            noise = rng.normal(0, 20, shape)
            _write(folder / case["image"], np.clip(40 + 60 * label + noise, 0, 255).round(), affine, 1.0, 0.0)
            _write(folder / case["label"], label, affine, 1.0, 0.0)
            content[section].append({"image": case["image"]} if section == "unlabeled" else case)
    return _last(manifest, content)


def _ellipsoids(shape: tuple[int, int, int], classes: int, rng: np.random.Generator) -> np.ndarray:
    """One of each class, somewhere in the middle half."""
    size = np.array(shape)[:, None, None, None]
    grid = np.indices(shape)
    label = np.zeros(shape, np.uint8)
    for value in range(1, classes):
        centre = size * rng.uniform(0.4, 0.6, (3, 1, 1, 1))
        label[(((grid - centre) / (0.25 * size)) ** 2).sum(0) < 1] = value
    return label


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pack", "unpack"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    chosen = parser.parse_args()
    work = pack if chosen.what == "pack" else unpack
    try:
        print(work(chosen.source, chosen.target))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
