"""Which connected components of a class stay in a finished label map; the others become background.

MONAI's own functions, which need scikit-image, do the work. Voxels that touch by a face, an edge or a corner are one
component.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import ceil, isfinite
from typing import Any, TypeVar

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import get_largest_connected_component_mask, remove_small_objects
from torch import Tensor

Inferred = TypeVar("Inferred", bound=Inferer)
Rule = dict[str, Any]
Rules = dict[int, Rule]
"""Label value -> which of its components stay."""

LARGEST: Rule = {"keep": "largest"}
_CONNECTIVITY = 3  # of `skimage.measure.label`: by faces, edges and corners
_ROUNDING = 1e-6  # of a number of voxels: a component of just the smallest volume stays


def with_components(inferer: Inferred, components: Mapping[Any, Any]) -> Inferred:
    """An inferer of this package that leaves of some labels certain components; what a bundle's configuration names.

    Args:
        inferer: gets the rules; its probabilities stay as they are.
        components: see `checked_rules`.

    Returns:
        `inferer`.

    Raises:
        ValueError: see `checked_rules`; or an inferer that has no use for them.
    """
    if not hasattr(inferer, "components"):
        raise ValueError(f"components are asked of a {type(inferer).__name__}, which keeps all of them")
    setattr(inferer, "components", checked_rules(components))  # noqa: B010 - not of every `Inferer`
    return inferer


def checked_rules(components: Mapping[Any, Any] | None) -> Rules:
    """Rules as a configuration gives them, where label values are texts.

    Args:
        components: label value -> `{"keep": "largest"}`, or `{"smallest_mm3": volume}` for the components of at least
            this volume; None is no rule.

    Raises:
        ValueError: another rule, or a key that is no label value.
    """
    rules: Rules = {}
    for key, rule in (components or {}).items():
        if not str(key).isdigit():
            raise ValueError(f"components has the key {key!r}; accepted are label values")
        if rule != LARGEST and not _is_smallest(rule):
            raise ValueError(
                f"components of the label {key} is {rule!r}; accepted are {LARGEST} and {{'smallest_mm3': VOLUME}}"
            )
        rules[int(key)] = dict(rule)
    return rules


def _is_smallest(rule: Any) -> bool:
    if not isinstance(rule, Mapping) or set(rule) != {"smallest_mm3"}:
        return False
    volume = rule["smallest_mm3"]
    is_number = isinstance(volume, int | float) and not isinstance(volume, bool)
    return is_number and isfinite(volume) and volume > 0


def keep_components(labels: Tensor, rules: Rules, background: int = 0, voxel_mm3: float | None = None) -> Tensor:
    """Leave of each class the components that its rule keeps.

    Args:
        labels: `(X, Y, Z)`, changed in place.
        rules: label value -> rule; labels without one stay as they are.
        background: label value of what is removed.
        voxel_mm3: volume of a voxel; needed where a rule names a smallest volume.

    Returns:
        `labels`.

    Raises:
        ValueError: a smallest volume, and no volume of a voxel.
    """
    for value, rule in rules.items():
        mask = labels == value
        box = _bounding_box(mask)
        if box is None:
            continue
        inside = mask[box]
        kept = torch.from_numpy(component_mask(inside.cpu().numpy(), rule, voxel_mm3)).to(labels.device)
        labels[box].masked_fill_(inside & ~kept, background)
    return labels


def component_mask(mask: np.ndarray, rule: Rule, voxel_mm3: float | None = None) -> np.ndarray:
    """The voxels of a mask `(X, Y, Z)` that a rule keeps, bool.

    Raises:
        ValueError: a smallest volume, and no volume of a voxel.
    """
    if rule == LARGEST:
        return np.asarray(get_largest_connected_component_mask(mask, connectivity=_CONNECTIVITY), bool)
    if voxel_mm3 is None:
        raise ValueError("components with a smallest volume need an image that knows the size of its voxels")
    smallest = ceil(rule["smallest_mm3"] / voxel_mm3 - _ROUNDING)
    between: Any = smallest - 0.5  # scikit-image before 0.26 removes what is smaller, later what is not larger
    not_full = np.pad(mask, ((0, 1), (0, 0), (0, 0)))  # MONAI gives back a full array as it is, whatever its size
    with warnings.catch_warnings():  # MONAI calls scikit-image 0.26 by an argument that has a new name there
        warnings.filterwarnings("ignore", "Parameter `min_size` is deprecated", FutureWarning)
        kept = remove_small_objects(not_full[None], min_size=between, connectivity=_CONNECTIVITY)
    return np.asarray(kept[0, :-1], bool)


def _bounding_box(mask: Tensor) -> tuple[slice, slice, slice] | None:
    """Where a mask `(X, Y, Z)` has voxels; None where it has none."""
    slices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        planes = mask.any(dim=others).nonzero().flatten()
        if not len(planes):
            return None
        slices.append(slice(int(planes[0]), int(planes[-1]) + 1))
    return slices[0], slices[1], slices[2]


def keep_components_of_result(result: Tensor, rules: Rules, background: int) -> Tensor:
    """`keep_components` of what an inferer hands out, `(1, 1, X, Y, Z)`, whose affine tells the size of its voxels."""
    if not rules:
        return result
    plain, voxel_mm3 = result, None
    if isinstance(result, MetaTensor):
        plain = result.as_tensor()
        affine = torch.as_tensor(result.affine).reshape(-1, 4, 4)[0]
        voxel_mm3 = abs(float(torch.linalg.det(affine[:3, :3].double())))
    keep_components(plain[0, 0], rules, background, voxel_mm3)
    return result
