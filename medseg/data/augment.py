"""Random changes of training patches: first drawn, then applied, so that one draw hits image and label alike.

Crop, rotation and scale are one map from patch to volume: what is interpolated is interpolated once.
Without rotation and scale a patch is an exact copy; so are flips and quarter turns. What lies outside of a
volume is the background of the image, the minimum of each channel, and label 0: beyond the scan there is no
organ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseg.config import Augment
from medseg.data.affine_sampling import box, gather, source_box


@dataclass(frozen=True)
class Source:
    """A volume to cut patches from.

    Args:
        image: `(C, X, Y, Z)` floating point.
        label: `(1, X, Y, Z)` uint8, or None.
        background: `(C,)`, the image beyond its edges.
        repeat: axis beyond whose ends there are the outermost slices again, as neighbours of the slices there.
    """

    image: Tensor
    label: Tensor | None
    background: Tensor
    repeat: int | None = None


@dataclass(frozen=True, eq=False)
class Draw:
    """What will happen to one patch.

    Args:
        matrix: (3, 3) from patch offsets to volume offsets in voxels; None: an exact copy.
        turns: quarter turns in `turn_axes`.
        turn_axes: spatial axes of the turns.
        flips: spatial axes to reverse, after the turns.
        contrast: factor on the distance from each channel's mean; None: unchanged.
        gamma: exponent on the patch's own range of values; None: unchanged.
        noise: standard deviation of Gaussian noise, in units of the image; None: none.
        seed: of the noise.
    """

    matrix: np.ndarray | None = None
    turns: int = 0
    turn_axes: tuple[int, int] = (0, 1)
    flips: tuple[int, ...] = ()
    contrast: float | None = None
    gamma: float | None = None
    noise: float | None = None
    seed: int = 0

    def source_shape(self, patch: Sequence[int]) -> tuple[int, int, int]:
        """Shape of the patch before it is turned."""
        shape = list(patch)
        if self.turns % 2:
            a, b = self.turn_axes
            shape[a], shape[b] = shape[b], shape[a]
        return shape[0], shape[1], shape[2]


def draw(augment: Augment, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]) -> Draw:
    """Throw the dice for one patch.

    Args:
        augment: ranges and probabilities.
        rng: every number comes from here, always the same count of them.
        patch: voxels of the patch; nothing turns out of the plane of a patch that is one voxel thick.
        spacing_mm: of the volume; rotations are rotations in millimetres.
    """
    chance = rng.random(8)
    angles = np.radians(rng.uniform(-1, 1, 3) * augment.rotate_degrees)
    zoom, gamma, contrast = (rng.uniform(*limits) for limits in (augment.scale, augment.gamma, augment.contrast))
    noise, turns, seed = rng.uniform(0, augment.noise_std), int(rng.integers(4)), int(rng.integers(2**62))
    thick = np.array([n > 1 for n in patch])
    plane = augment.rot90_axes
    turnable = plane is not None and bool(thick[list(plane)].all())
    p = augment.intensity_probability
    return Draw(
        matrix=_matrix(angles, zoom, thick, spacing_mm) if chance[0] < augment.affine_probability else None,
        turns=turns if turnable else 0,
        turn_axes=plane or (0, 1),
        flips=tuple(a for a in augment.flip_axes if thick[a] and chance[1 + a] < augment.flip_probability),
        contrast=contrast if chance[4] < p else None,
        gamma=gamma if chance[5] < p else None,
        noise=noise if chance[6] < p else None,
        seed=seed,
    )


def _matrix(angles: np.ndarray, zoom: float, thick: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Rotate about x, then y, then z, and zoom, within the thick axes only; from voxels to voxels."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        if thick[a] and thick[b]:
            turn = np.eye(3)
            turn[a, a] = turn[b, b] = np.cos(angle)
            turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
            matrix = turn @ matrix
    matrix = matrix @ np.diag(np.where(thick, 1 / zoom, 1.0))
    spacing = np.asarray(spacing_mm, float)
    return matrix * spacing / spacing[:, None]


def apply(drawn: Draw, source: Source, start: Sequence[int], image: Tensor, label: Tensor | None) -> None:
    """Cut one patch and change it as drawn.

    Args:
        drawn: what to do.
        source: where from.
        start: first voxel of the patch of `drawn.source_shape`, possibly outside of the volume.
        image: `(C, *patch)` float32, written.
        label: `(1, *patch)` uint8, written; None where there is no label to read.
    """
    patch, patch_label = _cut(drawn, source, label is not None, start, image.shape[1:])
    image.copy_(_turned(patch, drawn))
    if label is not None and patch_label is not None:
        label.copy_(_turned(patch_label, drawn))
    _intensity(image, drawn)


def _cut(
    drawn: Draw, source: Source, with_label: bool, start: Sequence[int], patch: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    wanted = drawn.source_shape(patch)
    at, shape, centre = start, wanted, np.asarray(start) + (np.asarray(wanted) - 1) / 2
    if drawn.matrix is not None:
        at, shape = source_box(centre, drawn.matrix, wanted)
    image = box(source.image, at, shape, source.background, source.repeat)
    label = None
    if with_label and source.label is not None:
        label = box(source.label, at, shape, torch.zeros(1), source.repeat)
    if drawn.matrix is None:
        return image, label
    return gather(image.float(), label, centre - np.asarray(at), drawn.matrix, wanted)


def _turned(patch: Tensor, drawn: Draw) -> Tensor:
    if drawn.turns:
        patch = torch.rot90(patch, drawn.turns, [a + 1 for a in drawn.turn_axes])
    return patch.flip([a + 1 for a in drawn.flips]) if drawn.flips else patch


def _intensity(image: Tensor, drawn: Draw) -> None:
    """Contrast and gamma within the range of each channel of the patch, then noise; in place."""
    if drawn.contrast is not None or drawn.gamma is not None:
        flat = image.flatten(1)
        low, high = flat.amin(1)[:, None, None, None], flat.amax(1)[:, None, None, None]
        if drawn.contrast is not None:
            mean = flat.mean(1)[:, None, None, None]
            image.sub_(mean).mul_(drawn.contrast).add_(mean)
            torch.clamp(image, low, high, out=image)
        if drawn.gamma is not None:
            span = (high - low).clamp_(min=torch.finfo(torch.float32).tiny)
            image.sub_(low).div_(span).pow_(drawn.gamma).mul_(span).add_(low)
    if drawn.noise:
        generator = torch.Generator().manual_seed(drawn.seed)
        image.add_(torch.randn(image.shape, generator=generator), alpha=drawn.noise)
