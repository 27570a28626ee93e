"""Supervised training, the template of a method: L = dice (1 - soft Dice) + cross_entropy CE.

Milletari, Navab, Ahmadi: V-Net, 3DV 2016 (Dice); Isensee et al.: nnU-Net, Nature Methods 2021 (their sum).
"""

from __future__ import annotations

from torch import Tensor, nn

from medseg.method import Batch, Clock, Method, Networks
from medseg.ops import losses


class Supervised(Method):
    """Learn from labelled patches alone.

    Args:
        networks: makes the network.
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy term.
    """

    def __init__(self, networks: Networks, *, dice: float = 1.0, cross_entropy: float = 1.0) -> None:
        super().__init__(networks)
        self.network = networks.segmenter()
        self.dice, self.cross_entropy = dice, cross_entropy

    def segmenter(self) -> nn.Module:
        """The network."""
        return self.network

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Terms `dice` and `cross_entropy`."""
        labeled = batch["labeled"]
        label, covered = labeled["label"], labeled.get("covered")
        logits = self.network(labeled["image"])
        return {
            "dice": self.dice * losses.soft_dice(logits, label, covered),
            "cross_entropy": self.cross_entropy * losses.cross_entropy(logits, label, covered),
        }
