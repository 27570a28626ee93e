"""Results stay in their folder, and nothing is removed of which no record says that it is ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from raters import write_study

from medseg.atomic import problem_of_name, real_path
from medseg.cli.app import main
from medseg.errors import ManifestError, OutputError
from medseg.manifest.manifest import Manifest
from medseg.portable.io.write import temporary_name
from medseg.records import RECORD, Record
from medseg.workflows.train.run_folder import remove_unfinished

NAMES = {
    "..": "folder's name", ".": "folder's name", "": "empty", "a/b": "separator", "..\\a": "separator",
    "a\nb": "line break", "a\x00b": "cannot be seen", "a\u202eb": "cannot be seen",
    "NUL": "device", "com1.old": "device",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_none(name):
    assert NAMES[name] in problem_of_name(name)


@pytest.mark.parametrize("name", ["case1", "Fälle (2)", "a.b", "...", "console", "名前", "=1+1", " a"])
def test_names_that_are(name):
    assert problem_of_name(name) is None


def manifest_of(folder: Path, image: str, **more: str) -> Path:
    _, raters = write_study(folder)
    (folder / "image.nii.gz").rename(folder / image)
    case = {"image": image, "annotations": [{"rater": path.name[:3], "label": path.name} for path in raters], **more}
    content = {"labels": {"0": "background", "1": "liver"}, "modality": {"0": "CT"}, "training": [case]}
    (folder / "m.json").write_text(json.dumps(content))
    return folder / "m.json"


def test_a_consensus_is_not_written_beside_its_folder(tmp_path, capsys):
    data = manifest_of(tmp_path / "data", "...nii.gz")
    with pytest.raises(ManifestError, match=r"'\.\.' is a folder's name"):
        Manifest.load(data)
    with pytest.raises(SystemExit) as caught:
        main(["consensus", "--data", str(data), "-o", str(tmp_path / "out" / "inner")])
    assert caught.value.code == 2
    assert '"case": "NAME"' in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))
    named = manifest_of(tmp_path / "named", "...nii.gz", case="first")
    assert [case.name for case in Manifest.load(named).training] == ["first"]


def test_a_line_break_in_a_key_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="line break"):
        Manifest.load(manifest_of(tmp_path, "image.nii.gz", case="a\nb"))


def record_of(folder: Path, above: int = 1) -> Record:
    return Record(folder / RECORD, inputs={}, settings={"above": above}, products=[folder / "bundle"])


def test_somebodys_folder_is_not_emptied(tmp_path):
    folder = tmp_path / "round0" / "axial"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="no record says that medseg made them"):
        record_of(folder).begin(folder)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_what_a_record_speaks_of_is_emptied_for_other_work(tmp_path):
    folder = tmp_path / "round0" / "axial"
    record_of(folder).begin(folder)
    (folder / "last.pt").write_text("half")
    record_of(folder).begin(folder)
    assert (folder / "last.pt").exists(), "the same work goes on"
    record_of(folder, above=2).begin(folder)
    assert not (folder / "last.pt").exists()


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as dead:
        dead.wait()
    mine = temporary_name(tmp_path / "round0" / "axial" / "bundle").name
    of_dead = mine.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    elsewhere = of_dead.replace(mine.split("-")[1], "00000000")
    folder = tmp_path / "round0" / "axial"
    for name in (mine, of_dead, elsewhere):
        (folder / name / "models").mkdir(parents=True)
        (folder / name / "models" / "model.pt").write_text("half")
    (tmp_path / of_dead).write_text("half of run.json")
    (folder / "user.tmp").write_text("notes")
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == sorted([mine, elsewhere, "user.tmp"])
    assert [path.name for path in tmp_path.iterdir()] == ["round0"]


def test_links_that_lead_in_a_circle_lead_somewhere(tmp_path, capsys):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert real_path(tmp_path / "a").parent == tmp_path
    _, raters = write_study(tmp_path / "study")
    words = [word for rater in raters for word in ("-a", str(rater))]
    with pytest.raises(SystemExit) as caught:
        main(["consensus", *words, "--method", "majority", "-o", str(tmp_path / "a")])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path / 'a'}: cannot be made")
    assert told.count("\n") == 1
