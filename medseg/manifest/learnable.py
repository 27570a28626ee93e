"""Whether the labels of a data set teach anything."""

from __future__ import annotations

from collections.abc import Collection

from medseg.manifest.manifest import Manifest


def nothing_to_tell_apart(manifest: Manifest, present: Collection[int]) -> str:
    """Why nothing can be learnt from the training labels; empty where something can.

    Args:
        manifest: names the classes.
        present: values that occur in any of the labels.

    Examples:
        >>> case = {"image": "a.nii.gz", "label": "a_seg.nii.gz"}
        >>> manifest = Manifest.model_validate({"labels": {"0": "background", "1": "liver"}, "training": [case]})
        >>> nothing_to_tell_apart(manifest, [0, 255])
        'no training label has a voxel of any structure (1 liver): nothing can be learnt'
        >>> nothing_to_tell_apart(manifest, [1])
        'every labelled voxel of the training labels is liver: there is nothing to tell it from'
        >>> nothing_to_tell_apart(manifest, [0, 1])
        ''
    """
    known = sorted(set(present) & set(manifest.labels))
    if not set(known) & set(manifest.structures):
        named = ", ".join(f"{value} {name}" for value, name in manifest.structures.items())
        return f"no training label has a voxel of any structure ({named}): nothing can be learnt"
    if len(known) == 1:
        name = manifest.labels[known[0]]
        return f"every labelled voxel of the training labels is {name}: there is nothing to tell it from"
    return ""
