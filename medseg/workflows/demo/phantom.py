"""CT-like abdominal phantoms with known truth, for the demonstration, tests and examples.

Nothing here comes from a patient. Subjects differ in build, contrast phase, breathing and the place and
size of every organ; scans in spacing, noise and the way they are stored. The truth of the cases that count
as unlabelled is written beside them, in `hidden/`, and is not in the manifest: it is for measuring.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from medseg.atomic import make_folder, write_whole
from medseg.portable.io.write import write_nifti
from medseg.workflows.demo.anatomy import LABELS, Subject, fill_anatomy
from medseg.workflows.demo.tissue_grid import TissueGrid

FINE = 2
"""Fine voxels per voxel along each axis: their mean is the partial volume effect."""

WAVES = (4, 4, 3)
"""Cosines along each axis of which a smooth random field is made."""


def write_phantoms(
    folder: Path,
    *,
    labeled: int = 4,
    unlabeled: int = 16,
    validation: int = 2,
    test: int = 4,
    shape: tuple[int, int, int] = (96, 80, 40),
    spacing_mm: tuple[float, float, float] = (3.2, 3.2, 5.0),
    seed: int = 0,
) -> Path:
    """Write a generated data set.

    Args:
        folder: gets `images/`, `labels/`, `hidden/` and `dataset.json`.
        labeled: cases under `training`.
        unlabeled: cases under `unlabeled`.
        validation: cases under `validation`.
        test: cases under `test`, with labels.
        shape: voxels along x, y, z.
        spacing_mm: on average; single scans differ by a few per cent.
        seed: the same seed gives the same bytes, and case `n` does not depend on how many there are.

    Returns:
        The manifest.

    Raises:
        OutputError: a file cannot be written.
    """
    sections = {"training": labeled, "validation": validation, "test": test, "unlabeled": unlabeled}
    manifest: dict[str, Any] = {
        "name": "Phantom",
        "description": f"Generated CT-like abdomens, seed {seed}; no patient data.",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in LABELS.items()},
    }
    for number, (section, count) in enumerate(sections.items()):
        entries = []
        for index in range(count):
            phantom = make_phantom(shape, spacing_mm, seed=(seed, number, index))
            entries.append(_write_case(folder, section, index, phantom))
        manifest[section] = entries
    return write_whole(folder / "dataset.json", json.dumps(manifest, indent=1) + "\n")


def _write_case(
    folder: Path, section: str, index: int, phantom: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> dict[str, str]:
    """Write image and label of a case; returns its entry in the manifest."""
    image, label, affine = phantom
    name = f"{section}_{index:03d}"
    entry = {"image": f"images/{name}.nii.gz", "subject": name}
    _write(folder / "images" / f"{name}.nii.gz", image, affine)
    if section == "unlabeled":
        _write(folder / "hidden" / f"{name}.nii.gz", label, affine, "label")
    else:
        _write(folder / "labels" / f"{name}.nii.gz", label, affine, "label")
        entry["label"] = f"labels/{name}.nii.gz"
    return entry


def make_phantom(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], *, seed: int | tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One subject's scan.

    Args:
        shape: voxels along x, y, z.
        spacing_mm: on average.
        seed: of everything about it.

    Returns:
        Image `(X, Y, Z)` int16 in HU, label `(X, Y, Z)` uint8, affine (4, 4) to mm in RAS+. Two of three
        scans are stored as scanners do, with x to the left and y to the back.
    """
    rng = np.random.default_rng(seed)
    spacing = np.array(spacing_mm) * rng.uniform(0.94, 1.06, 3)[[0, 0, 2]]
    subject = Subject.draw(rng)
    points, irregularity = _deform_space(shape, spacing, rng)
    grid = TissueGrid(points, irregularity)
    fill_anatomy(grid, subject, rng)
    image = _scan(_group_fine_voxels(grid.density).mean(-1), rng)
    label = _vote(_group_fine_voxels(grid.label))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2 + rng.uniform(-40, 40, 3)
    if rng.random() < 2 / 3:
        image, label = image[::-1, ::-1], label[::-1, ::-1]
        affine = affine @ _flip_of_x_and_y(shape)
    return np.ascontiguousarray(image), np.ascontiguousarray(label), affine


def _flip_of_x_and_y(shape: tuple[int, int, int]) -> np.ndarray:
    """Voxel indices of a volume whose first two axes are flipped -> indices before that."""
    return np.array([[-1, 0, 0, shape[0] - 1], [0, -1, 0, shape[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]])


def _deform_space(
    shape: tuple[int, int, int], spacing: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Where fine voxels lie in the subject (pose and deformation), and two fields for irregular outlines."""
    fine = [n * FINE for n in shape]
    axes = []
    for n, mm in zip(fine, spacing, strict=True):
        steps = np.arange(n, dtype=np.float32) - (n - 1) / 2
        axes.append(steps * np.float32(mm / FINE))
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"))
    angles = np.deg2rad(rng.normal(0, (3.5, 3.0, 7.0)))
    points = np.tensordot(_rotation(*angles).astype(np.float32), voxels, 1)
    points += rng.normal(0, 5, (3, 1, 1, 1)).astype(np.float32)
    for axis in range(3):
        points[axis] += 7 * _smooth_field(fine, rng)
    irregularity = np.stack([_smooth_field(fine, rng, finer=2) for _ in range(2)])
    return points, irregularity


def _rotation(a: float, b: float, c: float) -> np.ndarray:
    """Matrix of a rotation about x, y and z by angles in radians."""
    (ca, cb, cc), (sa, sb, sc) = np.cos([a, b, c]), np.sin([a, b, c])
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def _smooth_field(shape: list[int], rng: np.random.Generator, finer: int = 1) -> np.ndarray:
    """A sum of a few cosines with random weights, of unit variance: smooth, and cheap on any grid."""
    waves = [n * finer for n in WAVES]
    rates = np.meshgrid(*[np.arange(n) for n in waves], indexing="ij")
    rate = np.sqrt(sum(each.astype(float) ** 2 for each in rates))
    weights = rng.normal(size=waves) / (1 + rate / finer) ** 1.5
    weights[0, 0, 0] = 0
    field = weights
    for n, count in zip(shape, waves, strict=True):
        places = (np.arange(n) + 0.5) / n
        cosines = np.cos(np.pi * np.outer(places, np.arange(count)))
        field = np.moveaxis(np.tensordot(cosines, field, (1, 0)), 0, -1)
    return (field / field.std()).astype(np.float32)


def _group_fine_voxels(fine: np.ndarray) -> np.ndarray:
    """`(X, Y, Z, FINE ** 3)`: the fine voxels of each voxel."""
    x, y, z = (n // FINE for n in fine.shape)
    parts = fine.reshape(x, FINE, y, FINE, z, FINE).transpose(0, 2, 4, 1, 3, 5)
    return parts.reshape(x, y, z, FINE**3)


def _vote(parts: np.ndarray) -> np.ndarray:
    """The label of most fine voxels, `(X, Y, Z)`."""
    counts = np.stack([(parts == value).sum(-1, dtype=np.uint8) for value in LABELS])
    return counts.argmax(0).astype(np.uint8)


def _scan(density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Density as a scanner shows it: texture, blur, and noise that grows with what the rays have to pass."""
    tissue = np.clip((density + 300) / 300, 0, 1)
    texture = _smooth_noise(density.shape, (2, 2, 1.2), rng)
    image = density + 14 * texture / texture.std() * tissue * (density < 250)
    blur = rng.uniform(0.3, 0.6)
    image = ndimage.gaussian_filter(image, (blur, blur, 0.25))
    water = np.clip(1 + density / 1000, 0, 2)
    path = 0.5 * (water.mean(0, keepdims=True) + water.mean(1, keepdims=True))
    strength = rng.uniform(14, 30) * np.exp(1.2 * (path - path.mean()))  # photons are lost exponentially
    noise = _smooth_noise(density.shape, (0.6, 0.6, 0.3), rng)
    image = image + strength * noise / noise.std()
    return np.clip(np.round(image), -1024, 3071).astype(np.int16)


def _smooth_noise(shape: tuple[int, ...], sigma: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    white = rng.normal(size=shape).astype(np.float32)
    return ndimage.gaussian_filter(white, sigma)


def _write(path: Path, array: np.ndarray, affine: np.ndarray, intent: str = "none") -> None:
    make_folder(path.parent)
    write_nifti(path, array, affine, intent=intent)
