"""Which parts of a network in two halves are its encoder: those that run when it encodes. And whether it decodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medseg.portable.networks.encoder_decoder import EncoderDecoder
from medseg.portable.networks.image_classifier import PooledEncoder


def encoder_tensors(network: EncoderDecoder, in_channels: int, patch: Sequence[int]) -> list[str]:
    """Names of the parameters and buffers of the encoder, as in the network's `state_dict`.

    Args:
        network: in two halves; it stays as it is.
        in_channels: of an image.
        patch: voxels of an image that it takes, along each of its axes.
    """
    used: set[str] = set()
    hooks = []
    for name, module in network.named_modules():
        if name:
            hooks.append(module.register_forward_hook(lambda *_, name=name: used.add(name)))
    parameter = next(network.parameters())
    was_training = network.training
    try:
        with torch.no_grad():
            image = torch.zeros(1, in_channels, *patch, device=parameter.device, dtype=parameter.dtype)
            network.eval().encode(image)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return [name for name in network.state_dict() if name.rpartition(".")[0] in used]


def freeze_decoder(network: EncoderDecoder, in_channels: int, patch: Sequence[int]) -> None:
    """Take the gradient from all parameters that are not the encoder's, so that no weight decay shrinks them."""
    kept = set(encoder_tensors(network, in_channels, patch))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in kept)


def check_decodes(network: EncoderDecoder) -> None:
    """See that a network gives something for each pixel, as tasks want it that ask for pixels.

    Raises:
        ValueError: the network of a classifier of images, which has one vector for each.
    """
    if isinstance(network, PooledEncoder):
        raise ValueError(
            "it asks what each pixel is, and data.target is images, whose network says nothing of pixels; accepted "
            "with it are rotation and exemplar"
        )
