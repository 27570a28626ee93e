"""Statistics of pseudo-labels, against numbers counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.workflows.train.self_training.labelling.pseudo_label_statistics import count_case, summarize_round

VIEWS = ("sagittal", "coronal", "axial")


def volume(values):
    return np.array(values, np.uint8).reshape(2, 2, 2)


LABELS = [volume(v) for v in ([0, 0, 1, 1, 2, 2, 0, 1], [0, 0, 1, 1, 2, 1, 1, 1], [0, 0, 1, 2, 2, 0, 0, 1])]
FUSED = volume([0, 0, 1, 1, 2, 255, 0, 1])


def counted(before=None):
    return count_case(LABELS, FUSED, classes=3, voxel_ml=0.5, before=before)


def test_counts_by_hand():
    found = counted(before=volume([0, 1, 1, 1, 2, 2, 0, 0]))
    assert found["fused"] == [3, 3, 1]
    assert found["ignored"] == 1
    assert found["views"] == [[3, 3, 2], [2, 5, 1], [4, 2, 2]]
    assert (found["structure"], found["agreed"], found["disagreed"], found["all_differ"]) == (6, 3, 3, 1)
    assert found["changed"] == 3
    assert (found["both"], found["size"]) == ([2, 1], [6, 3])


def test_statistics_of_a_round():
    first = summarize_round({"a": counted()}, ("liver", "spleen"), VIEWS)
    assert first["volume_ml"] == {"liver": 1.5, "spleen": 0.5}
    assert first["agreement"] == pytest.approx(3 / 6)
    assert first["diversity"] == pytest.approx(3 / 8)
    assert first["ignored"] == pytest.approx(1 / 8)
    assert first["changed"] is None
    assert first["dice_to_last"] is None
    nothing = np.zeros((2, 2, 2), np.uint8)
    empty = count_case([nothing] * 3, nothing, classes=3, voxel_ml=0.5, before=nothing)
    both = summarize_round({"a": counted(volume([0, 1, 1, 1, 2, 2, 0, 0])), "b": empty}, ("liver", "spleen"), VIEWS)
    assert both["empty"] == ["b"]
    assert both["silent"] == []
    assert both["volume_ml"] == {"liver": 0.75, "spleen": 0.25}
    assert both["changed"] == pytest.approx(3 / 16)
    assert both["dice_to_last"] == pytest.approx((4 / 6 + 2 / 3) / 2)


def test_a_view_that_finds_nothing_is_named():
    labels = [LABELS[0], np.zeros_like(FUSED), LABELS[2]]
    found = summarize_round({"a": count_case(labels, FUSED, classes=3, voxel_ml=1.0)}, ("liver", "spleen"), VIEWS)
    assert found["silent"] == ["coronal"]
