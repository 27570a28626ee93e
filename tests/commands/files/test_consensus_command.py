"""`medseg consensus` from files to files: results, batches, mistakes, interruptions."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from forking import python
from raters import ball, fields_of, image_of, save, seg_nrrd, write_study

from medseg.cli import app
from medseg.consensus.fuse import FUSERS
from medseg.consensus.io.annotations.segment_table import read_segments
from medseg.manifest.manifest import Manifest

ROOT = Path(__file__).resolve().parents[3]
PLAIN = ("--no-report",)
VOTE = ("--method", "majority", *PLAIN)
ALONE = ("--jobs", "1")


def run(*arguments) -> int:
    """The command in this process."""
    with pytest.raises(SystemExit) as done:
        app.main(["consensus", *map(str, arguments)])
    return int(done.value.code or 0)


def mistake(capfd, *arguments) -> str:
    """The one line of an error."""
    capfd.readouterr()
    assert run(*arguments) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def files_of(image, drawn) -> list:
    return ["--image", image, *(word for path in drawn for word in ("--annotation", path))]


def array(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.startswith(".")]


def statuses(folder: Path) -> list[str]:
    return [case["status"] for case in json.loads((folder / "consensus_report.json").read_text())["cases"]]


def test_one_study_with_everything(tmp_path, capfd):
    image, drawn = write_study(tmp_path, value=3)
    truth = save(tmp_path / "truth.nii.gz", ball() * 3)
    out = tmp_path / "out"
    arguments = [*files_of(image, drawn), "-o", out, *PLAIN, "--label", "3=liver", "--export-soft", "uint8"]
    assert run(*arguments, "--compare", "--reference", truth, "--seed", 1) == 0
    assert {p.name for p in out.iterdir()} == {
        "consensus.nii.gz", "confidence.nii.gz", "rater_count.nii.gz", "disagreement.nii.gz", "soft.nii.gz",
        "raters.csv", "pairwise.csv", "comparison.csv", "report.json", "record.json",
    }  # fmt: skip
    found = array(out / "consensus.nii.gz")
    assert set(np.unique(found)) == {0, 3}
    assert nib.load(out / "consensus.nii.gz").get_data_dtype() == np.uint8
    np.testing.assert_allclose(nib.load(out / "consensus.nii.gz").affine, nib.load(image).affine)
    assert (array(out / "rater_count.nii.gz")[:, :10] == 2).all()
    assert array(out / "confidence.nii.gz").max() == 1
    report = json.loads((out / "report.json").read_text())
    assert report["classes"] == ["background", "liver"]
    assert report["label_values"] == [0, 3]
    assert [e["name"] for e in report["raters"]] == ["anna", "bob", "cleo"]
    assert sum(e["weight"] for e in report["raters"]) == pytest.approx(1)
    assert {"energy", "nodes", "edges", "lambda", "beta", "rho", "seconds", "versions"} <= set(report)
    assert report["volumes_ml"]["liver"] == pytest.approx((found == 3).sum() * 2 / 1000)
    assert report["settings"]["seed"] == 1
    rows = table(out / "raters.csv")
    assert {row["rater"] for row in rows} == {"anna", "bob", "cleo"}
    assert all(row["weight"] and row["self_consistency"] for row in rows)
    pairs = table(out / "pairwise.csv")
    assert {(p["rater"], p["other"]) for p in pairs} == {("anna", "bob"), ("anna", "cleo"), ("bob", "cleo")}
    methods = {row["method"]: row for row in table(out / "comparison.csv") if row["class"] == "mean"}
    assert {"gcssl", "majority", "staple", "simple"} <= set(methods)
    assert float(methods["gcssl"]["dice_to_reference"]) > 0.9
    assert not leftovers(tmp_path)


def test_what_is_done_is_skipped_until_a_file_or_an_option_changes(tmp_path, capfd):
    image, drawn = write_study(tmp_path)
    out = tmp_path / "out"

    def said(*more) -> str:
        capfd.readouterr()
        assert run(*files_of(image, drawn), "-o", out, *VOTE, *more) == 0
        return capfd.readouterr().err

    assert "is done" in said()
    first = (out / "consensus.nii.gz").read_bytes()
    assert "is there already" in said()
    assert "is done" in said("--overwrite")
    assert (out / "consensus.nii.gz").read_bytes() == first
    assert "is done" in said("--tie", "lowest")
    (out / "confidence.nii.gz").write_bytes(b"")
    assert "is done" in said("--tie", "lowest")
    save(drawn[0], ball(radius=6))
    assert "is done" in said("--tie", "lowest")
    assert "is there already" in said("--tie", "lowest")


def test_the_same_seed_gives_the_same_files(tmp_path):
    image, drawn = write_study(tmp_path)
    for name in "ab":
        assert run(*files_of(image, drawn), "-o", tmp_path / name, *PLAIN) == 0
    for name in ("consensus.nii.gz", "confidence.nii.gz", "disagreement.nii.gz", "raters.csv", "pairwise.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_segmentations_come_back_as_segmentations(tmp_path):
    image = save(tmp_path / "ct.nrrd", image_of(ball()))
    drawn = [
        seg_nrrd(tmp_path / f"{n}.seg.nrrd", ball(radius=r)[None] * 2, fields_of(("liver", 2, 0, "0.5 0 0.25")))
        for n, r in (("anna", 5), ("bob", 5.6))
    ]
    assert run(*files_of(image, drawn), "-o", tmp_path / "out", *PLAIN) == 0
    (segment,) = read_segments(tmp_path / "out" / "consensus.seg.nrrd")
    assert (segment.name, segment.value) == ("liver", 2)
    assert segment.color == pytest.approx((0.5, 0, 0.25))
    assert (tmp_path / "out" / "confidence.nrrd").is_file()


def test_a_picture_comes_back_as_a_picture(tmp_path):
    rng = np.random.default_rng(0)
    truth = ball((40, 30, 1), radius=9)[..., 0]
    image = save(tmp_path / "eye.png", (rng.integers(0, 60, (40, 30, 3)) + truth[..., None] * 120).astype(np.uint8))
    drawn = [save(tmp_path / f"{n}.png", truth * 255) for n in ("anna", "bob")]
    assert run(*files_of(image, drawn), "-o", tmp_path / "out", *PLAIN, "--missing-value", "none") == 0
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".png", ".json", ".csv"}


def test_without_an_image_only_voting_works(tmp_path, capfd):
    _, drawn = write_study(tmp_path)
    annotations = files_of("", drawn)[2:]
    assert "there is none" in mistake(capfd, *annotations, "-o", tmp_path / "out", *PLAIN)
    assert not (tmp_path / "out").exists()
    assert run(*annotations, "-o", tmp_path / "out", *VOTE) == 0


def test_one_rater_and_empty_raters_are_no_mistake(tmp_path, capfd):
    image, drawn = write_study(tmp_path)
    assert run(*files_of(image, drawn[:1]), "-o", tmp_path / "one", *PLAIN) == 0
    assert "no consensus possible" in capfd.readouterr().err
    np.testing.assert_array_equal(array(tmp_path / "one" / "consensus.nii.gz"), ball())
    empty = [save(tmp_path / f"{n}.nii.gz", np.zeros((24, 20, 12), np.uint8)) for n in "xy"]
    for method in ("gcssl", "majority", "staple"):
        assert run(*files_of(image, empty), "-o", tmp_path / method, "--method", method) == 0
        assert "warning" in capfd.readouterr().err
        assert not array(tmp_path / method / "consensus.nii.gz").any()
        assert (tmp_path / method / "report.html").is_file()


def test_a_former_name_of_a_method_works_with_one_warning(tmp_path, capfd):
    image, drawn = write_study(tmp_path)
    warning = "warning: method staple-fast is now called staple; use that name"
    for name in ("staple-fast", "staple"):
        assert run(*files_of(image, drawn), "-o", tmp_path / name, "--method", name, "--compare", *PLAIN) == 0
        assert capfd.readouterr().err.splitlines().count(warning) == (name == "staple-fast")
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert [row["method"] for row in report["comparison"]][:2] == ["staple", "gcssl"]
        assert len(report["comparison"]) == len(FUSERS)
    made = [(tmp_path / name / "consensus.nii.gz").read_bytes() for name in ("staple-fast", "staple")]
    assert made[0] == made[1]
    many = write_manifest(tmp_path, cases=2)
    assert run("--data", many, "-o", tmp_path / "many", "--method", "staple-fast", *PLAIN, *ALONE) == 0
    assert capfd.readouterr().err.splitlines().count(warning) == 1


@pytest.mark.parametrize("method", ["gcssl", "majority"])
def test_who_saw_nothing_and_who_looked_at_nothing_is_told(method, tmp_path, capfd):
    image, drawn = write_study(tmp_path)
    nothing = save(tmp_path / "nothing.nii.gz", np.zeros((24, 20, 12), np.uint8))
    blank = save(tmp_path / "blank.nii.gz", np.full((24, 20, 12), 255, np.uint8))
    assert run(*files_of(image, [*drawn, nothing, blank]), "-o", tmp_path / "out", "--method", method, *PLAIN) == 0
    said = capfd.readouterr().err
    assert "nothing labelled nothing" in said
    assert "blank annotated no voxel" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "out"], "give either --annotation"),
        (["-a", "anna.nii.gz", "--data", "m.json", "-o", "out"], "give either --annotation"),
        (["-a", "absent.nii.gz", "-o", "out"], "absent.nii.gz: no such file"),
        (["-a", "anna.nii.gz", "-o", "out", "--method", "magic"], "no method magic"),
        (["-a", "absent.nii.gz", "-o", "out", "--method", "voting-itk"], "voting-itk has been removed; use majority"),
        (["-a", "anna.nii.gz", "-o", "out", "--method", "majority", "--smoothness", "1"], "no option smoothness"),
        (["-a", "anna.nii.gz", "-o", "out", "--missing-value", "x"], "--missing-value x"),
        (["-a", "anna.nii.gz", "-o", "out", "--missing-value", "0"], "cannot also mean"),
        (["-a", "anna.nii.gz", "-o", "out", "--label", "255=x"], "cannot also mean"),
        (["-a", "anna.nii.gz", "-o", "out", "--label", "x=1"], "--label x"),
        (["-a", "anna.nii.gz", "-o", "out", "--region", "anna"], "--region anna"),
        (["-a", "anna.nii.gz", "-o", "out", "--partial-protocol", "anna"], "--partial-protocol anna"),
        (["-a", "anna.nii.gz", "-o", "out", "--channel", "x"], "--channel x"),
        (["-a", "anna.nii.gz", "-o", "out", "--resample", "cubic"], "--resample cubic"),
        (["-a", "anna.nii.gz", "-o", "out", "--nan", "mean"], "--nan mean"),
        (["-a", "anna.nii.gz", "-o", "out", "--set", "alpha"], "--set alpha"),
        (["-a", "anna.nii.gz", "-o", "out", "--export-soft", "int8"], "--export-soft int8"),
        (["-a", "anna.nii.gz", "-o", "out", "--tolerance-mm", "0"], "--tolerance-mm 0"),
        (["-a", "anna.nii.gz", "-o", "out", "--jobs", "0"], "--jobs 0"),
        (["-a", "anna.nii.gz", "-o", "out", "--num-shards", "2", "--shard", "2"], "--shard 2"),
        (["-a", "anna.nii.gz", "-o", "out", "--section", "test"], "--section test belongs to --data"),
        (["-a", "anna.nii.gz", "-o", "out", "--tag", "x"], "--tag belongs to --studies"),
        (["-a", "anna.nii.gz", "-o", "out", "--write-back"], "--write-back belongs to --studies"),
        (["--data", "m.json", "-o", "out", "--name", "x"], "--name belongs to --annotation"),
        (["--studies", ".", "-o", "out"], "no folder 'labels'"),
        (["-a", "anna.nii.gz", "-a", "small.nii.gz", "-o", "out", "--method", "majority"], "has 3x3x3 voxels"),
        (["-a", "anna.nii.gz", "-o", "anna.nii.gz", "--method", "majority"], "anna.nii.gz"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path)
    save(tmp_path / "small.nii.gz", ball((3, 3, 3)))
    line = mistake(capfd, *arguments, "--no-report")
    assert line.startswith("error: ")
    assert words in line


def test_a_real_process_ends_with_one_line_and_2(tmp_path):
    write_study(tmp_path)
    save(tmp_path / "wide.nii.gz", ball(), np.diag([-1, -1, 3.0, 1]))
    command = [python(), "-m", "medseg", "consensus", "-i", "image.nii.gz", "-a", "wide.nii.gz", "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "wide.nii.gz: has a spacing of 1x1x3 mm, image.nii.gz one of 1x1x2 mm" in done.stderr
    assert not (tmp_path / "out").exists()


def test_without_pymaxflow_a_real_process_cuts_by_scipy(tmp_path):
    """With `import maxflow` failing, as where it is not installed."""
    image, drawn = write_study(tmp_path)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "maxflow.py").write_text("raise ImportError('not installed')")
    assert run(*files_of(image, drawn), "-o", tmp_path / "with", *PLAIN) == 0
    command = [sys.executable, "-m", "medseg", "consensus", *files_of(image, drawn), "-o", tmp_path / "without", *PLAIN]
    environment = os.environ | {"PYTHONPATH": f"{blocked}{os.pathsep}{ROOT}"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "warning: PyMaxflow is not installed: cut by SciPy" in done.stderr
    first, second = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("with", "without"))
    assert (first["solver"], second["solver"]) == ("PyMaxflow", "scipy")
    assert second["energy"] == pytest.approx(first["energy"], rel=1e-3)
    np.testing.assert_array_equal(
        array(tmp_path / "with" / "consensus.nii.gz"), array(tmp_path / "without" / "consensus.nii.gz")
    )


# ---- many studies


def write_manifest(folder: Path, cases: int = 3, **more) -> Path:
    training = []
    for n in range(cases):
        image, drawn = write_study(folder / f"c{n}", seed=n)
        training.append(
            {
                "image": f"c{n}/{image.name}",
                "case": f"case{n}",
                "annotations": [{"rater": p.name.split(".")[0], "label": f"c{n}/{p.name}"} for p in drawn],
            }
        )
    content = {"labels": {"0": "background", "1": "liver"}, "modality": {"0": "CT"}, "training": training, **more}
    path = folder / "m.json"
    path.write_text(json.dumps(content))
    return path


def test_a_manifest_in_shards_and_its_consensus_as_labels(tmp_path):
    manifest = write_manifest(tmp_path, test=["c0/image.nii.gz"])
    out = tmp_path / "out"
    assert run("--data", manifest, "-o", out, *VOTE, "--num-shards", 2, "--shard", 1) == 0
    made = Manifest.load(out / "manifest.json")
    assert [made.label(case) is not None for case in made.training] == [False, True, False]
    assert run("--data", manifest, "-o", out, *VOTE, "--num-shards", 2, "--shard", 0, *ALONE) == 0
    made = Manifest.load(out / "manifest.json")
    for case in made.training:
        assert array(made.label(case)).shape == (24, 20, 12)
        assert made.images(case)[0].is_file()
        assert made.resolve(case.annotations[0].label).is_file()
    assert made.test[0].label is None
    assert (out / "consensus_report_0_of_2.json").is_file()
    assert run("--data", manifest, "-o", out, *VOTE, *ALONE, "--section", "training") == 0
    assert statuses(out) == ["skipped"] * 3


def test_studies_that_fail_are_listed_and_the_others_are_done(tmp_path, capfd):
    manifest = write_manifest(tmp_path)
    save(tmp_path / "c1" / "bob.nii.gz", ball((5, 5, 5)))
    out = tmp_path / "out"
    assert run("--data", manifest, "-o", out, *VOTE, "--jobs", 2) == 1
    assert statuses(out) == ["done", "failed", "done"]
    assert "failed: " in (said := capfd.readouterr().err)
    assert "has 5x5x5 voxels" in said
    made = Manifest.load(out / "manifest.json")
    assert [case.label is not None for case in made.training] == [True, False, True]
    assert "has 5x5x5" in mistake(capfd, "--data", manifest, "-o", out, *VOTE, *ALONE, "--strict")


def test_what_a_rater_did_not_look_for_and_unknown_values(tmp_path):
    manifest = write_manifest(tmp_path, cases=2)
    content = json.loads(manifest.read_text())
    content["labels"]["2"] = "tumour"
    content["training"][0]["annotations"][1]["classes"] = ["liver"]
    manifest.write_text(json.dumps(content))
    save(tmp_path / "c0" / "anna.nii.gz", np.where(ball(shift=(6, 0, 0), radius=3), 2, ball()).astype(np.uint8))
    save(tmp_path / "c1" / "anna.nii.gz", ball() * 9)
    out = tmp_path / "out"
    assert run("--data", manifest, "-o", out, *VOTE, *ALONE) == 1
    report = json.loads((out / "case0" / "report.json").read_text())
    assert any("bob: did not look for tumour" in warning for warning in report["warnings"])
    assert "holds 9, which is no label" in json.loads((out / "consensus_report.json").read_text())["failed"][0]["error"]


def test_manifests_without_annotations_and_results_among_the_inputs(tmp_path, capfd):
    manifest = write_manifest(tmp_path)
    assert "would overwrite" in mistake(capfd, "--data", manifest.rename(tmp_path / "manifest.json"), "-o", tmp_path)
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({"labels": {"0": "b", "1": "l"}, "test": ["c0/image.nii.gz"]}))
    assert "no case with annotations" in mistake(capfd, "--data", bare, "-o", tmp_path / "out")
    twice = json.loads((tmp_path / "manifest.json").read_text())
    twice["training"][0]["annotations"][1]["rater"] = "anna"
    bare.write_text(json.dumps(twice))
    assert "two annotations of the rater 'anna'" in mistake(capfd, "--data", bare, "-o", tmp_path / "out")
    alone = ["--data", tmp_path / "manifest.json", "-o", tmp_path / "out", "--region", "a=b.nii.gz"]
    assert "belong to a single study" in mistake(capfd, *alone)


def test_folders_of_raters(tmp_path, capfd):
    for n in range(2):
        image, drawn = write_study(tmp_path / "raw", seed=n)
        save(tmp_path / "images" / f"s{n}_0000.nii.gz", array(image))
        for path in drawn[: 2 + n]:
            save(tmp_path / path.name.split(".")[0] / f"s{n}.nii.gz", array(path))
    folders = [word for name in ("anna", "bob", "cleo") for word in ("-a", tmp_path / name)]
    assert run("-i", tmp_path / "images", *folders, "-o", tmp_path / "out", *VOTE, *ALONE) == 0
    names = [json.loads((tmp_path / "out" / f"s{n}" / "report.json").read_text())["raters"] for n in range(2)]
    assert [[e["name"] for e in found] for found in names] == [["anna", "bob"], ["anna", "bob", "cleo"]]
    assert "one folder per rater" in mistake(capfd, "-i", tmp_path / "images", "-a", image, "-o", tmp_path / "out")
    (tmp_path / "nobody").mkdir()
    nobody = ["-i", tmp_path / "images", "-a", tmp_path / "nobody", "-o", tmp_path / "out"]
    assert "has no image of which" in mistake(capfd, *nobody)


def test_a_monai_label_studies_folder(tmp_path, capfd):
    studies = tmp_path / "studies"
    for n in range(2):
        image, drawn = write_study(tmp_path / "raw", seed=n)
        save(studies / f"s{n}.nii.gz", array(image))
        for path in drawn[:2]:
            save(studies / "labels" / path.name.split(".")[0] / f"s{n}.nii.gz", array(path))
    save(studies / "labels" / "original" / "s0.nii.gz", ball(radius=2))
    save(studies / "labels" / "final" / "s1.nii.gz", ball(radius=2))
    out = tmp_path / "out"
    assert run("--studies", studies, "-o", out, *VOTE, *ALONE) == 0
    found = json.loads((out / "s0" / "report.json").read_text())
    assert [e["name"] for e in found["raters"]] == ["anna", "bob"]
    assert not (studies / "labels" / "final" / "s0.nii.gz").exists()
    assert "another one" in mistake(capfd, "--studies", studies, "-o", out, *VOTE, "--write-back", *ALONE)
    assert run("--studies", studies, "-o", out, *VOTE, *ALONE, "--write-back", "--overwrite") == 0
    for n in range(2):
        accepted = studies / "labels" / "final" / f"s{n}.nii.gz"
        assert accepted.read_bytes() == (out / f"s{n}" / "consensus.nii.gz").read_bytes()
    assert "has no tag carl" in mistake(capfd, "--studies", studies, "-o", out, "--tag", "carl")
    assert run("--studies", studies, "-o", tmp_path / "two", *VOTE, *ALONE, "--tag", "anna", "--tag", "original") == 0
    found = json.loads((tmp_path / "two" / "s0" / "report.json").read_text())
    assert [e["name"] for e in found["raters"]] == ["anna", "original"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_nothing_is_half_written_and_the_rerun_does_the_rest(how, tmp_path):
    manifest = write_manifest(tmp_path, cases=8)
    out = tmp_path / "out"
    code = (
        "import signal, medseg.cli.app; signal.signal(signal.SIGINT, signal.default_int_handler); medseg.cli.app.main()"
    )
    script = tmp_path / "run.py"  # a background shell starts its children with the interrupt ignored
    script.write_text(f"if __name__ == '__main__':\n    {code}\n")
    command = [sys.executable, script, "consensus", "--data", manifest, "-o", out, "--jobs", "2", *VOTE]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 100
    while len(list(out.glob("*/report.json"))) < 3 and time.monotonic() < deadline:  # two may lack their record still
        time.sleep(0.005)
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), said
    if how == signal.SIGINT:
        assert said.startswith("stopped while fusing, "), said
        assert said.count("\n") == 1, said
    while alive(process.pid) and time.monotonic() < deadline:  # workers end by themselves
        time.sleep(0.02)
    assert not alive(process.pid)
    for folder in out.glob("case*"):
        for path in folder.glob("[!.]*"):
            nib.load(path).get_fdata() if path.suffix == ".gz" else path.read_text()
    before = len(list(out.glob("*/report.json")))
    assert before >= 1
    assert run("--data", manifest, "-o", out, *VOTE, *ALONE) == 0
    assert len(list(out.glob("*/report.json"))) == 8
    assert statuses(out).count("skipped") >= 1
    assert not [p for p in leftovers(out) if p.parent.name.startswith("case")]


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_is_killed_costs_its_study_only(tmp_path, monkeypatch):
    from medseg.workflows.consensus import process_pool as batch
    from medseg.workflows.consensus.case import fuse_one_of_many
    from medseg.workflows.consensus.collect_studies import Item
    from medseg.workflows.consensus.options import ConsensusOptions

    monkeypatch.setattr(batch, "_work", doomed)
    items = [Item(name, (), (tmp_path / name,), ("x",)) for name in ("good", "bad", "fine")]
    options = ConsensusOptions(tmp_path, annotation=[tmp_path], method="majority")
    entries = {e["case"]: e for e in batch.run_all(items, partial(fuse_one_of_many, options=options), 2)}
    assert entries["good"]["status"] == entries["fine"]["status"] == "done"
    assert entries["bad"]["status"] == "failed"
    assert "fewer --jobs" in entries["bad"]["error"]


def doomed(pipe, work) -> None:
    """A worker that dies of one study."""
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        if item.name == "bad":
            os._exit(9)
        pipe.send({"case": item.name, "status": "done"})
