"""Volumes of the structures in the labelled cases, beside which those of pseudo-labels can be read."""

from __future__ import annotations

import numpy as np

from medseg.manifest import Manifest
from medseg.method import IGNORE
from medseg.portable.reading import read_header
from medseg.workflows.rounds_scores import truth_of


def drawn_ml(manifest: Manifest) -> dict[str, float]:
    """Mean volume of each structure in the labelled training cases, in ml.

    Cases of which a part is ignored say nothing of whole volumes and are passed over; without others it is empty.

    Raises:
        DataError: a label that cannot be read.
    """
    classes, volumes = len(manifest.labels), []
    for case in manifest.training:
        if case.label is None:
            continue
        counts = np.bincount(truth_of(manifest, case).ravel(order="K"), minlength=IGNORE + 1)
        if not counts[IGNORE]:
            affine = read_header(manifest.images(case)[0]).affine
            volumes.append(counts[1:classes] * abs(float(np.linalg.det(affine[:3, :3]))) / 1000)
    if not volumes:
        return {}
    structures = [name for value, name in manifest.labels.items() if value]
    return dict(zip(structures, np.mean(volumes, 0).tolist(), strict=True))
