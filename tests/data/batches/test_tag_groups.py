"""Groups of cases with the same tags: who is with whom, and which slices lie beside each other."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_streams import PLAIN, SHAPE, cached, spec, streams

from medseg.data.tag_groups import SameTagsOrder, cases_without, ranked_partners, slice_beside
from medseg.errors import DataError
from medseg.method import Stream, number_of_case

TAGS = [[1, 0], [1, 0], [1, 1], [0, 1], [0, 0], [1, 255], [0, 0]]


def order(tags=TAGS, subjects=None, across=None, length=20, **options) -> SameTagsOrder:
    """Of cases that are nothing but their tags."""
    names = subjects or [None] * len(tags)
    cases = [
        SimpleNamespace(tags=lambda _, row=row: np.array(row, np.uint8), subject=name, shape=(9, 9, length))
        for row, name in zip(tags, names, strict=True)
    ]
    return SameTagsOrder(cases, 3, Stream("weak", ("tags",), group="same_tags", **options), across)


def groups(made: SameTagsOrder, size: int, count: int = 70, seed: int = 0) -> list[list[int]]:
    return [[made.case(seed, "weak", group * size + place) for place in range(size)] for group in range(count)]


def test_who_shares_most_comes_first():
    tags = np.array(TAGS, np.uint8)
    assert [rank.tolist() for rank in ranked_partners(tags, tags[0])] == [[0, 1], [2, 5], [], [3, 4, 6]]
    # of case 2 the second tag is the rarer one
    assert [rank.tolist() for rank in ranked_partners(tags, tags[2])] == [[2], [3], [0, 1, 5], [4, 6]]
    assert [rank.tolist() for rank in ranked_partners(tags, tags[4])] == [[4, 6], [], [], [0, 1, 2, 3, 5]]
    assert cases_without(tags, tags[0]).tolist() == [False, False, False, True, True, False, True]
    assert not cases_without(tags, tags[4]).any()


def test_each_case_is_first_once_in_a_round_and_never_its_own_partner():
    made = order(group_size=3)
    found = groups(made, 3)
    for start in range(0, 70, 7):
        assert sorted(group[0] for group in found[start : start + 7]) == list(range(7))
    assert all(len(set(group)) == 3 for group in found)
    assert {group[1] for group in found if group[0] == 0} == {1}
    assert {group[2] for group in found if group[0] == 0} == {2, 5}, "drawn anew each time"
    assert {group[1] for group in found if group[0] == 4} == {6}
    assert found != groups(made, 3, seed=1)
    assert [group[0] for group in found[:7]] != [group[0] for group in found[7:14]]


def test_a_group_as_large_as_the_set_has_every_case_and_a_larger_one_is_refused():
    assert all(sorted(group) == list(range(7)) for group in groups(order(group_size=7), 7))
    with pytest.raises(DataError, match="groups of 8 different cases are asked for, there are 7 cases"):
        order(group_size=8)


def test_the_second_is_of_the_same_subject_and_the_last_without_the_tags():
    subjects = ["a", "b", "b", "a", "c", None, "c"]
    found = groups(order(subjects=subjects, group_size=4, neighbor=True, contrast=True), 4)
    second = {group[0]: group[1] for group in found}
    assert {first: second[first] for first in (0, 1, 2, 3, 4, 6)} == {0: 3, 1: 2, 2: 1, 3: 0, 4: 6, 6: 4}
    assert second[5] != 5
    tags = np.array(TAGS)
    for group in found:
        assert len(set(group)) == 4
        own = tags[group[0]] == 1
        assert not own.any() or (tags[group[3]][own] == 0).all()


def test_the_second_is_another_slice_where_a_subject_has_one_volume():
    made = order(group_size=3, neighbor=True, across=2)
    found = groups(made, 3)
    assert all(group[0] == group[1] != group[2] for group in found)
    apart = [made.slices_beside(0, "weak", number) for number in range(600)]
    assert all((slices is None) == (number % 3 != 1) for number, slices in enumerate(apart))
    assert {abs(slices) for slices in apart if slices is not None} == {2, 3, 4, 5, 6}
    thin = order(group_size=3, neighbor=True, across=2, length=6)
    assert all(len(set(group)) == 3 for group in groups(thin, 3)), "there is no such slice"
    assert [slice_beside(*each, 20) for each in ((10, -6), (10, 6), (3, -6), (17, 4))] == [4, 16, 9, 13]


def test_neighbours_lie_beside_each_other_in_the_batch(tmp_path):
    """Each voxel holds the number of its slice."""
    image = np.broadcast_to(np.arange(SHAPE[2]), (1, *SHAPE)).astype(float)
    cases = [replace(cached(tmp_path, f"c{i}", image), presence={1: True, 2: False}) for i in range(3)]
    stream = Stream("weak", ("tags", "index", "case"), group="same_tags", group_size=3, neighbor=True)
    data = streams({"weak": cases}, {"weak": 3}, spec((8, 8, 1), view="axial", augment=PLAIN), streams=(stream,))
    apart = set()
    for iteration in range(12):
        batch = data[iteration]["weak"]
        first, second, third = batch["index"].tolist()
        assert first == second != third
        assert batch["case"].tolist() == [number_of_case(f"c{index}") for index in (first, second, third)]
        places = batch["image"].amax((1, 2, 3))
        assert torch.equal(places, batch["image"].amin((1, 2, 3)))
        apart.add(int(places[1] - places[0]))
    assert {abs(slices) for slices in apart} <= {2, 3, 4, 5, 6}
    assert len(apart) > 3
