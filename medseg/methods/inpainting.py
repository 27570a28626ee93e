"""Inpainting: boxes of images are hidden, and the network says what was there. No label is needed.

D. Pathak, P. Krähenbühl, J. Donahue, T. Darrell, A. A. Efros: Context Encoders: Feature Learning by Inpainting,
CVPR 2016; arXiv 1604.07379.

    L = sum_j m_j |f((1 - m) x + m mean(x))_j - x_j| / sum_j m_j

m: 1 in hidden boxes. Of the paper's two losses this is the first, absolute instead of squared as it is usual by now;
its adversarial one is left out. The network is the later segmenter's with a head for intensities, so that its decoder
is trained as well. In medical images, of which most are grey, it takes the place of colorisation.
"""

from __future__ import annotations

from torch import Tensor

from medseg.method import ALL, Batch, Clock, Networks, PretrainingMethod
from medseg.ops.pretext.encoders import check_decodes
from medseg.ops.pretext.hidden_boxes import InpaintingTask


class Inpainting(PretrainingMethod):
    """Pre-training of encoder and decoder on all images, with a label or without.

    Args:
        networks: makes the network.
        boxes: hidden in each image.
        share: of the image, that a box has; they may overlap.
    """

    streams = (ALL,)

    def __init__(self, networks: Networks, *, boxes: int = 8, share: float = 0.05) -> None:
        super().__init__(networks)
        self.task = InpaintingTask(boxes, share)
        self.network = networks.encoder_decoder()
        check_decodes(self.network)
        self.head = networks.head(self.network.width, networks.in_channels)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The term `inpainting`."""
        image, inside = batch["all"]["image"], batch["all"].get("inside")
        return {"inpainting": self.task.loss(self.network, self.head, image, inside)}

    def pictures(self) -> dict[str, Tensor]:
        """Hidden, restored and true images of the last batch."""
        return self.task.pictures()
