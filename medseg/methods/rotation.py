"""Rotation as pre-training: an encoder learns which way up images are, without any label.

S. Gidaris, P. Singh, N. Komodakis: Unsupervised representation learning by predicting image rotations, ICLR 2018;
arXiv 1803.07728. In 3D A. Taleb et al.: 3D self-supervised methods for medical imaging, NeurIPS 2020; arXiv 2006.03829.

    L = mean over images and rotations r of CE(h(r x), r)

h: a linear layer on the mean of the encoder's coarsest features. All rotations of each image, as in Gidaris' paper, are
seen in 2D by default; in 3D one upright copy and one turned one. It makes no segmenter: what it leaves is the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from medseg.method import ALL, Batch, Clock, Networks, PretrainingMethod
from medseg.ops.pretext.encoders import freeze_decoder
from medseg.ops.pretext.rotated_copies import Copies, plan_copies
from medseg.ops.pretext.tasks import RotationTask, answers, pooled, shows_something


class Rotation(PretrainingMethod):
    """Which rotation has turned an image; every training image is seen, labelled or not.

    Args:
        networks: makes the network, of which the encoder is trained.
        rotations: "auto", "quarter4" or "half2" for planes, "axial4", "axis10", "cube24" or "half4" for volumes.
        copies: "one" turned copy of each image beside the upright one, "all" rotations, or "auto": all in 2D, one
            in 3D.
    """

    streams = (ALL,)

    def __init__(
        self, networks: Networks, *, rotations: str = "auto", copies: Literal["auto", "one", "all"] = "auto"
    ) -> None:
        super().__init__(networks)
        self.network = networks.encoder_decoder()
        freeze_decoder(self.network, networks.in_channels, networks.patch)
        wanted: Copies = "all" if networks.spatial_dims == 2 else "one"
        if copies != "auto":
            wanted = copies
        self.copies = plan_copies(
            rotations, self.network, networks.patch, networks.spacing_mm, networks.native_mm, wanted
        )  # fmt: skip
        self.task = RotationTask(self.network.channels[-1], self.copies.rotations)
        self._watched: dict[str, Tensor] = {}

    @classmethod
    def needs_upright(cls, options: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def watched(self) -> dict[str, Tensor]:
        """How the copies of the last batch were answered, see `medseg.ops.pretext.tasks.answers`."""
        return self._watched

    def pictures(self) -> dict[str, Tensor]:
        """Copies of the last batch, and turned back by the rotations found."""
        return self.task.pictures()

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Term `rotation`."""
        copies = self.copies(batch["all"]["image"])
        logits = self.task(pooled(self.network.encode(copies.image)))
        self.task.show(copies.image, logits)
        counted = shows_something(copies.image)
        self._watched = answers(logits, copies.number, counted)
        return {"rotation": self.task.loss(logits, copies.number, counted)}
