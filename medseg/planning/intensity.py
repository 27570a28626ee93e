"""How the intensities of each channel become network input, by its modality."""

from __future__ import annotations

import numpy as np

from medseg.config.pipeline import Intensity, NetworkSpec
from medseg.errors import DataError
from medseg.manifest.manifest import Case, Manifest
from medseg.networks import registry
from medseg.portable.io.labels import read_labels
from medseg.portable.io.read import read_volume

INTENSITY_CASES = 20
"""Labelled images whose foreground is read for the window of CT."""

SOFT_TISSUE = Intensity(kind="window", low=-160.0, high=240.0, mean=40.0, std=100.0)
"""In HU; where no voxel is labelled."""


def intensity_rule(manifest: Manifest, network: NetworkSpec | None = None) -> Intensity | tuple[Intensity, ...]:
    """CT keeps its scale and is windowed to what the labelled structures show; all else is z-scored per image.

    Photographs in colour are presented as pre-trained weights know them, where the network starts from such.

    Returns:
        One rule, or one for each of several channels of which some are CT.
    """
    photographs = None
    if network is not None and network.weights is not None and manifest.shows_colours:
        photographs = registry.find(network.name).photographs
    if photographs is not None:
        mean, std = photographs
        return Intensity(kind="fixed", mean=mean, std=std)
    modalities = tuple(manifest.modalities)
    if "CT" not in modalities:
        return Intensity(kind="zscore")
    rules = []
    for channel, modality in enumerate(modalities):
        rules.append(_window(manifest, channel) if modality == "CT" else Intensity(kind="zscore"))
    return rules[0] if len(rules) == 1 else tuple(rules)


def _window(manifest: Manifest, channel: int) -> Intensity:
    labelled = [case for case in manifest.training if case.label]
    samples = [_foreground(manifest, case, channel) for case in labelled[:INTENSITY_CASES]]
    values = np.concatenate(samples) if samples else np.empty(0)
    if not values.size:
        return SOFT_TISSUE
    low, high = np.percentile(values, [0.5, 99.5])
    if high <= low:
        where = f" in channel {channel}" if len(manifest.modalities) > 1 else ""
        raise DataError(f"all labelled voxels have intensity {low:g}{where}", path=manifest.path)
    clipped = np.clip(values, low, high)
    std = max(clipped.std(), 1e-3 * (high - low))
    return Intensity(
        kind="window",
        low=round(float(low), 4),
        high=round(float(high), 4),
        mean=round(float(clipped.mean()), 4),
        std=round(float(std), 4),
    )


def _foreground(manifest: Manifest, case: Case, channel: int, most: int = 20_000) -> np.ndarray:
    """Up to `most` intensities of labelled voxels of a channel, evenly spread over the volume."""
    label = manifest.label(case)
    images = manifest.images(case)
    path, index = (images[channel], 0) if len(images) > 1 else (images[0], channel)
    channels = read_volume(path)[0]
    if index >= len(channels):
        raise DataError(
            f"has {len(channels)} channels, the manifest's modality names {len(manifest.modalities)}", path=path
        )
    image = channels[index]
    labels = read_labels(label)[0][0] if label else None
    if labels is None or labels.shape != image.shape:
        raise DataError(f"image has shape {image.shape}, its label {getattr(labels, 'shape', None)}", path=label)
    values = image[np.isin(labels, list(manifest.structures))]
    return values[:: max(1, len(values) // most)].astype(np.float64)
