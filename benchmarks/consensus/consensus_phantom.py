"""A generated image with its truth, and raters who err in different ways.

An ellipsoid with a smooth wobble (or curved vessels) under blur, a bias field, noise and distracting blobs. Raters act
on the signed distance of each class: `jitter` and `good` move the boundary by a smooth field, `over` lies 3 voxels too
far out, `holes` misses patches, `missing` annotated the first half of the x axis only, `rows` every other row only,
`outlier` drew the thing a tenth of each axis aside (in a volume not along z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from scipy import ndimage

from medseg.consensus.study import MISSING, Rater, Study

INTENSITIES = (0.0, 1.0, 1.8, -0.8)
"""Of the first classes; the others lie between the least and the largest of them."""
BLUR, BIAS, NOISE, DISTRACTOR = 0.7, 0.15, 0.35, 0.9


@dataclass(frozen=True)
class Scene:
    """What to generate.

    Args:
        raters: kinds, as in the module's text.
        shape: of the grid; Z = 1 for a picture.
        spacing_mm: of the grid.
        classes: K; each foreground class is a part of the ellipsoid.
        kind: "ellipsoid" or "vessels".
        contrast: 0 for an image that shows nothing.
        radius: half axes of the ellipsoid as a share of the axis.
    """

    raters: tuple[str, ...] = ("jitter", "over", "holes", "missing", "outlier")
    shape: tuple[int, int, int] = (256, 256, 1)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    classes: int = 2
    kind: str = "ellipsoid"
    contrast: float = 1.0
    radius: float = 0.28


def generate(scene: Scene, seed: int) -> tuple[Study, np.ndarray]:
    """The study and the true labels `(X, Y, Z)` uint8."""
    random = np.random.default_rng(seed)
    truth = _vessels(scene, random) if scene.kind == "vessels" else _ellipsoid(scene, random)
    image = _image(scene, truth, random)
    distances = np.stack([_signed_distance(truth == c) for c in range(1, scene.classes)])
    raters = []
    for number, kind in enumerate(scene.raters):
        raters.append(Rater(f"{kind}{number}", _rater(kind, distances, truth, random)))
    classes = ("background", *(f"class{c}" for c in range(1, scene.classes)))
    return Study(tuple(raters), classes, scene.spacing_mm, image[None]), truth


def _field(shape: Sequence[int], sigma: float | Sequence[float], random: np.random.Generator) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1."""
    widths = [0.0 if n == 1 else s for n, s in zip(shape, np.broadcast_to(sigma, len(shape)), strict=True)]
    field = ndimage.gaussian_filter(random.standard_normal(shape).astype(np.float32), widths, mode="wrap", truncate=3)
    return (field - field.mean()) / field.std()


def _axes(shape: Sequence[int]) -> list[np.ndarray]:
    """Coordinates from -0.5 to 0.5, 0 along a flat axis."""
    lines = [np.linspace(-0.5, 0.5, n) if n > 1 else np.zeros(1) for n in shape]
    return list(np.meshgrid(*lines, indexing="ij", sparse=True))


def _ellipsoid(scene: Scene, random: np.random.Generator) -> np.ndarray:
    x, y, z = _axes(scene.shape)
    radius = np.sqrt(x * x + y * y + z * z) / scene.radius
    inside = radius + 0.18 * _field(scene.shape, [0.06 * n for n in scene.shape], random) < 1
    # more classes are sectors of the ellipsoid, with a wobble of their own
    turn = np.arctan2(y, x) / (2 * np.pi) + 0.5 + 0.03 * _field(scene.shape, [0.06 * n for n in scene.shape], random)
    sector = np.floor(turn * (scene.classes - 1)).astype(int) % (scene.classes - 1)
    return np.where(inside, sector + 1, 0).astype(np.uint8)


def _vessels(scene: Scene, random: np.random.Generator, count: int = 8, width: float = 3.0) -> np.ndarray:
    """Smooth curves across the grid, `width` voxels wide."""
    line = np.ones(scene.shape, bool)
    for _ in range(count):
        way = np.cumsum(_field((scene.shape[0] * 2,), 12, random) * 0.08) + random.uniform(0, 2 * np.pi)
        start = random.uniform(0.2, 0.8, 2) * scene.shape[:2]
        points = start[:, None] + 0.5 * np.cumsum([np.cos(way), np.sin(way)], axis=1)
        at = np.rint(points).astype(int)
        at = at[:, (at >= 4).all(axis=0) & (at < np.array(scene.shape[:2])[:, None] - 4).all(axis=0)]
        line[at[0], at[1], 0] = False
    return (edt.edt(line) <= width / 2).astype(np.uint8)


def _image(scene: Scene, truth: np.ndarray, random: np.random.Generator) -> np.ndarray:
    flat = [n == 1 for n in scene.shape]
    clean = _intensities(scene.classes)[truth]
    far = edt.edt(truth == 0) >= 6
    clean[(_field(scene.shape, 4.0, random) > 1.8) & far] = DISTRACTOR
    clean = ndimage.gaussian_filter(clean * scene.contrast, [0 if f else BLUR for f in flat])
    bias = BIAS * _field(scene.shape, [n / 6 for n in scene.shape], random)
    return (clean + bias + NOISE * random.standard_normal(scene.shape)).astype(np.float32)


def _intensities(classes: int) -> np.ndarray:
    low, high = min(INTENSITIES), max(INTENSITIES)
    golden = (5**0.5 - 1) / 2  # steps of it never fall on the same value twice
    more = [low + (high - low) * (golden * c % 1) for c in range(len(INTENSITIES), classes)]
    return np.array([*INTENSITIES, *more], np.float32)


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Voxels to the boundary, negative inside."""
    outside, inside = edt.edt(~mask), edt.edt(mask)
    return np.maximum(outside - 0.5, 0) - np.maximum(inside - 0.5, 0)


def _rater(kind: str, distances: np.ndarray, truth: np.ndarray, random: np.random.Generator) -> np.ndarray:
    shape = truth.shape
    deviation = {"jitter": 1.5, "good": 1.0, "missing": 1.0, "rows": 1.0}.get(kind, 0.0)
    moved = distances + deviation * _field(shape, 4.0, random) if deviation else distances.copy()
    if kind == "over":
        moved -= 3.0
    if kind == "outlier":
        aside = [0 if n == 1 or (axis == 2 and n > 1) else round(0.1 * n) for axis, n in enumerate(shape)]
        moved = np.roll(moved, aside, axis=(1, 2, 3))
    labels = np.where(moved.min(axis=0) < 0, moved.argmin(axis=0) + 1, 0).astype(np.uint8)
    if kind == "holes":
        labels[_field(shape, 4.0, random) > 1.5] = 0
    if kind == "missing":
        labels[shape[0] // 2 :] = MISSING
    if kind == "rows":
        labels[1::2] = MISSING
    return labels
