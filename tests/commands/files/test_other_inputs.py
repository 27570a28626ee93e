"""No command replaces what was made of something else: within itself, after another one, or beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicoms import read_all, write_series
from forking import python
from models import labels_of, make_bundle, make_image
from monai.data import MetaTensor
from raters import ball, save, write_study
from stock import ask_elsewhere
from test_consensus_command import VOTE, files_of, mistake, run, write_manifest
from tiny import write_dataset

from medseg import atomic
from medseg.errors import ConfigError, DataError
from medseg.portable.io.monai_writer import SaveLabeld
from medseg.portable.io.record import image_of, image_record
from medseg.portable.io.write import SaveError, remove_leftovers, write_labels
from medseg.workflows.data.init import init_manifest
from medseg.workflows.evaluate.run import evaluate
from medseg.workflows.predict.collect_cases import collect
from medseg.workflows.predict.earlier_results import EarlierResults
from medseg.workflows.predict.results.files import ResultFiles
from medseg.workflows.predict.results.formats import recorded
from medseg.workflows.predict.run import predict
from medseg.workflows.train.plan import write_plan


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "abdomen" / "bundle").parent


@pytest.fixture
def scans(tmp_path) -> tuple[Path, Path]:
    """Two patients whose files have one name."""
    return make_image(tmp_path / "a" / "scan.nii.gz", seed=1), make_image(tmp_path / "b" / "scan.nii.gz", seed=2)


def refused(*words: str, **options) -> None:
    """`predict` says so and leaves the folder as it was."""
    arguments = [options.pop(name) for name in ("model", "inputs", "output")]
    before = {path: path.read_bytes() for path in arguments[2].rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as caught:
        predict(*arguments, **options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert {path: path.read_bytes() for path in arguments[2].rglob("*") if path.is_file()} == before


# ---- predict


@pytest.mark.parametrize("format_", ["nifti", "nrrd"])
def test_another_image_of_the_same_name_is_refused_also_with_overwrite(model, scans, tmp_path, format_):
    one, other = scans
    out, kind = tmp_path / "out", {"format": format_}
    result = out / ("scan.nii.gz" if format_ == "nifti" else "scan.seg.nrrd")
    predict(model, one, out, **kind)
    again = {"model": model, "inputs": other, "output": out, **kind}
    refused(f"{result}: is the result of {one} and not of {other}; choose another --output", **again)
    refused(str(one), str(other), **again, overwrite=True)
    refused(str(one), str(other), **{**again, "inputs": other.parent})
    (out / "predict_report.json").unlink()  # the header knows the content still
    refused(f"{result}: is the result of another image than {other}", **again)
    report = predict(model, one, out, **kind, overwrite=True)
    assert [case["status"] for case in report["cases"]] == ["done"]


def test_the_same_image_is_the_same_file_or_the_same_content(model, scans, tmp_path):
    one, other = scans
    out = tmp_path / "out"
    first = predict(model, one, out)["cases"][0]
    moved = tmp_path / "moved" / one.name
    moved.parent.mkdir()
    one.rename(moved)
    assert predict(model, moved, out)["cases"][0]["status"] == "skipped"
    assert predict(model, moved, out, overwrite=True)["cases"][0]["status"] == "done"
    shutil.copy(other, moved)  # exported anew
    entry = predict(model, moved, out)["cases"][0]
    assert (entry["status"], entry["result"]) == ("done", first["result"])
    assert entry["image_sha256"] != first["image_sha256"]
    link = tmp_path / "link" / one.name
    link.parent.mkdir()
    link.symlink_to(moved)
    make_image(moved, seed=3)
    assert predict(model, link, out)["cases"][0]["status"] == "done"


def test_files_that_are_no_results_are_not_replaced(model, scans, tmp_path):
    (tmp_path / "out" / "probabilities").mkdir(parents=True)
    drawn = save(tmp_path / "out" / "scan.nii.gz", ball())
    again = {"model": model, "inputs": scans[0], "output": tmp_path / "out"}
    refused(f"{drawn}: is there already and does not say that it was made of {scans[0]}", **again, overwrite=True)
    drawn.rename(tmp_path / "out" / "probabilities" / "scan.nii.gz")
    refused("probabilities/scan.nii.gz: is there already", **again, probabilities=True)
    assert predict(**again)["cases"][0]["status"] == "done"


def test_probabilities_of_another_image_are_kept_too(model, scans, tmp_path):
    predict(model, scans[0], tmp_path / "out", probabilities=True)
    again = {"model": model, "inputs": scans[1], "output": tmp_path / "out", "format": "nrrd"}
    refused("probabilities/scan.nii.gz: is the result of", **again, probabilities=True)
    predict(**again)
    predict(model, scans[1], tmp_path / "out", format="nrrd", overwrite=True)
    assert len(list((tmp_path / "out").glob("scan*"))) == 2


def test_the_report_keeps_the_cases_of_earlier_commands(model, tmp_path):
    for n in range(3):
        make_image(tmp_path / "in" / f"ct{n}.nii.gz", seed=n)
        report = predict(model, tmp_path / "in" / f"ct{n}.nii.gz", tmp_path / "out")
    assert [case["case"] for case in report["cases"]] == ["ct2"]
    assert sorted(case["case"] for case in report["earlier"]) == ["ct0", "ct1"]
    assert all(case["volumes_ml"] and case["model_sha256"] for case in report["earlier"])
    (tmp_path / "out" / "ct0.nii.gz").unlink()
    report = predict(model, tmp_path / "in" / "ct1.nii.gz", tmp_path / "out")
    assert [case["case"] for case in report["earlier"]] == ["ct2"]
    assert json.loads((tmp_path / "out" / "predict_report.json").read_text()) == report


def test_one_folder_of_two_series_and_links_to_series(model, tmp_path):
    noise = np.random.default_rng(0).integers(0, 3000, (20, 18, 8)).astype(np.uint16)
    for name, part in (("x", noise), ("y", noise[::-1])):
        write_series(tmp_path / "p" / name, part, spacing=(1.2, 0.9, 2.5))
    first, second = (read_all(tmp_path / "p" / name)[0].SeriesInstanceUID for name in "xy")
    predict(model, tmp_path / "p", tmp_path / "out", series=first)
    again = {"model": model, "inputs": tmp_path / "p", "output": tmp_path / "out"}
    refused(f"series {first} and not of", f"series {second}", **again, series=second, overwrite=True)
    (tmp_path / "links").mkdir()
    for case in "xy":
        (tmp_path / f"of_{case}").mkdir()
        (tmp_path / "p" / case).rename(tmp_path / f"of_{case}" / "scan")
        (tmp_path / "links" / case).symlink_to(tmp_path / f"of_{case}" / "scan")
    items = collect(tmp_path / "links", tmp_path / "out", channels=1)
    assert [item.name for item in items] == ["x", "y"]


def test_names_that_a_disk_takes_for_one(model, tmp_path, monkeypatch):
    for n, name in enumerate(("Scan", "scan")):
        make_image(tmp_path / "in" / f"{name}.nii.gz", seed=n)
    assert not atomic.folds_case(tmp_path / "out" / "in it")
    assert len(predict(model, tmp_path / "in", tmp_path / "out")["cases"]) == 2
    monkeypatch.setattr("medseg.workflows.predict.collect_cases.folds_case", lambda folder: True)
    with pytest.raises(ConfigError, match=r"Scan\.nii\.gz and .*scan\.nii\.gz would both have the result .*; rename"):
        predict(model, tmp_path / "in", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_disk_that_folds_case_is_known_by_its_folders(tmp_path):
    (tmp_path / "Disk" / "12").mkdir(parents=True)
    assert not atomic.folds_case(tmp_path / "Disk" / "12" / "new" / "er")
    (tmp_path / "dISK").symlink_to(tmp_path / "Disk")  # what such a disk would answer
    assert atomic.folds_case(tmp_path / "Disk" / "12" / "new" / "er")
    assert atomic.same_name("E\u0301tude") == atomic.same_name("\u00e9TUDE")


def test_two_commands_at_the_same_time_and_one_name(tmp_path):
    target = tmp_path / "scan.nii.gz"
    mine, theirs = ("medseg 0 " + image_record(letter * 64) for letter in "ab")
    labels = np.zeros((3, 3, 3), np.uint8)
    files = ResultFiles([target], mine)  # looked, and nothing was there
    write_labels(target, labels, np.eye(4), description=theirs)
    before = target.read_bytes()
    late = pytest.raises(DataError, match=r"scan\.nii\.gz: was written meanwhile by another command, of another image")
    with late, files.replacing(target) as new:
        write_labels(new, labels, np.eye(4), description=mine)
    assert target.read_bytes() == before
    write_labels(target, labels, np.eye(4), description=mine)  # of the same image, by another shard
    with files.replacing(target) as new:
        write_labels(new, labels + np.uint8(1), np.eye(4), description=mine + " other")
    assert labels_of(target).all()
    assert recorded(target) == mine + " other"
    again = ResultFiles([target], theirs)  # the image changed
    with again.replacing(target) as new:
        write_labels(new, labels, np.eye(4), description=theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_another_images_result_that_comes_before_the_network_runs(model, scans, tmp_path, monkeypatch):
    mine, theirs = scans
    predict(model, theirs, tmp_path / "other")
    target = tmp_path / "out/scan.nii.gz"
    ask = EarlierResults.refuse

    def and_then_the_other_command_ends(self, item, **options) -> None:
        ask(self, item, **options)
        shutil.copy(tmp_path / "other/scan.nii.gz", target)

    monkeypatch.setattr(EarlierResults, "refuse", and_then_the_other_command_ends)
    monkeypatch.setattr(EarlierResults, "refuse_all", lambda *_, **__: None)
    report = predict(model, mine, tmp_path / "out")
    assert "was written meanwhile by another command, of another image" in report["failed"][0]["error"]
    assert target.read_bytes() == (tmp_path / "other/scan.nii.gz").read_bytes()


def test_a_disk_without_second_names_for_files(tmp_path, monkeypatch):
    def no_links(*paths) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    labels = np.zeros((3, 3, 3), np.uint8)
    mine, theirs = ("medseg 0 " + image_record(letter * 64) for letter in "ab")
    for record in (mine, theirs):
        files = ResultFiles([], record)
        if record == mine:
            with files.replacing(tmp_path / "x.nii.gz") as new:
                write_labels(new, labels, np.eye(4), description=record)
            continue
        with pytest.raises(DataError, match="written meanwhile"), files.replacing(tmp_path / "x.nii.gz") as new:
            write_labels(new, labels, np.eye(4), description=record)
    assert image_of(recorded(tmp_path / "x.nii.gz")) == "a" * 24


@pytest.mark.slow
def test_processes_that_predict_images_of_one_name_together(model, scans, tmp_path):
    command = [python(), "-m", "medseg", "predict", "-m", model, "-o", tmp_path / "out", "-i"]
    started = [subprocess.Popen([*command, scan], stderr=subprocess.PIPE, text=True) for scan in scans]
    said = [process.communicate(timeout=200)[1] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(code == 0 for code in codes) == [False, True], said
    winner = scans[codes.index(0)]
    predict(model, winner, tmp_path / "alone")
    np.testing.assert_array_equal(labels_of(tmp_path / "out/scan.nii.gz"), labels_of(tmp_path / "alone/scan.nii.gz"))
    assert "scan.nii.gz: " in said[1 - codes.index(0)]


def test_what_a_killed_process_left_beside_its_results_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    from medseg.portable.io import write as writing

    left = tmp_path / f".medseg-{writing._here()}-{dead.pid}-0123456789ab.tmp"
    left.mkdir()
    (left / "scan.nii.gz").touch()
    remove_leftovers(tmp_path)
    assert not left.exists()


@pytest.mark.slow
def test_the_stock_bundle_does_not_replace_another_images_result(model, scans, tmp_path):
    run_it = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", "."]
    out = tmp_path / "out"

    def stock(folder: Path) -> subprocess.CompletedProcess:
        return ask_elsewhere(model / "bundle", *run_it, "--dataset_dir", str(folder), "--output_dir", str(out))

    assert stock(scans[0].parent).returncode == 0
    before = (out / "scan.nii.gz").read_bytes()
    said = stock(scans[1].parent)
    assert said.returncode != 0
    assert (
        f"{out / 'scan.nii.gz'}: is there already and was made of another image; choose another output" in said.stderr
    )
    assert (out / "scan.nii.gz").read_bytes() == before
    refused("is the result of another image than", model=model, inputs=scans[1], output=out)
    assert predict(model, scans[0], out)["cases"][0]["status"] == "done"
    assert stock(scans[0].parent).returncode == 0


def test_the_last_transform_of_a_bundle_knows_whose_result_is_there(scans, tmp_path):
    def write(image: Path, **more) -> None:
        meta = {"filename_or_obj": str(image)}
        SaveLabeld("pred", str(tmp_path / "out"))({"pred": MetaTensor(np.ones((1, 4, 4, 4)), meta=meta), **more})

    write(scans[0])
    with pytest.raises(SaveError, match="was made of another image; choose another output_dir, or remove it"):
        write(scans[1])
    both = json.dumps([str(path) for path in scans])
    write(scans[0], case="both", files=both)
    with pytest.raises(SaveError, match=r"both\.nii\.gz: is there already and was made of another"):
        write(scans[0], case="both")
    write(scans[0], case="both", files=both)
    save(tmp_path / "out" / "drawn.nii.gz", ball())
    with pytest.raises(SaveError, match="does not say of which image it was made"):
        write(scans[0], case="drawn")


# ---- consensus


def test_another_study_is_refused_and_the_same_one_may_change(tmp_path, capfd):
    image, drawn = write_study(tmp_path / "a", seed=1)
    other, others = write_study(tmp_path / "b", seed=2)
    out = ["-o", tmp_path / "out", *VOTE]
    assert run(*files_of(image, drawn), *out) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for more in ([], ["--overwrite"]):
        line = mistake(capfd, *files_of(other, others), *out, *more)
        assert f"{tmp_path / 'out'}: holds the consensus of {image} and not of {other}; choose another --output" in line
    line = mistake(capfd, *files_of(other, others)[2:], *out)  # no image, and no file in common
    assert "holds the consensus of" in line
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert run(*files_of(image, drawn[:2]), *out) == 0  # a rater less
    moved = shutil.copy(image, tmp_path / "moved.nii.gz")
    assert run(*files_of(moved, others), *out) == 0  # the same voxels elsewhere
    assert run(*files_of(moved, others)[2:], *out) == 0  # by its raters


def test_files_that_no_record_tells_of_are_not_removed(tmp_path, capfd):
    image, drawn = write_study(tmp_path / "a")
    mine = save(tmp_path / "out" / "consensus.nii.gz", ball())
    before = mine.read_bytes()
    line = mistake(capfd, *files_of(image, drawn), "-o", tmp_path / "out", *VOTE, "--overwrite")
    assert f"{mine}: is there already, and no record says of which study; choose another --output, or remove it" in line
    assert mine.read_bytes() == before


def test_data_sets_of_the_same_names_are_kept_apart(tmp_path, capfd):
    one, other = (write_manifest(tmp_path / name, cases=2) for name in "ab")
    for n in range(2):  # other voxels, or it would be the same study on another disk
        save(tmp_path / "b" / f"c{n}" / "image.nii.gz", (ball() * 90 + n + 1).astype(np.int16))
    out = ["-o", tmp_path / "out", *VOTE, "--jobs", "1"]
    assert run("--data", one, *out) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    line = mistake(capfd, "--data", other, *out, "--overwrite")
    assert (
        f"holds the consensus of {tmp_path / 'a/c0/image.nii.gz'} and not of {tmp_path / 'b/c0/image.nii.gz'}" in line
    )
    content = json.loads(other.read_text())
    for n, case in enumerate(content["training"]):
        case["case"] = f"other{n}"
    other.write_text(json.dumps(content))
    line = mistake(capfd, "--data", other, *out)
    assert f"{tmp_path / 'out/manifest.json'}: is there already and lists no image of {other}" in line
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert run("--data", one, *out) == 0


def test_studies_of_one_name_for_a_disk(tmp_path, capfd, monkeypatch):
    for name in ("S", "s"):
        save(tmp_path / "images" / f"{name}.nii.gz", ball())
        save(tmp_path / "x" / f"{name}.nii.gz", ball())
    monkeypatch.setattr("medseg.workflows.consensus.earlier_results.folds_case", lambda folder: True)
    line = mistake(capfd, "-i", tmp_path / "images", "-a", tmp_path / "x", "-o", tmp_path / "out", *VOTE)
    assert "S.nii.gz and" in line
    assert "s.nii.gz would both have their results in" in line
    assert not (tmp_path / "out").exists()


# ---- evaluate, data init, plan


def test_tables_of_other_predictions_and_references_are_kept(tmp_path):
    for name in ("one", "two", "labels", "others"):
        save(tmp_path / name / "x.nii.gz", ball())
    out = tmp_path / "out"
    evaluate(tmp_path / "one", tmp_path / "labels", out, pictures=False)
    before = (out / "metrics.json").read_bytes()
    for prediction, reference, said in (
        ("two", "labels", f"prediction {tmp_path / 'one'} and not of {tmp_path / 'two'}"),
        ("one", "others", f"reference {tmp_path / 'labels'} and not of {tmp_path / 'others'}"),
    ):
        with pytest.raises(ConfigError, match="holds the evaluation of") as caught:
            evaluate(tmp_path / prediction, tmp_path / reference, out, pictures=False)
        assert said in str(caught.value)
    assert (out / "metrics.json").read_bytes() == before
    evaluate(tmp_path / "one", tmp_path / "labels", out, pictures=False)
    evaluate(tmp_path / "one", tmp_path / "labels", pictures=False)
    (tmp_path / "one").rename(tmp_path / "renamed")
    evaluate(tmp_path / "renamed", tmp_path / "labels", pictures=False)  # its folder moved with it
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"metrics\.csv: is there already and does not say what was evaluated"):
        evaluate(tmp_path / "two", tmp_path / "labels", tmp_path / "mine", pictures=False)


def test_a_manifest_of_other_images_is_kept(tmp_path):
    for name in "ab":
        write_dataset(tmp_path / name)
    path = tmp_path / "m.json"
    init_manifest(tmp_path / "a" / "m.json", path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"m\.json: is the manifest of images in .*/a and not of .*/b/m\.json; name"):
        init_manifest(tmp_path / "b" / "m.json", path)
    assert path.read_bytes() == before
    assert init_manifest(tmp_path / "a" / "m.json", path, name="renamed").name == "renamed"
    for content in ("{}", "not even JSON"):
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"m\.json: is there already and is no manifest; name another --output"):
            init_manifest(tmp_path / "a" / "m.json", path)
        assert path.read_text() == content


def test_a_plan_for_other_data_is_kept(tmp_path):
    one, other = (write_dataset(tmp_path / name) for name in "ab")
    plan = tmp_path / "plan.yaml"
    write_plan("supervised", one, plan)
    assert plan.read_text().splitlines()[0] == f'# planned for "{one}"'
    before = plan.read_bytes()
    with pytest.raises(ConfigError, match=r"plan\.yaml: is there already and is no plan for .*/b/m\.json; choose"):
        write_plan("supervised", other, plan)
    assert plan.read_bytes() == before
    write_plan(str(plan), one, plan, overrides=["seed=4"])
    assert "seed: 4" in plan.read_text()
    with pytest.raises(ConfigError, match=r"m\.json: is there already and is no plan"):
        write_plan("supervised", one, other)
