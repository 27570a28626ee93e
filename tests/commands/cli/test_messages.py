"""What commands say at their end: the result on standard output, the rest on standard error, and what comes next."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from rich.cells import cell_len
from tiny import FAST, write_dataset

from medseg import progress
from medseg.cli import main
from medseg.cli.app import app
from medseg.cli.next_commands import evaluate_command, judging_manifest, predict_command, start_command
from medseg.manifest.manifest import Manifest
from medseg.metrics.aggregate import mean_of_classes, summarize
from medseg.workflows.evaluate.run import evaluate
from medseg.workflows.evaluate.summary import problems, table
from medseg.workflows.predict.summary import closing
from medseg.workflows.train.run_folder import describe_validation


def called(capfd, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return (end.value.code or 0, *capfd.readouterr())


def next_of(err: str) -> list[str]:
    """Arguments of the command that is named last."""
    last = err.splitlines()[-1]
    assert last.startswith("next: medseg "), err
    return shlex.split(last.removeprefix("next: medseg "))


# ---- help


def commands(command, *names: str):
    yield names, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, *names, name)


COMMANDS = list(commands(typer.main.get_command(app)))


def test_every_command_is_asked_for_its_help():
    assert len(COMMANDS) >= 13
    assert ("data", "check") in [names for names, _ in COMMANDS]


@pytest.mark.parametrize(("names", "command"), COMMANDS, ids=[" ".join(names) or "medseg" for names, _ in COMMANDS])
def test_h_is_help_and_nothing_else(names, command, capfd):
    assert not [each for each in command.params if "-h" in (*each.opts, *each.secondary_opts)]
    short, long = called(capfd, *names, "-h"), called(capfd, *names, "--help")
    assert short == long
    assert short[0] == 0
    assert short[1].startswith(f"Usage: {' '.join(['medseg', *names])} ")
    assert "-h, --help" in short[1]


# ---- one command after the other


def test_each_command_names_the_next_and_it_runs(tmp_path, capfd):
    """From a folder of files to figures, by what each command says at its end and nothing else."""
    write_dataset(tmp_path / "raw", labeled=3, unlabeled=1, validation=0, test=1)
    scans = tmp_path / "my scans"
    for path in sorted((tmp_path / "raw").glob("*.nii.gz")):
        kind = "labels" if "_label" in path.name else "imagesTr"
        (scans / kind).mkdir(parents=True, exist_ok=True)
        shutil.move(path, scans / kind / path.name.replace("_label", ""))
    (scans / "labels").rename(scans / "labelsTr")
    manifest, plan = scans / "manifest.json", tmp_path / "plan.yaml"
    code, out, err = called(capfd, "data", "init", scans, "-o", manifest, "--modality", "MR", "--validation", "0.3")
    assert (code, out) == (0, f"{manifest}\n")
    assert "3 training, 1 validation, 0 test, 1 unlabeled" in err
    code, out, err = called(capfd, *next_of(err))
    assert code == 0
    assert "0 errors" in out
    fast = [word for change in (*FAST, "stages.0.schedule.workers=0") for word in ("--set", change)]
    code, out, err = called(capfd, "plan", "--task", "supervised", "--data", manifest, "-o", plan, *fast)
    assert (code, out) == (0, f"{plan}\n")
    run = tmp_path / "run"
    code, out, err = called(capfd, *next_of(err), "-o", run)
    assert (code, out) == (0, f"{run / 'bundle'}\n")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max((record for record in records if record["kind"] == "validation"), key=lambda record: record["dice"])
    assert f"validation Dice {best['dice']:.3f} at iteration {best['iteration']} of 6 (" in err
    code, out, err = called(capfd, *next_of(err))
    assert (code, out) == (0, f"{run / 'predictions'}\n")
    assert f"1 predicted, 0 already there, 0 failed: {run / 'predictions'}" in err
    code, out, err = called(capfd, *next_of(err), "--no-pictures")
    assert code == 0, err
    assert out.splitlines()[-1] == str(run / "predictions" / "evaluation")
    assert "1 of 1 cases of section validation compared." in out


def test_next_commands_fit_the_data(tmp_path):
    both = write_dataset(tmp_path / "both")
    assert predict_command(Path("r"), both).split()[3:] == f"r --input {both} --output r/predictions".split()
    assert evaluate_command(both, Path("out"), None) == f"medseg evaluate --prediction out --reference {both}"
    assert evaluate_command(both, Path("out"), "training").endswith("--section training")
    assert evaluate_command(both, Path("out"), "unlabeled") is None
    assert evaluate_command(tmp_path / "both", Path("out"), None) is None
    held_out = write_dataset(tmp_path / "held out", test=0)
    assert f"--input '{held_out}' --section validation" in predict_command(Path("r"), held_out)
    assert "--input IMAGES --output" in predict_command(
        Path("r"), held_out, held_out=False
    )  # every fold but one saw it
    neither = write_dataset(tmp_path / "neither", test=0, validation=0)
    assert "--input IMAGES --output" in predict_command(Path("r"), neither)


def test_a_start_from_an_encoder_keeps_what_was_set_of_the_background():
    given = ("data.has_background=false", "stages.0.network.width=4")
    started = "medseg train --task supervised --data m.json --init-from r/encoder"
    assert start_command(Path("r/encoder"), Path("m.json"), given) == f"{started} --set data.has_background=false"
    assert start_command(Path("r/encoder"), Path("m.json")) == started


def test_a_run_without_a_background_is_judged_by_its_own_manifest(tmp_path):
    """Else `medseg evaluate`, which goes by the manifest alone, would say nothing of the first class."""
    data, run = write_dataset(tmp_path / "data"), tmp_path / "run"
    assert judging_manifest(run, data) == data
    run.mkdir()
    own = Manifest.load(data).save(run / "manifest.json")
    assert judging_manifest(run, data) == data
    Manifest.load(data).model_copy(update={"background": None}).save(own)
    assert judging_manifest(run, data) == own
    assert judging_manifest(run, own) == own


# ---- train


def finished_run(folder: Path, records: list[dict], **stage) -> Path:
    folder.mkdir()
    schedule = {"iterations": 40}
    content = {"name": "x", "stages": [{"method": {"name": "dmpct"}, "schedule": schedule, **stage}]}
    (folder / "pipeline.yaml").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_the_validation_dice_is_that_of_the_bundles_weights(tmp_path):
    def validated(iteration, dice, **classes):
        return {"iteration": iteration, "kind": "validation", "dice": dice, "classes": classes}

    records = [
        {"iteration": 10, "kind": "train", "loss": 3.0},
        validated(10, 0.5, liver=0.7, spleen=0.3),
        validated(20, 0.75, liver=0.9, spleen=0.6),
        validated(30, 0.75, liver=0.8, spleen=0.7),
        validated(40, 0.7, liver=0.9, spleen=0.5),
    ]
    words = describe_validation(finished_run(tmp_path / "one", records))
    assert words == "validation Dice 0.750 at iteration 20 of 40 (liver 0.900, spleen 0.600)"
    organs = {f"organ{n}": n / 10 for n in range(8)}
    words = describe_validation(finished_run(tmp_path / "many", [validated(40, 0.35, **organs, absent=None)]))
    lowest = "organ0 0.000, organ1 0.100, organ2 0.200, organ3 0.300"
    assert words == f"validation Dice 0.350 at iteration 40 of 40 (8 structures; lowest: {lowest})"
    words = describe_validation(finished_run(tmp_path / "none", records[:1]))
    assert words == "no validation Dice: no validation case has a label"


def test_of_rounds_it_is_the_last_ones_fused(tmp_path):
    dice = ({"axial": 0.4, "coronal": 0.5, "fused": 0.6}, {"axial": 0.7, "coronal": 0.2, "fused": 0.55})
    records = [
        {"round": number, "kind": "validation", "dice": each, "classes": {"liver": each["fused"]}}
        for number, each in enumerate(dice)
    ]
    run = finished_run(tmp_path / "run", [*records, {"round": 2, "kind": "pseudo", "voxels": 1}], rounds=2)
    words = "validation Dice 0.550 of all views together after round 1 (liver 0.550)"
    assert describe_validation(run) == words


def test_without_validation_and_unlabelled_cases_it_is_said_at_the_start(tmp_path, capfd):
    manifest = write_dataset(tmp_path / "data", validation=0, unlabeled=0)
    sets = [word for change in (*FAST, "stages.0.schedule.iterations=2") for word in ("--set", change)]
    arguments = ["train", "--task", "dtc", "--data", manifest, "-o", tmp_path / "run", *sets, "--resume"]
    code, _, err = called(capfd, *arguments)
    assert code == 0
    first, *_, no_unlabelled, rules, page, dice, _ = err.splitlines()
    assert first == f"{tmp_path / 'run'}: there is no run to continue; a new one begins"
    assert "warning: no labelled case under 'validation': the last weights are kept" in err
    assert no_unlabelled == "warning: no unlabelled case: dtc learns from the labelled cases alone"
    assert rules.startswith("post-processing: no validation case has a label, none is chosen; medseg predict --largest")
    assert page == f"report: {tmp_path / 'run/report.html'}"
    assert dice == "no validation Dice: no validation case has a label; the bundle:"


# ---- predict


def test_predict_names_what_failed_and_what_looks_odd():
    def case(name, status="done", warnings=(), **volumes):
        entry = {"case": name, "status": status, "warnings": list(warnings)}
        return entry | ({"volumes_ml": volumes} if status == "done" else {})

    report = {
        "cases": [
            case("a", liver=3.5, tumour=0.0),
            case("b", liver=0.0, tumour=0.0),
            case("c", "skipped"),
            case("d", "failed"),
            case("e", warnings=["the header is odd"], liver=1.0),
        ],
        "failed": [{"case": "d", "error": "d.nii.gz: is cut off"}],
    }
    assert closing(report, Path("out"), "predict_report.json") == [
        "3 predicted, 1 already there, 1 failed: out",
        "failed: d",
        "nothing found in: b",
        "warnings for: e",
        "why: out/predict_report.json",
    ]
    report = {"cases": [case("a", liver=3.5)], "failed": []}
    assert closing(report, Path("out"), "x.json") == ["1 predicted, 0 already there, 0 failed: out"]


# ---- evaluate


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.uint8), np.diag([2.0, 2.0, 2.0, 1.0])), path)


@pytest.fixture
def world(tmp_path) -> Path:
    """Case a is found whole; of b half is found, Dice 2 * 32 / (64 + 32); c is missing, d is of another grid."""
    cube = np.zeros((12, 12, 12))
    cube[4:8, 4:8, 4:8] = 1
    half = cube.copy()
    half[6:] = 0
    cases = []
    for name in "abcd":
        save(tmp_path / "data" / f"{name}_label.nii.gz", cube)
        save(tmp_path / "data" / f"{name}.nii.gz", cube * 50)
        cases.append({"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz"})
    content = {"labels": {"0": "background", "1": "心臓"}, "modality": {"0": "MR"}, "test": cases}
    (tmp_path / "data" / "m.json").write_text(json.dumps(content))
    for name, values in (("a", cube), ("b", half), ("d", cube[:6]), ("x", cube)):
        save(tmp_path / "pred" / f"{name}.nii.gz", values)
    return tmp_path


def test_evaluate_prints_its_table_and_names_what_failed(world, capfd):
    arguments = ["evaluate", "-p", world / "pred", "-r", world / "data" / "m.json", "--no-pictures"]
    code, out, err = called(capfd, *arguments)
    assert code == 1
    lines = out.splitlines()
    assert lines[-1] == str(world / "pred" / "evaluation")
    row = next(line for line in lines if line.startswith("心臓")).split()
    assert row[1:5] == ["2", "0.833", "±", "0.236"]  # 1 and 2/3: mean 5/6, standard deviation 1/3 / sqrt 2
    assert row[-4:] == ["2.00", "±", "2.83", "0"]  # HD95 0 and 4 mm
    assert next(line for line in lines if line.startswith("mean of 1")).split()[3] == "0.833"
    assert "2 of 4 cases of section test compared." in lines
    assert "Where a case without a usable prediction counts as 0, the mean Dice is 0.417." in lines
    assert all(cell_len(line) <= 80 for line in lines[:-1])
    said = err.splitlines()
    assert said[0] == "note: predictions that belong to no case: x.nii.gz"
    assert said[1].startswith(f"failed: d: unusable prediction: {world / 'pred' / 'd.nii.gz'}: has 6x12x12 voxels")
    assert said[2:] == ["failed: no prediction of 1 of 4 cases: c"]
    for name in "cd":
        save(world / "pred" / f"{name}.nii.gz", np.zeros((12, 12, 12)))
    code, out, err = called(capfd, *arguments, "-o", world / "out")
    assert (code, out.splitlines()[-1]) == (0, str(world / "out"))
    row = next(line for line in out.splitlines() if line.startswith("心臓")).split()
    assert (row[1], row[-1]) == ("4", "2")  # two cases in which the reference alone has it
    assert err.splitlines() == ["note: predictions that belong to no case: x.nii.gz"]


def test_a_terminal_that_cannot_write_a_name_costs_no_result(world):
    arguments = ["evaluate", "-p", world / "pred", "-r", world / "data" / "m.json", "--no-pictures"]
    done = subprocess.run(
        [sys.executable, "-m", "medseg", *map(str, arguments)],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"}, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.decode("latin-1").splitlines()[4].split()[:5] == ["??", "2", "0.833", "±", "0.236"]
    assert done.stdout.splitlines()[-1] == str(world / "pred" / "evaluation").encode()


def test_many_structures_with_long_names_stay_readable():
    names = ["portal_vein_and_splenic_vein", "心臓", "[bold]x[/bold]", "a" * 70, *(f"vertebra {n}" for n in range(56))]
    mask = {"situation": "both", "jaccard": 0.5, "hd95_pooled_mm": 1.0, "hd_mm": 1.0, "asd_mm": 1.0, "assd_mm": 1.0}
    mask |= {"volume_error_ml": 0.0, "volume_error_percent": 0.0, "surface_dice": 0.5}
    rows = [{**mask, "dice": n % 2, "hd95_mm": 250.0 * (n % 2)} for n in range(2000)]
    classes = {name: summarize(rows, []) for name in names} | {"nowhere": summarize([], [])}
    report = {
        "tolerance_mm": 2.5, "classes": classes, "mean": mean_of_classes(list(classes.values())),
        "cases": [{}] * 2000, "failed": [], "section": None, "set_iou": {"mean": 0.5, "n": 60},
    }  # fmt: skip
    lines = table(report).splitlines()
    assert max(map(cell_len, lines)) <= 80
    whole = "".join(line[:26].strip() for line in lines)
    for name in names:
        assert name in whole
    assert sum("0.500 ± 0.500" in line and "125.00 ± 125.03" in line for line in lines) == 60
    assert next(line for line in lines if line.startswith("nowhere")).split()[1:] == ["0", "-", "-", "-", "0"]
    assert next(line for line in lines if line.startswith("mean of 60")).split()[3] == "0.500"


def test_warnings_and_strangers_are_few_and_counted(world):
    report = evaluate(world / "pred", world / "data" / "m.json", pictures=False)
    report["cases"][0]["warnings"] = [f"w{n}" for n in range(7)]
    report["unmatched"] = [f"f{n}" for n in range(9)]
    lines = problems(report)
    assert lines[:6] == [*(f"warning: w{n}" for n in range(5)), "warning: and 2 more, see metrics.md"]
    assert lines[6] == "note: predictions that belong to no case: f0, f1, f2, f3, f4 and 4 more"


# ---- progress where there is no terminal


def test_a_line_every_half_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.show_progress("checking") as tell:
        for done in range(5):
            tell(done, 4)
            now[0] += 20.0
    said = capsys.readouterr().err.splitlines()
    assert said == ["checking: 2 of 4 cases, 0.7 min left", "checking: 4 of 4 cases, 0.0 min left"]
