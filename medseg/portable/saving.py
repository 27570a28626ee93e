"""The last transform of a bundle: predictions to label files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from .cases import stem
from .writing import is_flat, source_of, write_labels


class SaveLabeld(SaveImaged):
    """Writes predictions `(1, X, Y, Z)` to `<output_dir>/<case>.nii.gz`, where <case> is the item "case".

    It is a `SaveImaged`, so that programs that take the saving out of a bundle's postprocessing find it; but
    the file is written atomically, with the sform and the qform of the image's file.

    Args:
        keys: items to write.
        output_dir: folder, made if need be.
    """

    def __init__(self, keys: KeysCollection, output_dir: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, output_dir=output_dir, allow_missing_keys=allow_missing_keys)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the predictions of one image."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for key in self.key_iterator(data):
            labels = data[key]
            image = str(labels.meta["filename_or_obj"])
            array = labels.cpu().numpy()[0]
            name = str(data.get("case") or stem(image))
            affine = torch.as_tensor(labels.affine).cpu().numpy()
            flat = is_flat(image, array.shape)
            write_labels(self.output_dir / f"{name}.nii.gz", array, affine, source=source_of(image), flat=flat)
        return dict(data)
