"""Supervised training, the template of a method: L = dice (1 - soft Dice) + cross_entropy CE.

Milletari, Navab, Ahmadi: V-Net, 3DV 2016 (Dice); Isensee et al.: nnU-Net, Nature Methods 2021 (their sum). In place of
the cross-entropy CE another loss can be named, see `medseg.ops.losses.pixel_losses`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from medseg.method import Batch, Clock, Method, Networks
from medseg.ops.losses.pixel_losses import RegionTerms, SupervisedTerms


class Supervised(Method):
    """Learn from labelled patches alone; classes may overlap (regions).

    Args:
        networks: makes the network.
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy term, or of the loss that takes its place.
        loss: "cross_entropy", "binary_cross_entropy", a sigmoid for each class, or "locally_adaptive".
        loss_options: keywords of that loss.
    """

    takes_regions = True

    def __init__(
        self,
        networks: Networks,
        *,
        dice: float = 1.0,
        cross_entropy: float = 1.0,
        loss: str = "cross_entropy",
        loss_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(networks)
        self.terms: SupervisedTerms | RegionTerms
        if networks.region_members:
            self.terms = RegionTerms(
                networks.region_members,
                dice=dice, cross_entropy=cross_entropy, loss=loss, loss_options=loss_options,
            )  # fmt: skip
        else:
            self.terms = SupervisedTerms(
                networks, dice=dice, cross_entropy=cross_entropy, loss=loss, loss_options=loss_options, sigmoid=True,
            )  # fmt: skip
        self.independent = bool(networks.region_members) or loss == "binary_cross_entropy"
        self.network = networks.segmenter()

    def segmenter(self) -> nn.Module:
        """The network."""
        return self.network

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Terms `dice` and `cross_entropy`, or the name of the loss in its place."""
        labeled = batch["labeled"]
        return self.terms(self.network(labeled["image"]), labeled["label"], labeled.get("covered"), clock)
