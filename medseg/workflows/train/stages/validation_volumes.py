"""The validation cases of a training, as its evaluator takes them, and what they choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from medseg.atomic import write_whole
from medseg.config.pipeline import DataSpec
from medseg.data.cache import CachedVolume
from medseg.engine import distributed
from medseg.engine.run_progress import RunProgress
from medseg.engine.validation import validate
from medseg.method import Method
from medseg.networks.factory import change_arguments
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.progress import say

CHOSEN_HEAD = "chosen_head.json"
"""In the folder of a training: the head that is exported, and the best score of each."""


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
    inferer.blend, inferer.paint_order = spec.blend, spec.paint_order
    loader = DataLoader(share, batch_size=1)
    of_images = spec.target == "images"
    scores = validate(
        segmenter, loader, inferer,
        classes=spec.classes, device=device, has_background=spec.has_background, members=spec.region_members,
        of_images=of_images,
    )  # fmt: skip
    structures = spec.structures.values()
    return {**scores, "classes": dict(zip(structures, scores["classes"], strict=True))}


def score_heads(
    method: Method, segmenter: nn.Module, volumes: list[CachedVolume], spec: DataSpec, device: torch.device
) -> dict[str, Any]:
    """The scores of the segmenter, or of the best of its heads where validation chooses between several.

    Args:
        method: that makes the segmenter.
        segmenter: its network, which gives volumes `(B, C, X, Y, Z)` to logits.
        volumes: with their labels.
        spec: patch, overlap and classes.
        device: of the segmenter.

    Returns:
        As `score_volumes`; of heads also `head`, the best one, of equal ones the first, and `heads`, name -> mean.
    """
    if not method.head_choices:
        return score_volumes(segmenter, volumes, spec, device)
    scores = {}
    for head in method.head_choices:
        choose_head(method, head)
        scores[head] = score_volumes(segmenter, volumes, spec, device)
    means = {head: score["mean"] for head, score in scores.items()}
    best = max(means, key=lambda head: means[head])
    return {**scores[best], "head": best, "heads": means}


def choose_head(method: Method, head: str) -> None:
    """Let the segmenter of a method give one of its heads."""
    segmenter = method.segmenter()
    assert segmenter is not None, "a method with heads has one"
    change_arguments(segmenter, method.head_choices[head])


def keep_best_head(method: Method, progress: RunProgress, folder: Path, title: str) -> None:
    """Let the segmenter give the head that validation found best, write that down and say it.

    Args:
        method: trained; of one whose heads validation does not choose between nothing is changed.
        progress: of the training, with the scores of its heads.
        folder: of the training.
        title: of the training, for the message.

    Raises:
        OutputError: it cannot be written.
    """
    if not method.head_choices:
        return
    chosen = progress.head or next(iter(method.head_choices))
    choose_head(method, chosen)
    record = {"chosen": chosen, "best_validation_score": progress.heads}
    write_whole(folder / CHOSEN_HEAD, json.dumps(record, indent=1) + "\n")
    scores = ", ".join(f"{head} {score:.3f}" for head, score in progress.heads.items())
    say(f"{title}: the {chosen} head is exported, by the best validation score of each: {scores}")
