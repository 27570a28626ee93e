"""A tiny data set of which tags and saliency maps are known, and no label."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from tiny import write_dataset


def write_tagged(folder: Path, **more) -> Path:
    """Training cases with tags and a saliency map, and no label; the first two are known to hold both structures."""
    manifest = write_dataset(folder, labeled=3, unlabeled=1, validation=0, test=0, **more)
    content = json.loads(manifest.read_text())
    tags = [["ball", "box"], ["ball"], []]
    for case, of_case in zip(content["training"], tags, strict=True):
        label = nib.load(folder / case.pop("label"))
        name = case["image"].replace(".nii.gz", "_saliency.nii.gz")
        nib.save(nib.Nifti1Image((np.asarray(label.dataobj) > 0).astype(np.float32), label.affine), folder / name)
        case |= {"tags": of_case, "maps": {"saliency": name}}
    path = folder / "tagged.json"
    path.write_text(json.dumps(content))
    return path
