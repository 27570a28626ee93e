"""Pre-trained weights from a file that the user has; nothing is ever fetched, and nothing in the file is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.config.pipeline import Weights
from medseg.errors import ConfigError
from medseg.networks.transfer import Copied, named_tensors
from medseg.networks.weight_files import UnreadableWeights, load_tensors, sha256_of
from medseg.portable.networks.efficientnet_lite import EfficientNetLite, pretrained_keys
from medseg.portable.networks.encoder_decoder import HeadedNetwork
from medseg.portable.networks.image_classifier import PooledEncoder


def load_weights(network: nn.Module, weights: Weights) -> Copied:
    """Copy the tensors of a file into a network wherever name and shape agree.

    A first convolution that was trained on colour images is used on other numbers of channels too: each channel gets
    the mean over the colours, scaled so that the sum over the channels stays the same.

    Args:
        network: that gets them, in place.
        weights: the file, and its SHA-256 if that is known.

    Returns:
        What was copied.

    Raises:
        ConfigError: no such file, another file than the one that is meant, or nothing that fits.
    """
    path = Path(weights.file).expanduser()
    found = hash_file(path)
    if weights.sha256 is not None and weights.sha256 != found:
        raise ConfigError(
            f"network.weights: SHA-256 is {found[:12]}..., the pipeline says {weights.sha256[:12]}...",
            path=path,
            hint="give the file that was meant, or remove sha256",
        )
    state = _read_tensors(path)
    inner = network.network if isinstance(network, HeadedNetwork) else network
    inner = inner.network if isinstance(inner, PooledEncoder) else inner
    if isinstance(inner, EfficientNetLite) and "_conv_stem.weight" in state:
        state = pretrained_keys(state)
    own = named_tensors(network)
    whole, kernels, left = 0, 0, []
    with torch.no_grad():
        for name, tensor in own.items():
            source = state.get(name)
            if source is not None and _is_first_convolution(tensor, source):
                source = source.mean(1, keepdim=True).expand_as(tensor) * (source.shape[1] / tensor.shape[1])
            if source is None or source.shape != tensor.shape:
                left.append(name)
                continue
            tensor.copy_(source)
            whole += 1
            kernels += tensor.ndim > 1
    if not kernels:  # networks of other widths still have scalars in common
        raise ConfigError("network.weights: holds nothing that fits the network", path=path)
    return Copied(whole, 0, tuple(left))


def hash_file(path: Path) -> str:
    """SHA-256 of the file that `network.weights` of a pipeline names.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return sha256_of(path)
    except UnreadableWeights as error:
        raise ConfigError(f"network.weights: {error}", path=path) from error


def _read_tensors(path: Path) -> Mapping[str, Tensor]:
    try:
        content: Any = load_tensors(path)
    except UnreadableWeights as error:
        raise ConfigError(f"network.weights: is no file of weights ({error})", path=path) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError("network.weights: holds no mapping of names to tensors", path=path)
    return content


def _is_first_convolution(tensor: Tensor, source: Tensor) -> bool:
    """Whether two weights differ in the channels that they take alone, and `source` was made for colours."""
    alike = tensor.ndim == source.ndim and tensor.ndim > 2
    return alike and source.shape[1] == 3 != tensor.shape[1] and _without(tensor) == _without(source)


def _without(weight: Tensor) -> tuple[int, ...]:
    return (weight.shape[0], *weight.shape[2:])
