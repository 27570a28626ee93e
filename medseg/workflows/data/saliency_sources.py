"""Where saliency is computed from: local contrast, a pre-trained network's answers, or another model's foreground."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from math import prod, sqrt
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from medseg.config.instantiate import build_network
from medseg.config.pipeline import NetworkSpec, Weights
from medseg.errors import DataError
from medseg.manifest.manifest import Manifest
from medseg.networks.pretrained import load_weights
from medseg.networks.registry import NETWORKS, halves_def
from medseg.ops.tags.saliency import Polarity, between, from_weakest_to_strongest, local_contrast, strength
from medseg.portable.io.read import Header, read_header, read_volume
from medseg.portable.networks.efficientnet_lite import EfficientNetLite
from medseg.portable.networks.tag_networks import enlarge
from medseg.workflows.data.options import SaliencyOptions
from medseg.workflows.train.self_training.labelling.predict_views import Voter

NETWORK = "efficientnet_lite"
STRIDE = 8
SIDES = (256, 384)
"""Pictures are made as large as a square of each of these sides, in pixels, about as those that the weights saw."""

NOTHING, OBJECT = 0.2, 0.5
"""Strength of features, in parts of the strongest in the picture, up to which a position is nothing, and from which on
it is an object: on 96 photographs of animals and people a threshold in the middle agrees best with their masks, and
0.95 of their pixels are above `saliency_check.SALIENT`."""

AIR_HU = -500
"""Below it CT shows air."""


class Contrast:
    """What is darker or brighter than its surroundings, inside the body where it can be told.

    Args:
        kind: "dark", "bright" or "contrast".
        size: of what is looked for, as a share of the longest side of an image.
        modalities: of the channels.
    """

    def __init__(self, kind: str, size: float, modalities: Sequence[str]) -> None:
        self.polarity = cast(Polarity, "both" if kind == "contrast" else kind)
        self.size, self.modalities = size, tuple(modalities)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, images: Sequence[Path]) -> np.ndarray:
        """The saliency of an image, `(X, Y, Z)` float32 in [0, 1]."""
        channels, grid = read_channels(images)
        spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
        shape = np.array(channels.shape[1:])
        widest_mm = float((shape * spacing).max()) * self.size / 2
        scales = []
        for share in (0.5, 1.0):
            sigmas = np.where(shape > 1, share * widest_mm / spacing, 0)
            scales.append(sigmas.tolist())
        body = body_of(channels[0], self.modalities[0])
        inside = np.where(body, channels, [[[[float(np.median(each[body]))]]] for each in channels])
        return local_contrast(inside, scales, self.polarity) * body


def read_channels(images: Sequence[Path]) -> tuple[np.ndarray, Header]:
    """The channels of an image as they are stored, `(C, X, Y, Z)` float32, and the grid of its first file."""
    read = []
    for path in images:
        stored = read_volume(path)[0].astype(np.float32)
        unusable = int(stored.size - np.count_nonzero(np.isfinite(stored)))
        if unusable:
            raise DataError(
                f"{unusable} of {stored.size} voxels are NaN or infinite", path=path, hint="replace them on purpose"
            )
        read.append(stored)
    return np.concatenate(read), read_header(images[0])


def body_of(image: np.ndarray, modality: str) -> np.ndarray:
    """Where a patient is, `(X, Y, Z)` bool: everything but air in CT and MR, everywhere in other images."""
    if modality not in ("CT", "MR") or image.min() == image.max():
        return np.ones(image.shape, bool)
    threshold = AIR_HU if modality == "CT" else threshold_otsu(image) / 2
    components, count = ndimage.label(image > threshold)
    if not count:
        return np.ones(image.shape, bool)
    largest = 1 + int(np.argmax(np.bincount(components.ravel())[1:]))
    body = components == largest
    thin = body.shape[2] == 1
    return ndimage.binary_fill_holes(body[..., 0])[..., None] if thin else ndimage.binary_fill_holes(body)


class Features:
    """Where a network that was trained on photographs answers strongly, slice by slice.

    Args:
        weights: file of its weights.
        channels: of the images.
        device: of the network.
    """

    def __init__(self, weights: Path, channels: int, device: torch.device) -> None:
        spec = NetworkSpec(name=NETWORK, options={"output_stride": STRIDE})
        network = build_network(halves_def(spec, patch=(64, 64), in_channels=channels))
        assert isinstance(network, EfficientNetLite)
        load_weights(network, Weights(file=str(weights)))
        self.network = network.eval().to(device)
        self.device = device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, images: Sequence[Path]) -> np.ndarray:
        """The saliency of an image, `(X, Y, Z)` float32 in [0, 1]."""
        channels, _ = read_channels(images)
        slices = [self._of_slice(torch.from_numpy(channels[..., z])) for z in range(channels.shape[-1])]
        return torch.stack(slices, -1).numpy()

    @torch.no_grad()
    def _of_slice(self, image: Tensor) -> Tensor:
        """Image `(C, X, Y)` to `(X, Y)`: the mean over `SIDES`, and over the picture and its mirror image."""
        size = image.shape[1:]
        photograph = self._as_photograph(image)[None].to(self.device)
        answers = []
        for side in SIDES:
            factor = side / sqrt(prod(size))
            picture = enlarge(photograph, [max(STRIDE, round(length * factor)) for length in size])
            for pictured in (picture, picture.flip(2)):
                answer = strength(self.network.encode(pictured)[-1][0])
                answers.append(answer if pictured is picture else answer.flip(0))
        fine = [enlarge(answer[None, None], size)[0, 0] for answer in answers]
        mean = from_weakest_to_strongest(torch.stack(fine).mean(0))
        return between(mean, NOTHING, OBJECT).cpu()

    @staticmethod
    def _as_photograph(image: Tensor) -> Tensor:
        """Values as the weights know them: those of 8 bits as they are, others stretched to their range."""
        mean, divisor = NETWORKS[NETWORK].photographs or (0.0, 1.0)
        least, most = float(image.min()), float(image.max())
        if least < 0 or most > 255:
            image = 255 * (image - least) / max(most - least, 1e-5)
        return (image - mean) / divisor


class Foreground:
    """Another model's probability of anything but the background.

    Args:
        bundle: of the model.
        device: of its networks.
    """

    def __init__(self, bundle: Path, device: torch.device) -> None:
        self.bundle, self.device = bundle, device
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._voter = self._open.enter_context(Voter(self.bundle, self.device, full=True))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def __call__(self, images: Sequence[Path]) -> np.ndarray:
        """The saliency of an image, `(X, Y, Z)` float32 in [0, 1]."""
        views = self._voter(images).probabilities
        assert views is not None  # since they were asked for
        background = torch.stack([view[0].float() for view in views]).mean(0)
        return 1 - background.numpy() / 255


def source_of_saliency(options: SaliencyOptions, manifest: Manifest, device: torch.device) -> Any:
    """What computes the saliency that the options ask for; a context.

    Raises:
        ConfigError: weights that cannot be used.
        BundleError: a model that cannot be opened.
    """
    if options.kind == "features":
        assert options.weights is not None  # seen by the options
        return Features(options.weights, manifest.channels, device)
    if options.kind == "model":
        assert options.model is not None  # seen by the options
        inner = options.model / "bundle"
        return Foreground(inner if inner.is_dir() else options.model, device)
    return Contrast(options.kind, options.size, manifest.modalities)
