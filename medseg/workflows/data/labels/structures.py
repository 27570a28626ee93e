"""One label file of several masks, one for each structure, as TotalSegmentator writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import make_folder
from medseg.errors import ConfigError, DataError
from medseg.manifest.case import Case
from medseg.manifest.manifest import Manifest
from medseg.portable.geometry import check_offset
from medseg.portable.io.channel_names import listed
from medseg.portable.io.header import Header
from medseg.portable.io.read import read_volume
from medseg.portable.io.write import is_flat, source_of, write_labels
from medseg.progress import say
from medseg.workflows.data.layouts.found import STRUCTURES

MOST = 254


@dataclass
class Overlaps:
    """Voxels that two structures share, in all cases together.

    Attributes:
        voxels: how many.
        cases: names of the cases.
        example: the pair of structures that share most in one case, and how many voxels.
    """

    voxels: int = 0
    cases: list[str] = field(default_factory=list)
    example: tuple[int, str, str] = (0, "", "")

    def told(self) -> str:
        """The warning; empty where nothing overlaps."""
        if not self.voxels:
            return ""
        most, one, other = self.example
        return (
            f"structures overlap in {self.voxels} voxels of {len(self.cases)} cases ({listed(self.cases)}), "
            f"{one} and {other} in {most} of one: where two do, the one that is smaller in that image has the voxel"
        )


def merge_structures(
    cases: Sequence[dict[str, Any]], given: Mapping[int, str], source: Path, folder: Path
) -> dict[str, str]:
    """Write a label file for each case that has masks of single structures, and let the case have it.

    Where two masks overlap the structure that has fewer voxels in that image wins, so that a tumour in a liver stays.
    A case without a file for a structure covers the others only (`classes`).

    Args:
        cases: those with the key `STRUCTURES` get a `label` in its place.
        given: value -> name of the structures to take; empty: all, in the order of their names.
        source: folder of the data set.
        folder: of the label files.

    Returns:
        Value -> name, the background with them.

    Raises:
        ConfigError: a structure that is wanted has no file.
        DataError: too many structures, a file that is no mask, or masks of one case on different grids.
        OutputError: a label file cannot be written.
    """
    mine = [case for case in cases if STRUCTURES in case]
    values = _values(mine, {value: name for value, name in given.items() if value}, source)
    make_folder(folder)
    overlaps = Overlaps()
    partial = []
    for case in mine:
        masks = {name: file for name, file in case.pop(STRUCTURES).items() if name in values}
        name = Case.model_validate(case).name
        labels, header = _merged(masks, values, name, overlaps)
        path = folder / f"{name}.nii.gz"
        first = header.path
        write_labels(path, labels, header.affine, source=source_of(first), flat=is_flat(first, header.shape))
        case["label"] = Manifest.relative(path, source)
        case.setdefault("case", name)
        if len(masks) < len(values):
            case["classes"] = sorted(masks, key=lambda each: values[each])
            partial.append(name)
    say(f"masks of {len(values)} structures were merged, one label file for each of {len(mine)} cases, into {folder}")
    if partial:
        say(f"warning: no files for some of the structures, which counts as 'not annotated', in {listed(partial)}")
    if overlaps.told():
        say(f"warning: {overlaps.told()}")
    return {"0": given.get(0, "background"), **{str(value): name for name, value in values.items()}}


def _values(cases: Sequence[dict[str, Any]], given: Mapping[int, str], source: Path) -> dict[str, int]:
    """Structure -> its value in the label files."""
    there = sorted(set().union(*(case[STRUCTURES] for case in cases)))
    if not given:
        if len(there) > MOST:
            hint = "choose some by --label 1=NAME --label 2=NAME"
            raise DataError(f"has {len(there)} structures; accepted are up to {MOST}", path=source, hint=hint)
        return {name: place for place, name in enumerate(there, start=1)}
    for name in given.values():
        if name not in there:
            near = get_close_matches(name, there, n=3) or there
            raise ConfigError(f"--label names {name}, which no file is called; there are {listed(near)}")
    left_out = [name for name in there if name not in given.values()]
    if left_out:
        say(f"left out, as --label does not name them: {listed(left_out)}")
    return {name: value for value, name in sorted(given.items())}


def _merged(
    masks: Mapping[str, Path], values: Mapping[str, int], case: str, overlaps: Overlaps
) -> tuple[np.ndarray, Header]:
    """`(X, Y, Z)`: at each voxel the smallest structure whose mask is there.

    Raises:
        DataError: there is no mask, one is none, or they lie on different grids.
    """
    if not masks:
        raise DataError(f"the case {case} has no mask of a structure that is wanted")
    labels, first = None, None
    sizes = np.full(256, np.iinfo(np.int64).max)
    names = {value: name for name, value in values.items()}
    before = overlaps.voxels
    for name, file in masks.items():
        mask, header = _read_mask(file)
        if labels is None or first is None:
            labels, first = np.zeros(mask.shape, np.uint8), header
        _refuse_other_grid(first, header)
        value, size = values[name], int(mask.sum())
        sizes[value] = size
        there = labels[mask]
        shared = np.bincount(there[there > 0], minlength=1)
        overlaps.voxels += int(shared.sum())
        if shared.max() > overlaps.example[0]:
            overlaps.example = (int(shared.max()), names[int(shared.argmax())], name)
        labels[mask] = np.where(sizes[there] > size, value, there)
    if overlaps.voxels > before:
        overlaps.cases.append(case)
    assert labels is not None
    assert first is not None
    return labels, first


def _refuse_other_grid(first: Header, header: Header) -> None:
    if first.shape != header.shape or not np.allclose(first.affine, header.affine, atol=1e-3):
        check_offset(first, header, "the mask")
        hint = "save all masks of a case in the same order of axes"
        raise DataError(f"is stored in another order of axes than {first.path.name}", path=header.path, hint=hint)


def _read_mask(file: Path) -> tuple[np.ndarray, Header]:
    """`(X, Y, Z)` bool: where a mask of 0 and one other value is not 0."""
    array, header = read_volume(file, indices=True)
    found = np.unique(array[0])
    if len(array) != 1 or len(found) > 2 or (len(found) == 2 and found[0] != 0):
        what = f"holds {len(found)} values in {len(array)} channel{'s' * (len(array) > 1)}"
        raise DataError(f"{what}; accepted in a mask of one structure are 0 and one other", path=file)
    return array[0] != 0, header
