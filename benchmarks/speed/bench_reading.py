"""Reading a CT from .nii.gz: nibabel, SimpleITK, MONAI and the verified reader, interleaved in one process.

Run with one thread, as a loader worker has: `OMP_NUM_THREADS=1 python benchmarks/speed/bench_reading.py`
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import deflate
import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from isal import isal_zlib
from monai.transforms import LoadImage
from scipy.ndimage import gaussian_filter

from medseg.portable.io.monai_reader import VerifiedReader
from medseg.portable.io.read import read_volume

SHAPE = (256, 256, 120)
GOAL = 0.35  # of nibabel's time for the stored type


def make_ct() -> nib.Nifti1Image:
    """A body of smooth tissue in air, both with a scanner's noise; it packs to about half, as CT does."""
    rng = np.random.default_rng(0)
    tissue = gaussian_filter(rng.standard_normal(SHAPE, np.float32), 6) * 12000
    x, y = np.ogrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    air = (x / 0.9) ** 2 + (y / 0.7) ** 2 > 1
    tissue[air] = -1000
    tissue += rng.standard_normal(SHAPE, np.float32) * np.where(air, 5, 12)[..., None]
    array = tissue.clip(-1024, 3000).astype(np.int16)
    return nib.Nifti1Image(array, np.diag([0.8, 0.8, 2.5, 1]))


def readers(path: Path) -> dict[str, Callable[[], object]]:
    monai = LoadImage(reader="NibabelReader", ensure_channel_first=True)
    ours = LoadImage(reader=VerifiedReader, ensure_channel_first=True)
    size = len(gzip.decompress(path.read_bytes()))
    return {
        "nibabel, stored type": lambda: np.asarray(nib.load(path).dataobj),
        "nibabel get_fdata": lambda: nib.load(path).get_fdata(),
        "SimpleITK": lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(path))),
        "MONAI LoadImage": lambda: monai(path),
        "medseg read_volume": lambda: read_volume(path)[0],
        "medseg in LoadImage": lambda: ours(path),
        "floor: libdeflate into memory": lambda: deflate.gzip_decompress(path.read_bytes(), size),
        "floor: isal into memory": lambda: isal_zlib.decompress(path.read_bytes(), 31, size + 1),
    }


def measure(path: Path, rounds: int) -> dict[str, np.ndarray]:
    """CPU seconds of each reader in each round; the order turns, so that a slow moment hits them all."""
    todo = readers(path)
    times: dict[str, list[float]] = {name: [] for name in todo}
    for read in todo.values():
        read()
    names = list(todo)
    for n in range(rounds):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            start = time.process_time()
            todo[name]()
            times[name].append(time.process_time() - start)
    return {name: np.array(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    image = make_ct()
    with tempfile.TemporaryDirectory() as folder:
        for level, writer in ((1, "nibabel"), (6, "ITK and dcm2niix")):
            path = Path(folder) / f"level{level}.nii.gz"
            path.write_bytes(gzip.compress(image.to_bytes(), level))
            np.testing.assert_array_equal(read_volume(path)[0][0], image.dataobj)
            size = path.stat().st_size / 1e6
            packed = f"16 MB packed to {size:.1f} MB at level {level}, that of {writer}"
            print(f"\n{SHAPE} int16, {packed}; {rounds} rounds")
            report(measure(path, rounds))


def report(times: dict[str, np.ndarray]) -> None:
    first = times["nibabel, stored type"]
    print("\n| reader | CPU s | of nibabel's time |\n|---|---|---|")
    for name, found in times.items():
        print(f"| {name} | {np.median(found):.4f} | {np.median(found / first):.2f} |")
    ratio = float(np.median(times["medseg read_volume"] / first))
    print(f"\ngoal: at most {GOAL} of nibabel's time: {'reached' if ratio <= GOAL else 'MISSED'} ({ratio:.2f})")


if __name__ == "__main__":
    main()
