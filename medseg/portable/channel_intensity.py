"""Intensities of images whose channels are of several kinds, such as CT beside PET: each channel by its own rule."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, NormalizeIntensity, ScaleIntensityRange


class ChannelIntensityd(MapTransform):
    """Stored intensities to network input, channel by channel.

    Args:
        keys: images `(C, X, Y, Z)`.
        rules: for each channel the keywords of `monai.transforms.ScaleIntensityRange`; none: to zero mean and unit
            variance.

    Raises:
        ValueError: an image with another number of channels.
    """

    def __init__(self, keys: KeysCollection, rules: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(keys)
        self.transforms: list[NormalizeIntensity | ScaleIntensityRange] = []
        for rule in rules:
            self.transforms.append(ScaleIntensityRange(**rule) if rule else NormalizeIntensity(channel_wise=True))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The images as float32, with what they know of their grid."""
        changed = dict(data)
        for key in self.key_iterator(changed):
            image = changed[key]
            if len(image) != len(self.transforms):
                raise ValueError(f"the image has {len(image)} channels, there are rules for {len(self.transforms)}")
            made = image.to(torch.float32, copy=True)
            for channel, transform in enumerate(self.transforms):
                made[channel : channel + 1] = torch.as_tensor(transform(image[channel : channel + 1]))
            changed[key] = made
        return changed
