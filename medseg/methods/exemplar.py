"""Exemplar as pre-training: an encoder learns which views are of the same image, without any label.

A. Dosovitskiy et al.: Discriminative unsupervised feature learning with exemplar convolutional neural networks, IEEE
TPAMI 2016; arXiv 1406.6909. With triplets as S4L has it (X. Zhai et al., ICCV 2019; arXiv 1905.03670).

    L = mean over views a of softplus(max d(a, views of the same image) - min d(a, views of other images))

d: Euclidean distance of embeddings of length 1, a linear layer on the mean of the encoder's coarsest features. For
images that have no upright, such as the retina or tissue, where rotation asks nothing. It makes no segmenter.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from medseg.method import ALL, Batch, Clock, Networks, PretrainingMethod
from medseg.ops.pretext.encoders import freeze_decoder
from medseg.ops.pretext.tasks import ExemplarTask, exemplar_loss


class Exemplar(PretrainingMethod):
    """Which views are of the same image; every training image is seen, labelled or not.

    Args:
        networks: makes the network, of which the encoder is trained.
        views: of each image; None: 8 in planes, as S4L has it, and 4 in volumes.
        embedding: size of the embedding of a view.
    """

    streams = (replace(ALL, least=2),)

    def __init__(self, networks: Networks, *, views: int | None = None, embedding: int = 1000) -> None:
        super().__init__(networks)
        self.network = networks.encoder_decoder()
        freeze_decoder(self.network, networks.in_channels, networks.patch)
        self.task = ExemplarTask(self.network.channels[-1], networks.spatial_dims, views, embedding)

    def watched(self) -> dict[str, Tensor]:
        """Mean distances of the hardest triplets of the last batch."""
        return self.task.watched

    def pictures(self) -> dict[str, Tensor]:
        """Views of the last batch."""
        return self.task.pictures()

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Term `exemplar`."""
        return {"exemplar": exemplar_loss(self.task, self.network, [batch["all"]["image"]])}
