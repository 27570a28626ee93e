"""Classifiers of whole images in the form of segmenters: one set of logits for each image, spread over its pixels.

So a classifier is trained, validated, put into a bundle and asked by what does the same for segmenters: each pixel of
an image gets the image's class. Plain torch, as a bundle needs it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .encoder_decoder import EncoderDecoder, HeadedNetwork


class PooledEncoder(EncoderDecoder):
    """The encoder of a network in halves with global average pooling in place of the decoder.

    Args:
        network: in halves. The parameters of its decoder stay as they are and are not trained.
    """

    def __init__(self, network: EncoderDecoder) -> None:
        super().__init__()
        self.network = network
        self.spatial_dims, self.channels, self.strides = network.spatial_dims, network.channels, network.strides
        self.width = network.channels[-1]
        self.encoder_parts = tuple(f"network.{part}" for part in network.encoder_parts)
        for name, parameter in self.named_parameters():
            is_encoder = any(name.startswith(f"{part}.") for part in self.encoder_parts)
            parameter.requires_grad_(is_encoder or not self.encoder_parts)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image `(B, Cin, *spatial)` to the feature maps of the network."""
        return self.network.encode(image)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """What `encode` gave to the means of the coarsest map `(B, width, 1, 1)`, or `(B, width, 1, 1, 1)`."""
        axes = list(range(2, features[-1].ndim))
        return features[-1].mean(axes, keepdim=True)

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, width, 1, 1)`, or `(B, width, 1, 1, 1)`."""
        return self.decode(self.encode(image))


class ImageClassifier(HeadedNetwork):
    """A pooled encoder with a linear head: a classifier of images.

    Args:
        network: a `PooledEncoder`, which gives one vector for each image.
        head: on its `width` channels.
    """

    def __init__(self, network: EncoderDecoder, head: nn.Module) -> None:
        super().__init__(network, head)

    def segment(self, features: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """What `network.encode` gave of images of a shape to logits `(B, classes, *shape)`, alike at all pixels."""
        return spread(super().segment(features, shape), shape)

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, classes, *spatial)`, alike at all pixels of an image."""
        return spread(self.head(self.network(image)), image.shape[2:])


def spread(logits: Tensor, shape: Sequence[int]) -> Tensor:
    """Logits of images `(B, classes, 1, ...)` at each pixel `(B, classes, *shape)`; memory is not multiplied."""
    return logits.expand(logits.shape[0], logits.shape[1], *shape)
