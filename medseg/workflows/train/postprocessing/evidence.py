"""The components of predicted and of true label maps, from which every rule's Dice follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from skimage.measure import label

from medseg.manifest.labelling import is_pseudo
from medseg.manifest.manifest import Case, Manifest
from medseg.method import IGNORE
from medseg.portable.inference.components import LARGEST, Rule, component_mask
from medseg.portable.io.read import read_header
from medseg.workflows.train.self_training.validation_scores import read_reference

CONNECTIVITY = 3
"""By faces, edges and corners, as `portable.inference.components`."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one structure in one case.

    Args:
        case: its name.
        voxel_mm3: volume of a voxel.
        reference: voxels of the structure in the label.
        components: of the prediction, each with its voxels, those of them that the label says something of, and those
            that are true; of several that are the largest the one that `LARGEST` keeps is first.
    """

    case: str
    voxel_mm3: float
    reference: int
    components: tuple[tuple[int, int, int], ...]

    @property
    def may_gain(self) -> bool:
        """Whether there is something to remove: a second component, or one where there should be none."""
        return len(self.components) > 1 or (not self.reference and bool(self.components))

    def dice(self, rule: Rule | None) -> float:
        """Dice of what a rule keeps; 1 where it keeps nothing and there is nothing."""
        kept = self._kept(rule)
        predicted = sum(known for _, known, _ in kept)
        true = sum(shared for _, _, shared in kept)
        both = predicted + self.reference
        return 2 * true / both if both else 1.0

    def _kept(self, rule: Rule | None) -> Sequence[tuple[int, int, int]]:
        if rule is None or not self.components:
            return self.components
        if rule == LARGEST:
            return [max(self.components, key=lambda each: each[0])]  # the first of equals
        return [each for each in self.components if each[0] * self.voxel_mm3 >= rule["smallest_mm3"]]

    def plain(self) -> dict[str, Any]:
        """As values for JSON."""
        return asdict(self)

    @classmethod
    def of_plain(cls, content: dict[str, Any]) -> Evidence:
        """Back from JSON."""
        components = tuple((int(a), int(b), int(c)) for a, b, c in content["components"])
        return cls(content["case"], content["voxel_mm3"], content["reference"], components)


def evidence_of(
    case: str, prediction: np.ndarray, reference: np.ndarray, index: int, voxel_mm3: float
) -> Evidence | None:
    """What one case says of one structure; None where neither map has it.

    Args:
        case: its name.
        prediction: class indices `(X, Y, Z)`.
        reference: likewise, 255 where nobody labelled.
        index: of the class.
        voxel_mm3: volume of a voxel.
    """
    true = reference == index
    found = prediction == index
    if not (true.any() or found.any()):
        return None
    numbers, count = label(found, connectivity=CONNECTIVITY, return_num=True)
    voxels = np.bincount(numbers[found], minlength=count + 1)[1:]
    known = np.bincount(numbers[found & (reference != IGNORE)], minlength=count + 1)[1:]
    shared = np.bincount(numbers[found & true], minlength=count + 1)[1:]
    components = list(zip(voxels.tolist(), known.tolist(), shared.tolist(), strict=True))
    if count and (voxels == voxels.max()).sum() > 1:
        kept = int(numbers[component_mask(found, LARGEST)][0]) - 1
        components.insert(0, components.pop(kept))
    return Evidence(case, voxel_mm3, int(true.sum()), tuple(components))


def voxel_volume(manifest: Manifest, case: Case) -> float:
    """Volume of a voxel of a case's image, mm3."""
    affine = read_header(manifest.images(case)[0]).affine
    return abs(float(np.linalg.det(affine[:3, :3])))


def smallest_true_components(manifest: Manifest, structures: Iterable[str]) -> dict[str, float]:
    """The volume of the smallest component of each structure in the labels of the training cases, mm3.

    Cases of which nobody labelled a part are passed over: there components may be cut.

    Args:
        manifest: the data set.
        structures: names of those that are asked for.

    Returns:
        Structure -> volume; those that no label has are missing.

    Raises:
        DataError: a label that cannot be read.
    """
    names = [manifest.classes[index] for index in range(len(manifest.classes))]
    smallest: dict[str, float] = {}
    for case in manifest.training:
        if case.label is None or is_pseudo(case):
            continue
        reference = read_reference(manifest, case)
        if (reference == IGNORE).any():
            continue
        covered = manifest.covered(case) or (True,) * len(names)
        voxel_mm3 = voxel_volume(manifest, case)
        for name in structures:
            index = names.index(name)
            if not covered[index]:
                continue
            numbers = label(reference == index, connectivity=CONNECTIVITY)
            volumes = np.bincount(numbers.ravel())[1:] * voxel_mm3
            if len(volumes):
                smallest[name] = min(float(volumes.min()), smallest.get(name, np.inf))
    return smallest
