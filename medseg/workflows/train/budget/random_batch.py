"""A batch of random numbers of the shapes that a method gets, to time its steps with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medseg.config.pipeline import DataSpec
from medseg.method import Method, PatchTargets


def random_batch(
    data: DataSpec, batch_size: dict[str, int], patch: Sequence[int], method: Method
) -> dict[str, dict[str, Any]]:
    """A batch of the right shapes; boxes for labels."""
    rng = np.random.default_rng(0)
    batch: dict[str, dict[str, torch.Tensor]] = {}
    for stream in method.streams:
        count = batch_size.get(stream.name, 0)
        if count:
            image = rng.standard_normal((count, data.channels, *patch), dtype=np.float32)
            batch[stream.name] = {"image": torch.from_numpy(image)}
            for key in stream.keys:
                batch[stream.name] |= _random_key(key, count, data.classes, patch, method.targets())
    return batch


def _random_key(
    key: str, count: int, classes: int, patch: Sequence[int], targets: PatchTargets | None
) -> dict[str, torch.Tensor]:
    """What a batch has under a key, and what is made of it."""
    if key == "tags":
        return {key: torch.ones(count, classes - 1, dtype=torch.uint8)}
    if key == "index":
        return {key: torch.zeros(count, dtype=torch.int64)}
    if key in ("case", "number"):
        return {key: torch.arange(count)}
    if key == "evenly":
        return {key: torch.ones(count, dtype=torch.bool)}
    if key == "place":  # all at the same place
        return {key: torch.eye(len(patch), len(patch) + 1).expand(count, -1, -1).clone()}
    if key != "label":
        return {key: torch.zeros(count, 1, *patch)}
    label = np.zeros((count, 1, *patch), np.uint8)
    box = tuple(slice(size // 4, size // 2) for size in patch)
    label[(slice(None), slice(None), *box)] = 1
    found = {key: torch.from_numpy(label)}
    if targets is not None:
        made = [targets(each[0]) for each in label]
        for name in made[0]:
            found[name] = torch.from_numpy(np.stack([arrays[name] for arrays in made]))
    return found
