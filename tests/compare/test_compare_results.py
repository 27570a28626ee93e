"""The tables of a folder: what is in them of runs whose folders are gone, or that are not asked for this time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from medseg.manifest.manifest import Manifest
from medseg.workflows.compare.folder import Folder
from medseg.workflows.compare.report.description import ArmDescription, Description
from medseg.workflows.compare.scores.results import is_planar, read_results, write_results
from medseg.workflows.compare.scores.rows import CaseRow, RunKey, RunRow
from medseg.workflows.compare.scores.rows_csv import CASES, RUNS, read_cases, read_runs, write_cases, write_runs


@dataclass
class Gone:
    """A run without a folder."""

    folder: Folder
    key: RunKey
    is_made: bool = False

    @property
    def path(self) -> Path:
        return self.folder.run(self.key)


class Describe:
    def show(self, text: str) -> str:
        return text

    def __call__(self, runs, cases) -> Description:
        return Description("c", "medseg compare", (ArmDescription("a", "a"),), "m.json", "1 case", "1 iteration")


def tables(folder: Folder) -> None:
    """Two finished runs and one that failed, whose folders are gone."""
    made = [RunKey("a", 0), RunKey("b", 0)]
    rows = [RunRow(key, "", 60, 90.0, 100.0, 1) for key in made]
    write_runs(folder.path / RUNS, [*rows, RunRow(RunKey("c", 0), "no such luck")])
    write_cases(folder.path / CASES, [CaseRow(key, "x", "x", "liver", {"dice": 0.5}, 1, 2, 2) for key in made])


def test_a_run_whose_folder_is_gone_is_taken_from_the_tables(tmp_path):
    folder = Folder(tmp_path)
    tables(folder)
    found = read_results(folder, [Gone(folder, RunKey(arm, 0)) for arm in "abc"])
    assert [key.arm for key in found.runs] == ["a", "b"], "one that failed is tried again"
    assert found.cases[RunKey("b", 0)][0].metrics == {"dice": 0.5}


@pytest.mark.parametrize(("depth", "planar"), [(1, True), (3, False)])
def test_images_are_2d_whether_the_folders_of_runs_are_there_or_not(tmp_path, depth, planar):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, depth), np.uint8), np.eye(4)), tmp_path / "x.nii.gz")
    (tmp_path / "m.json").write_text('{"labels": {"0": "background", "1": "liver"}, "test": ["x.nii.gz"]}')
    key = RunKey("a", 0)
    run = SimpleNamespace(key=key, data=SimpleNamespace(judged=Manifest.load(tmp_path / "m.json")))
    rows = [CaseRow(key, "x", "x", "background", {}, 9, 9, 9), CaseRow(key, "x", "x", "liver", {"dice": 0.5}, 1, 2, 2)]
    assert is_planar([run], {key: {}}, rows) is planar
    assert is_planar([run], {key: {"planar": not planar}}, rows) is not planar
    assert is_planar([run], {key: {}}, []) is False, "nothing is finished"
    assert is_planar([run], {key: {}}, rows[1:]) is False, "without the background's counts"


def test_tables_keep_what_is_not_asked_for_this_time(tmp_path):
    folder = Folder(tmp_path)
    tables(folder)
    findings = write_results(folder, [Gone(folder, RunKey("a", 0))], Describe())
    assert [result.arm for result in findings.results] == ["a"], "the page has what was asked for"
    assert [run.key.arm for run in read_runs(tmp_path / RUNS)] == ["a", "b"]
    assert [row.key.arm for row in read_cases(tmp_path / CASES)] == ["a", "b"]
    again = read_results(folder, [Gone(folder, RunKey("b", 0))])
    assert again.runs[RunKey("b", 0)].iterations == 60
