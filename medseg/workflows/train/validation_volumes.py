"""The validation cases of a training, as its evaluator takes them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from medseg.data.cache import CachedVolume


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
