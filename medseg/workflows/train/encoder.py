"""The encoder that `medseg pretrain` leaves, and what a run may start from: such an encoder, or a bundle.

An encoder is a folder with plain weights and two descriptions. It is opened as data, as bundles are: of its definition
only networks of medseg are made, and its weights must be those that were written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn

from medseg import __version__
from medseg.atomic import write_whole
from medseg.bundle.bundle import OpenBundle, open_bundle
from medseg.bundle.safe_load import checked_weights, read_json, reason_of
from medseg.config import instantiate
from medseg.config.instantiate import build_network
from medseg.config.pipeline import DataSpec, NetworkSpec
from medseg.errors import BundleError, ConfigError
from medseg.networks.registry import halves_def
from medseg.networks.transfer import PartOf, named_tensors
from medseg.networks.weight_files import UnreadableWeights, load_tensors, sha256_of
from medseg.portable.networks.encoder_decoder import EncoderDecoder

ENCODER: Final = "encoder"
"""Folder of a run of `medseg pretrain` with its product."""

DESCRIPTION = "encoder.json"
NETWORK = "network.json"
WEIGHTS = "model.pt"
PORTABLE = "medseg.portable"

FREE = ("dropout", "dropout_prob")
"""Arguments of networks that weights do not depend on."""

STEPS = ("strides", "upsample_kernel_size")
"""Those on which the shapes of weights depend in some networks only."""

LEVELS = ("channels", "filters", "kernel_size", "blocks_down", "blocks_up", *STEPS)
"""Those that follow from the size of the patch where a pipeline does not give them."""


@dataclass(frozen=True)
class OpenEncoder:
    """A pre-trained encoder.

    Attributes:
        path: its folder.
        digest: SHA-256 of its weights.
        definition: `_target_` dictionary of the network that it is a part of.
        network: its settings in the pipeline.
        data: what it has seen.
        tensors: names of the tensors that are its own.
    """

    path: Path
    digest: str
    definition: Mapping[str, Any]
    network: NetworkSpec
    data: DataSpec
    tensors: tuple[str, ...]

    def open(self) -> nn.Module:
        """The network, of which others take the encoder's tensors alone.

        Raises:
            BundleError: weights that are damaged or do not fit.
        """
        weights = self.path / WEIGHTS
        try:
            made = instantiate.make(dict(self.definition), NETWORK, PORTABLE)
        except instantiate.Refused as error:
            raise BundleError(error.problem, path=self.path / NETWORK, hint=error.hint) from error
        if not isinstance(made, EncoderDecoder):
            raise BundleError("is no network with an encoder", path=self.path / NETWORK)
        try:
            state = load_tensors(weights)
        except UnreadableWeights as error:
            raise BundleError(f"holds no plain weights ({error})", path=weights) from error
        made.load_state_dict(checked_weights(state, made, weights))
        return PartOf(made, self.tensors)

    def check_fits(self, network: NetworkSpec, data: DataSpec) -> None:
        """See that network and images are as the encoder knows them.

        Raises:
            ConfigError: another network or other layers, or another number of axes or channels.
        """
        if (self.network.name, self.network.width) != (network.name, network.width):
            raise ConfigError(
                f"the encoder is that of a {self.network.name} of width {self.network.width}, this network is a "
                f"{network.name} of width {network.width}",
                path=self.path,
                hint=f"--set stages.0.network.width={self.network.width}, and the same name",
            )
        if self.data.spatial_dims != data.spatial_dims:
            kinds = {2: "planes", 3: "volumes"}
            raise ConfigError(
                f"the encoder was trained on {kinds[self.data.spatial_dims]}, this network sees "
                f"{kinds[data.spatial_dims]}",
                path=self.path,
                hint=f"pretrain with --set data.view={data.view}",
            )
        if self.data.channels != data.channels:
            raise ConfigError(
                f"the encoder was trained on images of {self.data.channels} channels, this network sees "
                f"{data.channels}",
                path=self.path,
                hint="pretrain on images of the same modalities and as many adjacent slices",
            )
        self._check_layers(network, data)

    def _check_layers(self, network: NetworkSpec, data: DataSpec) -> None:
        """See that the network has the layers that the weights are of, else they fit in part, or mean something else.

        Raises:
            ConfigError: naming the first argument of the network that differs.
        """
        here = halves_def(network, patch=data.network_patch, in_channels=data.channels)
        there, wanted = innermost(self.definition), innermost(here)
        names = [name for name in {**wanted, **there} if there.get(name) != wanted.get(name) and name not in FREE]
        if not [name for name in names if name not in STEPS] and self._has_place_in(build_network(here)):
            return
        name = names[0]
        one, other = there.get(name), wanted.get(name)
        hint = f"--set stages.0.network.options.{name}={_as_setting(one)}"
        if name in LEVELS:
            hint += f", or --set data.patch={_as_setting(self.data.patch)}, from which it follows"
        raise ConfigError(
            f"the encoder's {network.name} has {name} {_as_setting(one)}, this network {_as_setting(other)}; its "
            "weights are for the same layers alone",
            path=self.path,
            hint=hint,
        )

    def _has_place_in(self, network: nn.Module) -> bool:
        """Whether a network has a tensor of the same name and shape for each of the encoder."""
        own = named_tensors(network)
        made = instantiate.make(dict(self.definition), NETWORK, PORTABLE)
        return all(
            name in own and own[name].shape == tensor.shape
            for name, tensor in named_tensors(PartOf(made, self.tensors)).items()
        )


def innermost(definition: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `_target_` dictionary of the network itself in one of a network in halves, or around such."""
    while "network" in definition:
        definition = definition["network"]
    return definition


def _as_setting(value: object) -> str:
    """A value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


Start = OpenBundle | OpenEncoder
"""What a run starts from."""


def open_start(path: Path) -> Start:
    """An encoder, a bundle, or that of a run folder.

    Raises:
        BundleError: it is neither.
    """
    for folder in (path, path / ENCODER):
        if (folder / DESCRIPTION).is_file():
            return open_encoder(folder)
    return open_bundle(path)


def open_encoder(folder: Path) -> OpenEncoder:
    """An encoder, whose weights are not read yet.

    Raises:
        BundleError: it is damaged.
    """
    file = folder / DESCRIPTION
    description = read_json(file)
    try:
        found = OpenEncoder(
            path=folder,
            digest=str(description["weights_sha256"]),
            definition=read_json(folder / NETWORK),
            network=NetworkSpec(**description["network"]),
            data=DataSpec(**description["data"]),
            tensors=tuple(description["tensors"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = reason_of(error)
        raise BundleError(f"does not describe an encoder ({reason})", path=file) from error
    weights = folder / WEIGHTS
    try:
        is_recorded = sha256_of(weights) == found.digest
    except UnreadableWeights as error:
        raise BundleError(f"holds no weights ({error})", path=weights) from error
    if not is_recorded:
        raise BundleError("is damaged or was exchanged: its SHA-256 is not the recorded one", path=weights)
    return found


def describe_encoder(
    folder: Path, spec: NetworkSpec, data: DataSpec, *, tensors: Sequence[str], name: str, images: Sequence[str]
) -> None:
    """Write what is to be known of an encoder beside its weights.

    Args:
        folder: with network and weights.
        spec: of the pipeline.
        data: what it has seen.
        tensors: names of those that were trained; of inpainting the decoder's too.
        name: of the task.
        images: names of the cases that it was trained on.
    """
    content = {
        "medseg_version": __version__,
        "task": name,
        "weights_sha256": sha256_of(folder / WEIGHTS),
        "network": spec.model_dump(mode="json"),
        "tensors": list(tensors),
        "data": data.model_dump(mode="json"),
        "images": list(images),
    }
    write_whole(folder / DESCRIPTION, json.dumps(content, indent=1) + "\n")
