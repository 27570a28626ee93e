"""Training patches: cut out of a volume and changed by random transforms.

Crop, rotation and zoom are one map from patch to volume: what is interpolated is interpolated once. Without rotation
and zoom a patch is an exact copy; so are flips and quarter turns. What lies outside of a volume is what prediction
sees there (`DataSpec.padding`): its outermost voxels again, in image, label and maps alike, or the background of the
image, the minimum of each channel or 0, and label 0, or 255 where no class is the background. The transforms
themselves are in `medseg.ops.augmentation.transforms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medseg.config.pipeline import Augment, DataSpec
from medseg.data.affine_sampling import box, gather, source_box
from medseg.method import IGNORE
from medseg.ops.augmentation.field_of_view import Crop
from medseg.ops.augmentation.photographs import Resize
from medseg.ops.augmentation.transforms import IntensityTransform, RandomTransform, SpatialTransform, stream_of

AFFINE = "affine"
RESIZE = Resize.name


class Patch(NamedTuple):
    """One sample, written in place: image `(C, *seen)`, label `(1, *seen)` or None, maps `(M, *seen)`.

    Without a label, `outside` `(1, *seen)` or None is written: 255 where a label would be.
    """

    image: Tensor
    label: Tensor | None
    maps: Tensor
    outside: Tensor | None


@dataclass(frozen=True)
class Source:
    """A volume to cut patches from.

    Args:
        image: `(C, X, Y, Z)` floating point.
        label: `(1, X, Y, Z)` uint8, or None.
        background: `(C,)`, the image beyond its edges.
        repeat: axes beyond whose ends there are the outermost slices again.
        maps: `(M, X, Y, Z)` floating point, 0 beyond its other edges, beyond all where it is made smaller; None: there
            are none.
        outside: of the label beyond the image's other edges: 0, the background, or 255 where there is none.
        zscored: for each channel whether its intensities are those of `Intensity(kind="zscore")`, which follow from
            all that the image shows; empty: none is.
    """

    image: Tensor
    label: Tensor | None
    background: Tensor
    repeat: tuple[int, ...] = ()
    maps: Tensor | None = None
    outside: int = 0
    zscored: tuple[bool, ...] = ()


def repeated_axes(spec: DataSpec) -> tuple[int, ...]:
    """The axes beyond whose ends patches have the outermost slices of a volume again.

    All of them where prediction has it so; else the one along which adjacent slices are channels.
    """
    if spec.padding == "edge":
        return (0, 1, 2)
    if spec.slices > 1 and spec.slice_axis is not None:
        return (spec.slice_axis,)
    return ()


@dataclass(frozen=True, eq=False)
class Draw:
    """What will happen to one patch.

    Args:
        transforms: name -> transform, in order of application.
        values: name -> what the transform drew; those that leave the patch as it is are not there.
    """

    transforms: Mapping[str, RandomTransform]
    values: Mapping[str, Any]

    @property
    def matrix(self) -> np.ndarray | None:
        """(3, 3) from patch offsets to volume offsets in voxels; None: the patch is an exact copy."""
        matrices = [self.values[name] for name in (AFFINE, RESIZE) if name in self.values]
        return reduce(np.matmul, matrices) if matrices else None

    def spatial(self) -> list[tuple[SpatialTransform, Any]]:
        """The rearrangements of voxels, with what they drew, in order of application."""
        found = []
        for name, value in self.values.items():
            transform = self.transforms[name]
            if isinstance(transform, SpatialTransform):
                found.append((transform, value))
        return found

    def source_shape(self, patch: Sequence[int]) -> tuple[int, int, int]:
        """Shape of the patch before it is turned."""
        shape = (patch[0], patch[1], patch[2])
        for kind, value in reversed(self.spatial()):
            shape = kind.source_shape(shape, value)
        return shape

    def covered_shape(self, patch: Sequence[int]) -> tuple[int, int, int]:
        """Voxels of the volume that the patch shows, rotation aside: fewer than its own where it is made larger."""
        shape = self.source_shape(patch)
        if RESIZE not in self.values:
            return shape
        x, y, z = np.maximum(1, np.rint(np.diag(self.values[RESIZE]) * shape).astype(int)).tolist()
        return x, y, z

    def start_of_patch(self, start: Sequence[int], patch: Sequence[int]) -> list[int]:
        """First voxel of the patch of `source_shape` about the middle of what it shows.

        Args:
            start: first voxel of what it shows, of `covered_shape`.
            patch: voxels of the patch.
        """
        more = np.subtract(self.covered_shape(patch), self.source_shape(patch))
        return (np.asarray(start) + more // 2).tolist()


def draw(augment: Augment, seed: Sequence[int], patch: Sequence[int], spacing_mm: Sequence[float]) -> Draw:
    """Draw every transform for one patch.

    Args:
        augment: the transforms with their settings.
        seed: numbers that stand for the patch; each transform makes its own random numbers of them.
        patch: voxels of the patch; nothing turns out of the plane of a patch that is one voxel thick.
        spacing_mm: of the volume.
    """
    values = {}
    for name, transform in augment.transforms.items():
        value = transform.draw(stream_of(seed, name), patch, spacing_mm)
        if value is not None:
            values[name] = value
    return Draw(augment.transforms, values)


def apply(draw: Draw, source: Source, start: Sequence[int], image: Tensor, label: Tensor | None) -> None:
    """Cut one patch and change it.

    Args:
        draw: what to do.
        source: where from.
        start: first voxel of the patch of `draw.source_shape`, possibly outside of the volume.
        image: `(C, *patch)` float32, written.
        label: `(1, *patch)` uint8, written; None where there is no label to read.
    """
    patch, patch_label = _cut(draw, source, label is not None, start, image.shape[1:])
    for kind, value in draw.spatial():
        patch = kind.apply(patch, value)
        patch_label = None if patch_label is None else kind.apply(patch_label, value)
    image.copy_(patch)
    if any(source.zscored) and Crop.name in draw.values:
        Crop.standardize(image, source.zscored, draw.values[Crop.name])
    if label is not None and patch_label is not None:
        label.copy_(patch_label)
    for name, value in draw.values.items():
        transform = draw.transforms[name]
        if isinstance(transform, IntensityTransform):
            transform.apply(image, value)


def _cut(
    draw: Draw, source: Source, with_label: bool, start: Sequence[int], patch: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """A patch before its axes are permuted: image `(C, *draw.source_shape)`, and its label."""
    wanted = draw.source_shape(patch)
    centre = np.asarray(start) + (np.asarray(wanted) - 1) / 2
    first, shape = start, wanted
    if draw.matrix is not None:
        first, shape = source_box(centre, draw.matrix, wanted)
    image = box(source.image, first, shape, source.background, source.repeat)
    label = None
    if with_label and source.label is not None:
        repeat, outside = source.repeat, source.outside
        if RESIZE in draw.values:
            repeat, outside = (), IGNORE
        label = box(source.label, first, shape, torch.tensor([outside]), repeat)
    if draw.matrix is None:
        return image, label
    return gather(image.float(), label, centre - np.asarray(first), draw.matrix, wanted)


def apply_to_maps(draw: Draw, source: Source, start: Sequence[int], maps: Tensor) -> None:
    """Cut the maps of a patch and move them as the patch; intensities stay as they are.

    Args:
        draw: what to do, as for the image.
        source: where from; it has maps.
        start: first voxel, as for the image.
        maps: `(M, *patch)` float32, written.
    """
    assert source.maps is not None
    outside = torch.zeros(len(source.maps))
    repeat = () if RESIZE in draw.values else source.repeat  # as of a label
    of_maps = Source(source.maps, None, outside, repeat)
    patch, _ = _cut(draw, of_maps, False, start, maps.shape[1:])
    for kind, value in draw.spatial():
        patch = kind.apply(patch, value)
    maps.copy_(patch)
