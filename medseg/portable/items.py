"""The dictionary transform that opens the preprocessing: a file name becomes a volume, or an error."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import ImageReader
from monai.transforms import LoadImaged

from .loading import VerifiedReader


class LoadVolumed(LoadImaged):
    """MONAI's loader with the verified reader and no other.

    `LoadImaged(reader=...)` alone would try its other readers after the given one has failed, and one of them
    returns zeros for a truncated file without a word. A reader named at the call is the only one asked.

    Args:
        keys: items that hold a file name, or a list of them, one per channel.

    Shape: float32 `MetaTensor` `(C, X, Y, Z)` with the file's affine; a picture has Z = 1.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(
            keys,
            reader=VerifiedReader,
            image_only=True,
            ensure_channel_first=True,
            allow_missing_keys=allow_missing_keys,
        )
        self.verified = VerifiedReader()

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict:
        """Load the files of `data`; `reader` replaces the verified one.

        Raises:
            VolumeError: whatever is wrong with a file.
        """
        return super().__call__(data, reader or self.verified)
