"""The validation cases of a training, as its evaluator takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from medseg.config.pipeline import DataSpec
from medseg.data.cache import CachedVolume
from medseg.engine import distributed
from medseg.engine.validation import validate
from medseg.portable.inference.sliding_window import SlabInferer


class ValidationVolumes(Dataset):
    """Whole cached volumes with their labels, for the evaluator."""

    def __init__(self, volumes: list[CachedVolume], classes: int) -> None:
        self.volumes, self.classes = volumes, classes

    def __len__(self) -> int:
        """How many cases."""
        return len(self.volumes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Image `(C, X, Y, Z)` float32, label `(1, X, Y, Z)` of class indices, and `(classes,)` which it covers."""
        volume = self.volumes[index]
        image = torch.from_numpy(volume.image.astype("float32"))
        covered = torch.tensor(volume.covered or (True,) * self.classes)
        return {"image": image, "label": torch.from_numpy(volume.label[None].copy()), "covered": covered}


def score_volumes(
    segmenter: nn.Module, volumes: list[CachedVolume], spec: DataSpec, device: torch.device
) -> dict[str, Any]:
    """Dice of whole validation volumes, or recall of whole images, this rank's share of them and then of all ranks.

    Args:
        segmenter: volumes `(B, C, X, Y, Z)` to logits.
        volumes: with their labels.
        spec: patch, overlap and classes.
        device: of the segmenter.

    Returns:
        `mean`, and `classes`: structure -> Dice, or None. Of whole images recall and balanced accuracy in the place of
        Dice, and `accuracy`.
    """
    distributed.share_buffers(segmenter)  # all ranks judge the network that rank 0 exports
    share = ValidationVolumes(volumes[distributed.rank() :: distributed.world()], spec.classes)
    inferer = SlabInferer(
        spec.patch,
        spec.overlap,
        restore=False,
        context=spec.context,
        padding=spec.padding,
    )
    inferer.paint_order = spec.paint_order
    loader = DataLoader(share, batch_size=1)
    of_images = spec.target == "images"
    scores = validate(
        segmenter, loader, inferer,
        classes=spec.classes, device=device, has_background=spec.has_background, members=spec.region_members,
        of_images=of_images,
    )  # fmt: skip
    structures = spec.structures.values()
    return {**scores, "classes": dict(zip(structures, scores["classes"], strict=True))}
