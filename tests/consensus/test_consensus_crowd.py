"""The benchmark of crowds against experts, on a generated folder whose numbers are counted by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.consensus.study import MISSING
from medseg.errors import DataError

_FILE = Path(__file__).parents[2] / "benchmarks" / "consensus" / "consensus_crowd.py"
_SPEC = importlib.util.spec_from_file_location("consensus_crowd", _FILE)
crowd = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = crowd  # where its dataclass looks for it
_SPEC.loader.exec_module(crowd)


def square(start: int, stop: int) -> np.ndarray:
    labels = np.zeros((32, 32), np.uint8)
    labels[10:20, start:stop] = 1
    return labels


def write_image(folder: Path, members: list[np.ndarray], experts: list[np.ndarray]) -> Path:
    for name, drawn in (("crowd", members), ("experts", experts)):
        (folder / name).mkdir(parents=True)
        for n, labels in enumerate(drawn):
            Image.fromarray(labels).save(folder / name / f"{n}.png")
    Image.fromarray((60 + 100 * square(10, 20)).astype(np.uint8)).save(folder / "image.png")
    return folder


def test_methods_against_the_experts_vote(tmp_path):
    # majority of the crowd has 10 of the experts' 10 columns in the first image, 8 in the second
    write_image(tmp_path / "a", [square(10, 20), square(10, 20), square(10, 15)], [square(10, 20)] * 3)
    write_image(tmp_path / "b", [square(10, 18), square(10, 18), square(10, 20)], [square(10, 20), square(10, 20)])
    found = crowd.measure([tmp_path / "a", tmp_path / "b"], ["majority", "simple"])
    assert found.dice["majority"] == pytest.approx([1, 2 * 8 / 18])
    assert found.dice[crowd.CROWD] == pytest.approx([(1 + 1 + 2 * 5 / 15) / 3, (2 * 2 * 8 / 18 + 1) / 3])
    # mean 17/18, deviation sqrt(2) / 18 over the root of 2
    assert "| majority | 0.9444 ± 0.0556 | 0.889 |" in crowd.table(found)


def test_what_is_told_of_the_weights(tmp_path):
    # the third drew another thing: it has the lowest weight, and the lowest Dice
    members = [square(10, 20), square(10, 19), square(22, 30)]
    folder = write_image(tmp_path / "a", members, [square(10, 20)])
    found = crowd.measure([folder], ["gcssl"])
    assert found.ranks[0] > 0
    assert found.mistaken == 0
    assert "worst member heaviest in 0 of 1 images" in crowd.table(found)


def test_where_experts_are_tied_nothing_is_counted(tmp_path):
    folder = write_image(tmp_path / "a", [square(10, 20)] * 2, [square(10, 20), square(10, 16)])
    study, truth = crowd.read_crowd(folder)
    assert len(study.raters) == 2
    assert np.count_nonzero(truth == MISSING) == 40
    assert crowd.mean_dice(study.raters[0].labels, truth, 2) == 1


def test_folders_that_are_laid_out_otherwise(tmp_path):
    folder = write_image(tmp_path / "a", [square(10, 20)], [square(10, 20)])
    with pytest.raises(DataError, match="holds 1 annotations; at least 2"):
        crowd.read_crowd(folder)
    (folder / "image.png").unlink()
    with pytest.raises(DataError, match="has 0 files called image"):
        crowd.read_crowd(folder)
