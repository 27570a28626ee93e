"""A cropped scan is predicted nearly as well as the whole one, by a network that was trained on whole scans.

The generated scans show tissue of every brightness, as real ones do, so that a part of a scan has about the mean and
spread of the whole: what is looked for is no brighter than the rest, but has a dark wall and is even inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from medseg.bundle.bundle import open_bundle
from medseg.bundle.runner import BundleRunner
from medseg.workflows.train.run import train

SHAPE = (40, 36, 28)
SETTINGS = [
    "stages.0.network.width=8",
    "stages.0.schedule.iterations=300",
    "stages.0.schedule.batch.labeled=4",
    "data.patch=[24,24,16]",
]
LOST = 0.03
CPU = torch.device("cpu")

pytestmark = pytest.mark.slow


def write_scans(folder: Path, *, training: int = 8, test: int = 4) -> Path:
    """Scans with a walled ball among tissue, and a manifest."""
    folder.mkdir()
    content: dict = {"name": "walled", "modality": {"0": "MR"}, "labels": {"0": "background", "1": "ball"}}
    rng = np.random.default_rng(0)
    for section, count in (("training", training), ("test", test)):
        content[section] = [_write_case(folder, f"{section}{number}", rng) for number in range(count)]
    (folder / "m.json").write_text(json.dumps(content))
    return folder / "m.json"


def _write_case(folder: Path, name: str, rng: np.random.Generator) -> dict[str, str]:
    """A scan of unit spread: tissue in blobs of about four voxels, the ball's inside even, its wall dark."""
    tissue = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5)
    tissue /= tissue.std()
    centre = np.array(SHAPE) * rng.uniform(0.35, 0.65, 3)
    grid = np.stack(np.meshgrid(*[np.arange(size) for size in SHAPE], indexing="ij"), -1)
    distance = np.linalg.norm(grid - centre, axis=-1)
    radius = rng.uniform(5.5, 7.5)
    inside = distance < radius
    image = np.where(inside, 0.5, tissue)
    image[inside & (distance > radius - 1.5)] = -2.0
    scan = 400 + 100 * (image + 0.15 * rng.normal(size=SHAPE))
    nib.save(nib.Nifti1Image(scan.astype(np.int16), np.eye(4)), folder / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), np.eye(4)), folder / f"{name}_label.nii.gz")
    return {"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans") / "data")


@pytest.fixture(scope="module")
def runner(manifest, tmp_path_factory) -> BundleRunner:
    """The network as it is shipped, after a short training on whole scans."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return BundleRunner(open_bundle(train("supervised", manifest, folder, overrides=SETTINGS, device="cpu")), CPU)


def about(middle: np.ndarray) -> tuple[slice, ...]:
    """A box of 20 x 20 x 18 voxels about the ball: smaller than the window of 24 x 24 x 16 along two axes."""
    size = np.array([20, 20, 18])
    low = np.clip(middle - size / 2, 0, SHAPE - size).astype(int)
    return tuple(slice(first, first + length) for first, length in zip(low, size, strict=True))


def slab(middle: np.ndarray) -> tuple[slice, ...]:
    """All of x and y, and ten slices, where the window has 16."""
    low = int(np.clip(middle[2] - 5, 0, SHAPE[2] - 10))
    return slice(0, SHAPE[0]), slice(0, SHAPE[1]), slice(low, low + 10)


@pytest.mark.parametrize("part", [about, slab])
def test_a_cropped_scan_keeps_its_dice(
    part: Callable[[np.ndarray], tuple[slice, ...]], manifest: Path, runner: BundleRunner, tmp_path: Path
):
    whole, alone = [], []
    for case in json.loads(manifest.read_text())["test"]:
        image, label = (nib.load(manifest.parent / case[key]) for key in ("image", "label"))
        true = np.asarray(label.dataobj)
        box = part(np.argwhere(true == 1).mean(0))
        nib.save(image.slicer[box], tmp_path / "box.nii.gz")
        predicted = runner.predict(runner.read([manifest.parent / case["image"]])).labels
        whole.append(dice(predicted[box], true[box]))
        alone.append(dice(runner.predict(runner.read([tmp_path / "box.nii.gz"])).labels, true[box]))
    assert np.mean(whole) > 0.85, "it has learnt something"
    assert np.mean(alone) > np.mean(whole) - LOST, (whole, alone)


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    """Of the ball."""
    return float(2 * ((predicted == 1) & (true == 1)).sum() / ((predicted == 1).sum() + (true == 1).sum()))
