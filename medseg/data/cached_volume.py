"""A preprocessed case on disk, read back memory-mapped: a patch costs the bytes of that patch.

A folder holds one case: `image.npy` float16 `(C, X, Y, Z)`, `label.npy` uint8 `(X, Y, Z)` of class indices
with 255 = ignore, `voxels.npy` int32 `(N, 3)` with some voxels of each class, and `entry.json`, which tells
the rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.body_slices import body_slices
from medseg.errors import DataError
from medseg.method import IGNORE

ANNOTATED = "annotated"
"""Key of voxels that are not ignored, in volumes of which only a part is annotated."""

MOST_VOXELS = 4000
"""Coordinates kept per class: enough that patches rarely repeat, few enough to be read at once."""


@dataclass(frozen=True, eq=False)
class Content:
    """A preprocessed case in memory.

    Args:
        image: `(C, X, Y, Z)` float16.
        label: `(X, Y, Z)` uint8 class indices, 255 = ignore; None: no label.
        affine: (4, 4), voxels to millimetres in RAS+.
        maps: name -> `(X, Y, Z)` float16.
        notes: kind of oddity -> what was odd about the files, and what was made of it.
    """

    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CachedVolume:
    """A preprocessed case on disk; small, and may travel between processes.

    Args:
        name: of the case.
        source: the file it was made from, for messages.
        image_path: float16 `(C, X, Y, Z)`.
        label_path: uint8 `(X, Y, Z)`, or None.
        voxels_path: int32 `(N, 3)`, the groups of `voxel_ranges` one after the other.
        shape: voxels along x, y, z.
        channels: of the image.
        spacing_mm: of the preprocessed grid.
        affine: (4, 4), voxels to millimetres in RAS+.
        background: smallest value of each channel, which stands for what lies outside.
        voxel_ranges: class index (as text) or "annotated" -> where the group begins and ends in the file of voxels.
        body: for each axis which slices show the body, see `medseg.data.body_slices`.
        maps: name -> float16 `(X, Y, Z)`.
        pseudo: its label was predicted, not annotated.
        covered: for each class whether the label tells it apart; None: all.
        presence: class, not the background's -> whether it is in the image, as far as its tags say; None: no tags.
        has_background: whether class 0 is the background; else its voxels are among `voxels_path` too.
        subject: whose image it is, as far as the manifest says.
        notes: kind of oddity -> what was odd about the files, and what was made of it.
    """

    name: str
    source: Path
    image_path: Path
    label_path: Path | None
    voxels_path: Path
    shape: tuple[int, int, int]
    channels: int
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    background: tuple[float, ...]
    voxel_ranges: Mapping[str, tuple[int, int]]
    body: tuple[str, str, str]
    maps: Mapping[str, Path] = field(default_factory=dict)
    pseudo: bool = False
    covered: tuple[bool, ...] | None = None
    presence: Mapping[int, bool] | None = None
    has_background: bool = True
    subject: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def image(self) -> np.ndarray:
        """`(C, X, Y, Z)` float16, mapped anew: nothing is read yet, no file stays open with the volume."""
        return self._mapped(self.image_path)

    @property
    def label(self) -> np.ndarray:
        """`(X, Y, Z)` uint8 class indices, 255 = ignore, mapped anew.

        Raises:
            DataError: there is none.
        """
        if self.label_path is None:
            raise DataError("has no label", path=self.source)
        return self._mapped(self.label_path)

    def map(self, name: str) -> np.ndarray:
        """`(X, Y, Z)` float16, mapped anew.

        Raises:
            DataError: there is none of this name.
        """
        if name not in self.maps:
            raise DataError(f"has no map called {name!r}", path=self.source)
        return self._mapped(self.maps[name])

    def tags(self, classes: int) -> np.ndarray:
        """For each class but the background 1 = present, 0 = absent, 255 = not known: by tags, else by the label."""
        first = int(self.has_background)
        tags = np.full(classes - first, IGNORE, np.uint8)
        for index in range(first, classes):
            present = self._is_present(index)
            if present is not None:
                tags[index - first] = present
        return tags

    def _is_present(self, index: int) -> bool | None:
        if self.presence is not None:
            return self.presence.get(index)
        is_covered = self.covered is None or self.covered[index]
        if self.label_path is None or not is_covered:
            return None
        return str(index) in self.voxel_ranges

    @property
    def foreground(self) -> dict[int, np.ndarray]:
        """Up to `MOST_VOXELS` random voxels `(n, 3)` of each class that is present, background left out."""
        voxels = self._mapped(self.voxels_path)
        found = {}
        for group, (first, end) in self.voxel_ranges.items():
            if group != ANNOTATED:
                found[int(group)] = voxels[first:end]
        return found

    @property
    def annotated(self) -> np.ndarray | None:
        """Random voxels `(n, 3)` that are not ignored; None where no voxel is ignored, or every one."""
        first, end = self.voxel_ranges.get(ANNOTATED, (0, 0))
        return self._mapped(self.voxels_path)[first:end] if end > first else None

    def _mapped(self, path: Path) -> np.ndarray:
        # copy-on-write: pages are shared between processes, and torch takes the array as writable
        try:
            return np.load(path, mmap_mode="c")
        except (OSError, ValueError) as error:
            raise DataError(
                f"the cached copy of {self.source} is gone or damaged ({error})",
                path=path,
                hint="start again: it will be made anew",
            ) from error


def some_voxels(
    label: np.ndarray, seed: int, has_background: bool = True
) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Random voxels of each class but the background and, if some are ignored, of the annotated part.

    Args:
        label: `(X, Y, Z)` class indices, 255 = ignore.
        seed: the same label and seed give the same voxels.
        has_background: whether class 0 is the background.

    Returns:
        int32 `(N, 3)`, and where in it each group begins and ends.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(label.reshape(-1), minlength=IGNORE + 1)
    groups = [(str(index), label == index) for index in range(int(has_background), IGNORE) if counts[index]]
    if counts[IGNORE]:
        groups.append((ANNOTATED, label != IGNORE))
    chosen = [np.empty((0, 3), np.int32)]
    ranges = {}
    first = 0
    for name, mask in groups:
        flat = np.flatnonzero(mask)
        if len(flat) > MOST_VOXELS:
            flat = rng.choice(flat, MOST_VOXELS, replace=False)
        chosen.append(np.stack(np.unravel_index(flat, label.shape), 1).astype(np.int32))
        ranges[name] = (first, first + len(flat))
        first += len(flat)
    return np.concatenate(chosen), ranges


def write(folder: Path, content: Content, seed: int, has_background: bool = True) -> None:
    """Write a case into an empty folder; every file is on the disk before this returns.

    Args:
        folder: exists.
        content: what to write.
        seed: for the choice of voxels.
        has_background: whether class 0 is the background, of which no voxels are chosen.
    """
    voxels = np.empty((0, 3), np.int32)
    ranges: dict[str, tuple[int, int]] = {}
    if content.label is not None:
        voxels, ranges = some_voxels(content.label, seed, has_background)
        _save(folder / "label.npy", content.label)
    for name, values in content.maps.items():
        _save(folder / f"map_{name}.npy", values)
    _save(folder / "image.npy", content.image)
    _save(folder / "voxels.npy", voxels)
    entry = {
        "shape": list(content.image.shape[1:]),
        "channels": content.image.shape[0],
        "spacing_mm": np.linalg.norm(content.affine[:3, :3], axis=0).tolist(),
        "affine": content.affine.tolist(),
        "background": content.image.reshape(len(content.image), -1).min(1).astype(float).tolist(),
        "voxel_ranges": ranges,
        "body": body_slices(content.image, content.label),
        "maps": list(content.maps),
        "notes": dict(content.notes),
        "bytes": {file.name: file.stat().st_size for file in sorted(folder.glob("*.npy"))},
    }
    with open(folder / "entry.json", "w", encoding="utf-8") as file:
        json.dump(entry, file)
        file.flush()
        os.fsync(file.fileno())


def _save(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path, name: str, source: Path, labelled: bool) -> CachedVolume | None:
    """Open what `write` wrote; None where it is absent or damaged."""
    try:
        entry: dict[str, Any] = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        if any((folder / file).stat().st_size != size for file, size in entry["bytes"].items()):
            return None
        affine = np.array(entry["affine"], float).reshape(4, 4)
        ranges = {}
        for group, (first, end) in entry["voxel_ranges"].items():
            ranges[str(group)] = (int(first), int(end))
        x, y, z = (int(n) for n in entry["shape"])
        across_x, across_y, across_z = (str(b) for b in entry["body"])
        dx, dy, dz = (float(d) for d in entry["spacing_mm"])
        volume = CachedVolume(
            name=name,
            source=source,
            image_path=folder / "image.npy",
            label_path=folder / "label.npy" if labelled else None,
            voxels_path=folder / "voxels.npy",
            shape=(x, y, z),
            channels=int(entry["channels"]),
            spacing_mm=(dx, dy, dz),
            affine=affine,
            background=tuple(float(b) for b in entry["background"]),
            voxel_ranges=ranges,
            maps={str(name): folder / f"map_{name}.npy" for name in entry["maps"]},
            body=(across_x, across_y, across_z),
            notes=dict(entry.get("notes", {})),
        )
        images_fit = volume.image.shape == (volume.channels, *volume.shape)
        slices_fit = tuple(len(b) for b in volume.body) == volume.shape
        labels_fit = not labelled or volume.label.shape == volume.shape
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
        return None
    return volume if images_fit and slices_fit and labels_fit else None
