"""The last transform of a bundle: predictions to label files."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from .find_cases import stem
from .record import description, fingerprint, image_of, image_record
from .write import SaveError, is_flat, source_of, write_labels


class SaveLabeld(SaveImaged):
    """Writes predictions `(1, X, Y, Z)` to `<output_dir>/<case>.nii.gz`, where <case> is the item "case".

    It is a `SaveImaged`, so that programs that take the saving out of a bundle's postprocessing find it; but
    the file is written atomically, with the sform and the qform of the image's file, and says in its header of which
    image it was made. The result of another image is not replaced.

    Args:
        keys: items to write.
        output_dir: folder, made if need be.
    """

    def __init__(self, keys: KeysCollection, output_dir: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, output_dir=output_dir, allow_missing_keys=allow_missing_keys)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the predictions of one image.

        Raises:
            SaveError: a file cannot be written, or is there already and is not the result of this image.
        """
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for key in self.key_iterator(data):
            labels = data[key]
            image = str(labels.meta["filename_or_obj"])
            array = labels.cpu().numpy()[0]
            path = self.output_dir / f"{data.get('case') or stem(image)}.nii.gz"
            made_of = fingerprint([Path(file) for file in json.loads(data.get("files") or "[]") or [image]])
            _refuse_another(path, made_of)
            affine = torch.as_tensor(labels.affine).cpu().numpy()
            flat, record = is_flat(image, array.shape), f"MONAI bundle {image_record(made_of)}"
            write_labels(path, array, affine, source=source_of(image), flat=flat, description=record)
        return dict(data)


def _refuse_another(path: Path, made_of: str) -> None:
    if not path.exists():
        return
    before = image_of(description(path))
    if before is None:
        what = "does not say of which image it was made"
    elif made_of.startswith(before):
        return
    else:
        what = "was made of another image"
    raise SaveError(f"is there already and {what}", path=path, hint="choose another output_dir, or remove it")
