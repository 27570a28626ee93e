"""Colorisation: from the grey image the network says what colour each pixel has. No label is needed.

G. Larsson, M. Maire, G. Shakhnarovich: Learning Representations for Automatic Colorization, ECCV 2016; arXiv
1603.06668; the pre-training that Mix-and-Match tuning starts from (`medseg.methods.mix_and_match`).

    L = mean over channels c and pixels j of CE(f_c(grey(x))_j, bin(x_cj - grey(x)_j)),   grey(x) = mean over channels

As there the target is one of K bins, since the mean of several possible colours is none of them. Ours is which numbers
say the colour: how far each channel but the last is from grey, in the normalised units of the network's input, where
the paper has hue and chroma. So the task is there for any image of several channels, such as several MR sequences.

An image of one channel has no colour. Then boxes of it are hidden and restored instead, which is `inpainting`, and the
term bears that name.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor

from medseg.method import ALL, Batch, Clock, Networks, PretrainingMethod
from medseg.ops.losses.segmentation import masked_mean
from medseg.ops.pretext.encoders import check_decodes
from medseg.ops.pretext.hidden_boxes import InpaintingTask


class Colorization(PretrainingMethod):
    """Pre-training of encoder and decoder on all images, with a label or without.

    Args:
        networks: makes the network.
        bins: K, of each channel's distance from grey.
        limit: distance of the outermost bins, in units of the normalised image; what is further is put into them.
        boxes: hidden in each image, if it has one channel only.
        share: of the image, that a box has.
    """

    streams = (ALL,)

    def __init__(
        self, networks: Networks, *, bins: int = 16, limit: float = 1.5, boxes: int = 8, share: float = 0.05
    ) -> None:
        super().__init__(networks)
        if bins < 2:
            raise ValueError(f"bins is {bins}; accepted: 2 or more")
        if limit <= 0:
            raise ValueError(f"limit is {limit}; accepted: a number above 0")
        self.bins, self.limit = bins, limit
        self.inpainting = InpaintingTask(boxes, share)
        self.colors = networks.image_channels
        self.slices = networks.in_channels // networks.image_channels
        self.network = networks.encoder_decoder()
        check_decodes(self.network)
        said = networks.in_channels if self.colors == 1 else bins * (self.colors - 1)
        self.head = networks.head(self.network.width, said)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The term `colorization`; `inpainting` of images of one channel."""
        image, inside = batch["all"]["image"], batch["all"].get("inside")
        if self.colors == 1:
            return {"inpainting": self.inpainting.loss(self.network, self.head, image, inside)}
        grey, target = self.split(image)
        logits = self.head(self.network(grey)).float()
        logits = logits.reshape(len(image), self.bins, self.colors - 1, *image.shape[2:])
        return {"colorization": masked_mean(F.cross_entropy(logits, target, reduction="none"), inside)}

    def pictures(self) -> dict[str, Tensor]:
        """Of images of one channel those of the last batch hidden, restored and true."""
        return self.inpainting.pictures()

    @torch.no_grad()
    def split(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees and what it shall say.

        Args:
            image: `(B, channels slices, *spatial)`; the slices of a channel follow one another.

        Returns:
            the same without colour, and bins `(B, channels - 1, *spatial)` int64 of the middle slice.
        """
        spatial = image.shape[2:]
        channels = image.reshape(len(image), self.colors, self.slices, *spatial)
        grey = channels.mean(1, keepdim=True)
        from_grey = (channels - grey)[:, :-1, self.slices // 2]
        place = (from_grey + self.limit) / (2 * self.limit) * self.bins
        target = place.floor().long().clamp(0, self.bins - 1)
        return grey.expand_as(channels).reshape(image.shape), target
