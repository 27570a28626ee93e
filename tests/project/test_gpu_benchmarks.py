"""`benchmarks/gpu`: the packed scans, the results on disk, and both parts as dry runs on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from forking import python

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"
sys.path[:0] = [str(FOLDER), *(str(FOLDER.parent / part) for part in ("trainings", "speed"))]

import journal  # noqa: E402
import scans  # noqa: E402
import setting  # noqa: E402

AFFINE = np.diag([0.625, 0.625, 0.7, 1.0])


def write_scans(folder: Path, image: np.ndarray) -> Path:
    label = (image > image.mean()).astype(np.uint8)
    (folder / "images").mkdir(parents=True)
    nib.save(nib.Nifti1Image(image, AFFINE), folder / "images" / "a.nii.gz")
    nib.save(nib.Nifti1Image(image[::-1].copy(), AFFINE), folder / "images" / "b.nii.gz")
    nib.save(nib.Nifti1Image(label, AFFINE), folder / "a-label.nii.gz")
    content = {
        "labels": {"0": "background", "1": "atrium"},
        "training": [{"image": "images/a.nii.gz", "label": "a-label.nii.gz"}],
        "unlabeled": [{"image": "images/b.nii.gz"}],
    }
    (folder / "m.json").write_text(json.dumps(content))
    return folder / "m.json"


def test_differences_by_hand():
    levels = np.array([[[5], [7]], [[6], [4]]], np.uint8)
    expected = np.array([[[5], [2]], [[1], [252]]], np.uint8)  # 4 - 7 - (6 - 5) = -4, which is 252
    assert np.array_equal(scans.differences(levels), expected)
    assert np.array_equal(scans.summed(expected), levels)


def test_packed_scans_come_back_exactly(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (7, 6, 5))
    levels.flat[:2] = 0, 255
    image = levels * 0.037072181701660156 - 0.7704379558563232  # as a z-scored scan of 8 bits is stored
    manifest = write_scans(tmp_path / "data", image)
    pack = scans.pack(manifest, tmp_path / "pack")
    unpacked = scans.unpack(pack, tmp_path / "work")
    content = json.loads(unpacked.read_text())
    assert content["training"] == [{"image": "images/a.nii", "label": "a-label.nii"}]
    assert content["unlabeled"] == [{"image": "images/b.nii"}]
    for name in ("images/a.nii", "images/b.nii", "a-label.nii"):
        there, back = nib.load(tmp_path / "data" / f"{name}.gz"), nib.load(tmp_path / "work" / name)
        assert np.allclose(there.get_fdata(), back.get_fdata(), atol=1e-6, rtol=0)
        assert np.array_equal(there.affine, back.affine)
        assert back.get_data_dtype() == np.uint8


def test_scans_of_more_than_eight_bits_are_refused(tmp_path):
    manifest = write_scans(tmp_path / "data", np.arange(7 * 7 * 7, dtype=np.float64).reshape(7, 7, 7))
    command = [python(), FOLDER / "scans.py", "pack", manifest, tmp_path / "pack"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert ".nii.gz: has 343 values; accepted are at most 256 evenly spaced ones" in done.stderr
    assert not (tmp_path / "pack").exists()


def test_journal_by_hand(tmp_path):
    rows = journal.Journal(tmp_path, "part1")
    rows.start({"command": "run"})
    rows.add("step", what="ours", **{"s": 0.123456, "GiB": None})
    rows.add("step", what="theirs", holds=True)
    expected = "# part1\n\n## machine\n\n- command: run\n\n## step\n\n| what | s | GiB | holds |\n|---|---|---|---|\n"
    expected += "| ours | 0.1235 |  |  |\n| theirs |  |  | yes |\n"
    assert (tmp_path / "part1.md").read_text() == expected
    assert rows.rows("step")[0]["s"] == 0.123456
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part1.jsonl", "part1.md"]


def orders(tmp_path: Path, *, tiny: bool) -> setting.Setting:
    now = time.time()
    made = setting.Setting("part2", tmp_path / "out", tmp_path / "work" / "part2", now + 60, now + 290, tiny)
    made.work.mkdir(parents=True)
    made.journal.start({"device": "a GPU"})
    return made


def test_the_time_is_shared_by_two_trainings(tmp_path, monkeypatch):
    import trainings

    told = orders(tmp_path, tiny=False)
    monkeypatch.setattr(trainings, "scans", lambda _: tmp_path)
    monkeypatch.setattr(trainings, "step_seconds", lambda _, name: {"dtc_la": 0.1, "supervised": 0.05}[name])
    trainings.plan(told)
    found = json.loads((told.work / "plan.json").read_text())
    # 290 s / 2 less 35 s around each is 110 s; 0.9 of it at the slower pace of 0.1 s: 990 steps
    assert found["iterations"] in (989, 990)
    monkeypatch.setattr(trainings, "step_seconds", lambda *_: 1.0)
    trainings.plan(told)
    assert json.loads((told.work / "plan.json").read_text()) == found  # a part that goes on keeps its plan


def test_paces_of_part_1_count_on_the_same_device_only(tmp_path, monkeypatch):
    import loading
    import trainings

    told = orders(tmp_path, tiny=False)
    monkeypatch.setattr(trainings, "volume_task", lambda *_: None)
    monkeypatch.setattr(trainings, "pace", lambda *_: 7.0)
    assert trainings.step_seconds(told, "dtc_la") == 7.0
    part1 = journal.Journal(tmp_path / "work", "part1")
    part1.start({"device": "a GPU"})
    part1.add(loading.TOGETHER, training="dtc_la", **{"s per step": 0.25})
    assert trainings.step_seconds(told, "dtc_la") == 0.25
    assert trainings.step_seconds(told, "supervised") == 7.0
    part1.start({"device": "another GPU"})
    part1.add(loading.TOGETHER, training="dtc_la", **{"s per step": 0.25})
    assert trainings.step_seconds(told, "dtc_la") == 7.0


def run(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A part, in copies of a process unless told otherwise by `PYTHON`."""
    places = {"OUT": str(tmp_path / "out"), "WORK": str(tmp_path / "work"), "PYTHON": python()}
    return subprocess.Popen(
        ["bash", FOLDER / "run.sh", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | places | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_no_longer_fits_is_said(tmp_path):
    process = run(tmp_path, "part1", "--tiny", LIMIT="15")
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 1, told
    notes = journal.Journal(tmp_path / "out", "part1").rows("notes")
    assert [note["step"] for note in notes][-1] == "steps:compiled"
    assert len(notes) == 6
    assert all(note["note"].startswith("left out: ") for note in notes)


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["part3"], {}, "usage: bash benchmarks/gpu/run.sh part1|part2 [--tiny], got: part3"),
        (["part1", "--small"], {}, "got: part1 --small"),
        (["part1", "--tiny"], {"ONLY": "steps:all"}, "error: no step 'steps:all' in part1; accepted are steps:volume"),
    ],
)
def test_wrong_calls_are_one_line(tmp_path, arguments, variables, said):
    process = run(tmp_path, *arguments, **variables)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.slow
def test_part_1_runs(tmp_path):
    process = run(tmp_path, "part1", "--tiny")
    told = process.communicate(timeout=580)[0]
    assert process.returncode == 0, told
    rows = journal.Journal(tmp_path / "out", "part1").rows()
    count = {table: sum(row["table"] == table for row in rows) for table in {row["table"] for row in rows}}
    assert sorted(count.values()) == [1, 2, 2, 2, 4, 5, 5, 7, 14]
    assert "notes" not in count
    checks = {row["what"]: row["holds"] for row in rows if row["table"] == "checks"}
    must = [what for what in checks if "SIGTERM" not in what and "time of" not in what]
    assert len(must) == 5
    assert all(checks[what] for what in must), checks
    same = [row["same labels as the first, %"] for row in rows if "float32 (TF32" in row["table"]]
    assert same == [None, 100, 100, 100, 100]


@pytest.mark.slow
def test_part_2_runs_and_goes_on_after_a_kill(tmp_path):
    first = run(tmp_path, "part2", "--tiny", PYTHON=sys.executable)  # steps see their parent end
    record = tmp_path / "work" / "part2" / "dtc_la.json"
    deadline = time.monotonic() + 240
    while not record.exists():
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)  # bash gave its place to the program: this is the parent of all steps
    told = first.communicate(timeout=60)[0]  # ends once the step that was running is gone too
    assert "trainings:dtc" in told
    kept = record.read_bytes()
    assert journal.Journal(tmp_path / "out", "part2").rows("plan")[0]["iterations"] == 8

    second = run(tmp_path, "part2", "--tiny")
    told = second.communicate(timeout=300)[0]
    assert second.returncode == 0, told
    assert record.read_bytes() == kept
    rows = journal.Journal(tmp_path / "out", "part2").rows()
    results = [row for row in rows if row["table"].startswith("left atrium")]
    assert [(row["training"], row["steps"], row["scans"]) for row in results] == [
        ("dtc_la", 8, 2),
        ("supervised", 8, 2),
    ]
    assert all(0 <= row["dice"] <= 1 for row in results)
    assert rows[-1]["table"] == "dtc_la less supervised, Dice"
    assert rows[-1]["mean"] == pytest.approx(results[0]["dice"] - results[1]["dice"])
