"""What goes with the images and labels of a batch: notes of the labels, maps, and what a method makes of labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.config.pipeline import DataSpec
from medseg.data.augment import RESIZE
from medseg.data.cached_volume import CachedVolume
from medseg.method import PatchTargets


def label_notes(cases: Sequence[CachedVolume], drawn: Sequence[CachedVolume], classes: int) -> dict[str, Tensor]:
    """Notes of the labels of a batch.

    Args:
        cases: all cases of the stream.
        drawn: the case of each patch.
        classes: number of classes with background.

    Returns:
        `covered` `(B, classes)` bool, which classes each label covers, where some label of the stream covers some
        only; `predicted` `(B,)` bool, whether nobody made the label, where a rule made some of the stream.
    """
    notes = {}
    if any(volume.covered is not None for volume in cases):
        everything = (True,) * classes
        notes["covered"] = torch.tensor([volume.covered or everything for volume in drawn])
    if any(volume.pseudo for volume in cases):
        notes["predicted"] = torch.tensor([volume.pseudo for volume in drawn])
    return notes


def shows_unknown(spec: DataSpec) -> bool:
    """Whether patches may show what lies outside of an image and is 255 in a label, see `medseg.data.augment`."""
    resize = spec.augment.transforms[RESIZE]
    is_resized = getattr(resize, "probability", 0) > 0
    return is_resized or (spec.padding != "edge" and not spec.has_background)


def stacked_maps(volume: CachedVolume, names: Sequence[str], *, with_inside: bool) -> Tensor | None:
    """The maps of a volume `(M, X, Y, Z)`, and last one that is 1 everywhere, to follow where a patch shows the image.

    Args:
        volume: of the case.
        names: of its maps; none: there is nothing to stack.
        with_inside: whether the last one is asked for.
    """
    if not names:
        return None
    maps = [torch.from_numpy(volume.map(name)) for name in names]
    if with_inside:
        maps.append(torch.ones_like(maps[0]))
    return torch.stack(maps)


def stacked_targets(labels: Tensor, targets: PatchTargets | None) -> dict[str, Tensor]:
    """What a method's targets make of each label patch, such as distances: name -> `(B, C', *spatial)`.

    Args:
        labels: `(B, 1, *spatial)`.
        targets: of one patch; None: the method has none.
    """
    if targets is None:
        return {}
    of_patches = [targets(label[0].numpy()) for label in labels]
    stacked = {}
    for key in of_patches[0]:
        arrays = [torch.from_numpy(of_patch[key]) for of_patch in of_patches]
        stacked[key] = torch.stack(arrays)
    return stacked


def stand_in_label(volume: CachedVolume) -> Tensor:
    """A label `(1, X, Y, Z)` that is 0 everywhere, to follow where a patch shows the image."""
    return torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(1, *volume.shape)
