"""Several fusers on one study: figures by hand, what fails keeps its row, and nothing is ever NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medseg.consensus.compare_methods import compare
from medseg.consensus.fuse import run
from medseg.consensus.study import MISSING, Rater, Study
from medseg.errors import ConfigError


def study_of(labels, classes, spacing=(1.0, 1.0, 1.0)) -> Study:
    volumes = [np.asarray(a, np.uint8) for a in labels]
    volumes = [a.reshape(*a.shape, *[1] * (3 - a.ndim)) for a in volumes]
    names = tuple(f"class{c}" for c in range(classes))
    return Study(tuple(Rater(f"e{r}", a) for r, a in enumerate(volumes)), names, spacing)


@pytest.mark.parametrize("value", [0, 1, MISSING])
def test_nothing_to_compare_is_none_and_not_nan(value):
    rows = compare(study_of([np.full((9, 8, 7), value)] * 3, 2), ["majority", "staple", "simple", "sba"])
    assert [row["error"] for row in rows] == [None] * 4
    assert all(row["dice_to_chosen"]["class1"] == (1 if value == 1 else None) for row in rows)
    json.dumps(rows, allow_nan=False)


def test_comparison_with_the_chosen_answer_and_the_truth():
    truth = np.array([0, 0, 1, 1, 1, 0, 2, 2, 0, 0], np.uint8).reshape(10, 1, 1)
    wide = np.array([0, 1, 1, 1, 1, 1, 2, 2, 2, 0], np.uint8).reshape(10, 1, 1)
    study = study_of([truth, truth, wide], 3, (1.0, 1.0, 2.0))
    first, second = compare(study, ["majority", "staple"], truth)
    assert first["dice_to_reference"] == {"class1": 1.0, "class2": 1.0, "mean": 1.0}
    assert first["volumes_ml"] == {"class1": pytest.approx(0.006), "class2": pytest.approx(0.004)}
    assert second["dice_to_chosen"]["mean"] == 1
    assert second["differing_voxels"] == 0
    known = run(study, "majority")
    known.labels[:] = wide
    rows = compare(study, ["majority", "simple", "gcssl"], wide, {"majority": known})
    assert rows[0]["dice_to_reference"]["mean"] == 1
    assert rows[0]["cpu_seconds"] is None
    assert rows[1]["differing_voxels"] == int((run(study, "simple").labels != wide).sum())
    assert "image" in rows[2]["error"]
    assert rows[2]["dice_to_reference"] is None
    json.dumps(rows, allow_nan=False)


def test_comparison_refuses_what_it_does_not_know():
    study = study_of([[0, 1], [1, 1]], 2)
    with pytest.raises(ConfigError, match="there is no method"):
        compare(study, ["vote"])
    with pytest.raises(ConfigError, match="no method"):
        compare(study, [])
    with pytest.raises(ValueError, match="shape"):
        compare(study, ["majority"], np.zeros((3, 1, 1), np.uint8))


def test_a_former_name_of_the_chosen_method_is_no_second_method():
    study = study_of([[0, 1, 1], [1, 1, 0], [0, 1, 0]], 2)
    known = run(study, "staple-fast")
    rows = compare(study, ["staple-fast", "majority", "staple"], None, {"staple-fast": known})
    assert [row["method"] for row in rows] == ["staple", "majority"]
    assert rows[0]["cpu_seconds"] is None
