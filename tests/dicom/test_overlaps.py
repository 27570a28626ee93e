"""Structures that share voxels: the inner counts, in any order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medseg.dicom.overlaps import StackedStructures

SPANS = {"body": (0, 100), "liver": (20, 60), "tumour": (30, 40)}


def stacked(*structures: tuple[str, int, int]) -> tuple[dict[str, int], list[str]]:
    """How many of 100 voxels each structure has in the end, and the notes."""
    found = StackedStructures((100,), [name for name, _, _ in structures])
    for _, start, stop in structures:
        mask = np.zeros(100, bool)
        mask[start:stop] = True
        found.add(mask)
    counts = np.bincount(found.labels, minlength=len(structures) + 1)[1:]
    return {name: int(count) for (name, _, _), count in zip(structures, counts, strict=True)}, found.notes()


@pytest.mark.parametrize("order", itertools.permutations(SPANS), ids="-".join)
def test_the_inner_of_nested_structures_counts_in_any_order(order):
    counts, notes = stacked(*((name, *SPANS[name]) for name in order))
    assert counts == {"body": 60, "liver": 30, "tumour": 10}
    assert "overlap" not in " ".join(notes)
    assert any(note.startswith("'body' encloses") and "'liver'" in note for note in notes)


def test_an_organ_that_sticks_out_a_little_is_still_inside():
    # 39 of 40 voxels of the liver are in the body: 97.5 %; its last one is outside and stays the liver's
    assert stacked(("liver", 20, 60), ("body", 0, 59))[0] == {"liver": 40, "body": 20}
    # 37 of 40 are too few: neighbours that overlap, of which the later counts
    counts, notes = stacked(("liver", 20, 60), ("stomach", 0, 57))
    assert counts == {"liver": 3, "stomach": 57}
    assert notes == ["its structures overlap in 37 voxels, which count for the later one"]


def test_of_two_that_are_the_same_the_later_counts():
    counts, notes = stacked(("liver", 20, 60), ("Leber", 20, 60))
    assert counts == {"liver": 0, "Leber": 40}
    assert notes == ["its structures overlap in 40 voxels, which count for the later one"]


def test_several_in_one():
    counts, notes = stacked(("kidney", 10, 20), ("spleen", 30, 35), ("body", 0, 100))
    assert counts == {"kidney": 10, "spleen": 5, "body": 85}
    assert notes == ["'body' encloses 'kidney', 'spleen', which count there"]
