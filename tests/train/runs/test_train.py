"""`medseg train` as users run it: real processes, real files, interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from forking import python
from tiny import FAST, write_dataset

from medseg.errors import ConfigError, DataError, ManifestError, OutputError
from medseg.workflows.train.run import train

pytestmark = pytest.mark.usefixtures("undrawn")

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


def command(*arguments: object) -> list[str]:
    return [python(), "-m", "medseg", *map(str, arguments)]


def sets(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def weights(folder: Path, name: str = "last.pt") -> dict:
    return torch.load(folder / name, weights_only=True)["method"]


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("task", "further"), [("supervised", set()), ("dtc", {"watched"})])
def test_a_run_leaves_all_that_repeats_it(manifest, tmp_path, task, further):
    run = train(task, manifest, tmp_path / "run", overrides=FAST)
    names = {path.name for path in run.iterdir()}
    assert {
        "pipeline.yaml",
        "manifest.json",
        "versions.json",
        "metrics.jsonl",
        "last.pt",
        "best.pt",
        "bundle",
    } <= names
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {record["kind"] for record in records} == {"train", "validation", *further}
    assert set(records[-1]["classes"]) == {"ball", "box"}
    again = train(str(run), manifest, tmp_path / "again")
    assert equal(weights(run), weights(again))


@pytest.mark.slow
def test_killed_and_resumed_is_bit_for_bit(manifest, tmp_path):
    changes = sets(*FAST, "stages.0.schedule.iterations=60", "stages.0.schedule.validate_every=7")
    arguments = ["train", "--task", "dtc", "--data", manifest, *changes]
    subprocess.run(command(*arguments, "-o", tmp_path / "whole"), check=True, env=ENVIRONMENT, capture_output=True)

    folder = tmp_path / "broken"
    stopped = subprocess.Popen(command(*arguments, "-o", folder), env=ENVIRONMENT, stderr=subprocess.PIPE)
    wait_for(folder / "last.pt")
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, said
    assert b"Traceback" not in said
    assert said.splitlines()[-1].startswith(b"stopped at ")
    assert b" of 60 iterations, saved; continue with: " in said.splitlines()[-1]
    assert torch.load(folder / "last.pt", weights_only=True)["iteration"] < 60

    validated = count_validations(folder)
    killed = subprocess.Popen(command(*arguments, "-o", folder, "--resume"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while count_validations(folder) <= validated:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, "it was not done yet"
    subprocess.run(command(*arguments, "-o", folder, "--resume"), check=True, env=ENVIRONMENT, capture_output=True)
    assert equal(weights(tmp_path / "whole"), weights(folder))
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert lines[0] == lines[1]


def count_validations(folder: Path) -> int:
    return (folder / "metrics.jsonl").read_text().count('"validation"')


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_agree(manifest, tmp_path):
    launcher = [python(), "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29531"]
    changes = sets(
        *FAST,
        "stages.0.schedule.batch={labeled: 1, unlabeled: 1}",
        "stages.0.schedule.validate_every=3",
    )
    spy = f"{Path(__file__).parents[2] / 'support' / 'spy_method.py'}:Spy"
    arguments = ["train", "--task", "dtc", "--method", spy, "--data", manifest, "-o", tmp_path / "run", *changes]
    done = subprocess.run(
        [*launcher, "-m", "medseg", *map(str, arguments)], env=ENVIRONMENT | {"SPY_FOLDER": str(tmp_path)},
        capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "run" / "bundle" / "models" / "model.pt").exists()
    assert (tmp_path / "rank0").read_text() == (tmp_path / "rank1").read_text()


def test_partly_annotated_volumes_train(tmp_path):
    import nibabel as nib

    path = write_dataset(tmp_path / "data", validation=0)
    label_path = tmp_path / "data" / "case0_label.nii.gz"
    label = nib.load(label_path)
    values = label.get_fdata().astype("uint8")
    values[:, :, ::2] = 255
    nib.save(nib.Nifti1Image(values, label.affine), label_path)
    run = train("dtc", path, tmp_path / "run", overrides=FAST)
    assert all(torch.isfinite(v).all() for v in weights(run).values())


def test_slices_train_as_2d(tmp_path):
    path = write_dataset(tmp_path / "data", shape=(40, 36, 6), spacing=(1, 1, 8))
    changes = [change for change in FAST if "patch" not in change]
    run = train("dtc", path, tmp_path / "run", overrides=changes)
    definition = json.loads((run / "bundle" / "configs" / "inference.json").read_text())["network_def"]
    assert definition["_target_"].endswith("Planar")


def test_stages_follow_one_another(manifest, tmp_path):
    import yaml

    schedule = {"iterations": 3, "batch": {"labeled": 2}, "lr": 1e-12, "validate_every": 99}
    network = {"name": "vnet", "width": 4}
    stages = [
        {"method": {"name": "dtc"}, "network": network, "schedule": {**schedule, "lr": 0.01}},
        {"method": {"name": "supervised"}, "network": network, "schedule": schedule, "init": "previous"},
    ]
    task = tmp_path / "two.yaml"
    task.write_text(yaml.safe_dump({"name": "two", "stages": stages, "data": {"patch": [16, 16, 16]}}))
    run = train(str(task), manifest, tmp_path / "run")
    first, second = weights(run / "stage0"), weights(run / "stage1")
    for before, after in (
        ("network.network.network.encoder.0.0.weight", "network.encoder.0.0.weight"),
        ("network.head.convolution.weight", "network.head.weight"),
    ):
        assert torch.allclose(first[before], second[after], atol=1e-6)
    assert (run / "bundle" / "models" / "model.pt").exists()


def test_a_folder_with_a_run_is_not_touched(manifest, tmp_path):
    (tmp_path / "run.json").write_text('{"fingerprint": "x"}')
    (tmp_path / "last.pt").write_text("x")
    with pytest.raises(OutputError, match="holds a run already; --resume"):
        train("dtc", manifest, tmp_path)
    with pytest.raises(ConfigError, match="another task, manifest"):
        train("dtc", manifest, tmp_path, resume=True)


def test_a_run_of_another_command_is_not_continued(manifest, tmp_path):
    run = train("supervised", manifest, tmp_path / "run", overrides=FAST)
    with pytest.raises(ConfigError, match=r"--fold or --budget: pipeline\.seed was 0 and is 3; resume with the same"):
        train("supervised", manifest, run, overrides=[*FAST, "seed=3"], resume=True)
    assert train("supervised", manifest, run, overrides=FAST, resume=True) == run
    record = run / "run.json"
    former = {"fingerprint": json.loads(record.read_text())["key"]}  # as runs before version 0.2 have it
    record.write_text(json.dumps(former))
    assert train("supervised", manifest, run, overrides=FAST, resume=True) == run


def test_a_run_that_failed_before_its_first_step_is_started_anew(tmp_path):
    path = write_dataset(tmp_path / "data", validation=0)
    image = tmp_path / "data" / "case1.nii.gz"
    good = image.read_bytes()
    image.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"case1\.nii\.gz"):
        train("dtc", path, tmp_path / "run", overrides=FAST)
    image.write_bytes(good)
    train("dtc", path, tmp_path / "run", overrides=[*FAST, "seed=3"])


def test_foreign_folders_and_files_are_not_written_to(manifest, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="not empty and holds no run"):
        train("dtc", manifest, tmp_path)
    with pytest.raises(OutputError, match="is a file"):
        train("dtc", manifest, tmp_path / "thesis.tex")


def test_no_labelled_case(tmp_path):
    path = write_dataset(tmp_path / "data", labeled=0)
    with pytest.raises(ManifestError, match="no labelled case"):
        train("supervised", path, tmp_path / "run")


def test_more_rows_than_labelled_volumes_names_both(manifest, tmp_path):
    with pytest.raises(ConfigError, match="asks for 3 labelled volumes, the manifest has 2"):
        train(
            "dtc",
            manifest,
            tmp_path / "run",
            overrides=["stages.0.schedule.batch={labeled: 3, unlabeled: 2}"],
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "stages.0.schedule.learning_rate=1",
            "stages.0.schedule has no key 'learning_rate'; accepted are iterations, batch, optimizer, lr",
        ),
        ("stages.0.schedule.lr=-1", "stages.0.schedule.lr: Input should be greater than 0, got -1"),
        ("stages.1.network.width=8", "there is no '1' here (a list of 1)"),
        ("stages.0.method.name=dct", "method 'dct' is not known; one of supervised, dtc"),
        (
            "stages.0.network.name=vent",
            "accepted are 'vnet', 'unet', 'dynunet', 'segresnet' or 'efficientnet_lite', got 'vent'",
        ),
        ("stages.0.method.options.betta=1", "no option 'betta'; it has beta"),
        ("stages.0.schedule.iteration=5", "schedule has no key 'iteration'; did you mean iterations? accepted are"),
        ("stage.0=1", "a pipeline has no key 'stage'; did you mean stages"),
        ("data.ptch=[16,16,16]", "data has no key 'ptch'; did you mean patch? accepted are labels"),
        ("data.augment.flip.axis=[0]", "data.augment.flip has no key 'axis'; did you mean axes? accepted are"),
        ("data.patch=[16,16]", "data.patch"),
        ("nothing", "expected a.b=value"),
    ],
)
def test_wrong_settings_are_named(manifest, tmp_path, change, words):
    with pytest.raises(ConfigError) as caught:
        train("dtc", manifest, tmp_path / "run", overrides=[change])
    assert words in str(caught.value)
    assert not (tmp_path / "run" / "bundle").exists()


def test_unknown_task_lists_the_known_ones(manifest, tmp_path):
    with pytest.raises(ConfigError, match=r"ael, ael_paper, auxsegnet, .*, cutmix, dmpct, dmpct_volume, dtc, dtc_la"):
        train("dct", manifest, tmp_path / "run")


def test_budget_is_kept(manifest, tmp_path):
    began = time.process_time()  # not the clock on the wall, which other work on the machine drives on
    run = train("dtc", manifest, tmp_path / "run", budget="20s", overrides=["stages.0.network.width=8"])
    assert time.process_time() - began < 30 * torch.get_num_threads()
    import yaml

    resolved = yaml.safe_load((run / "pipeline.yaml").read_text())
    assert resolved["stages"][0]["schedule"]["iterations"] >= 10
    assert resolved["data"]["patch"]
