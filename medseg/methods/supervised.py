"""Supervised training, the template of a method: L = dice (1 - soft Dice) + cross_entropy CE.

Milletari, Navab, Ahmadi: V-Net, 3DV 2016 (Dice); Isensee et al.: nnU-Net, Nature Methods 2021 (their sum).
"""

from __future__ import annotations

from torch import Tensor, nn

from medseg.method import Batch, Clock, Method
from medseg.ops import losses


class Supervised(Method):
    """Learn from labelled patches alone.

    Args:
        network: images to class logits.
        classes: number of classes with background.
        previous: not used.
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy term.
    """

    def __init__(
        self, network: nn.Module, *, classes: int, previous: nn.Module | None = None,
        dice: float = 1.0, cross_entropy: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(network, classes=classes, previous=previous)
        self.dice, self.cross_entropy = dice, cross_entropy

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Terms `dice` and `cross_entropy`."""
        image, label = batch["labeled"]["image"], batch["labeled"]["label"]
        logits = self.network(image)
        return {
            "dice": self.dice * losses.soft_dice(logits, label),
            "cross_entropy": self.cross_entropy * losses.cross_entropy(logits, label),
        }
