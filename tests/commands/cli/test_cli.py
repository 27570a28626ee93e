"""The command from outside: start-up, exit codes, one line per mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forking import python
from tiny import write_dataset

from medseg.cli.app import main


def run(*arguments: object, program: str = "", **options: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [program or python(), "-m", "medseg", *map(str, arguments)], env=environment, capture_output=True, text=True,
        timeout=120, **options,
    )  # fmt: skip


def command(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a command in this process, which has imported torch already."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0), capfd.readouterr().err


def is_one_line(said: str, words: str) -> None:
    lines = [line for line in said.splitlines() if line]
    assert len(lines) == 1, said
    assert lines[0].startswith("error: ")
    assert words in lines[0]


HEAVY = {"torch", "monai", "numpy", "scipy", "nibabel", "skimage", "SimpleITK", "itk", "matplotlib", "pydicom", "PIL"}


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["train", "--help"]])
def test_help_and_list_import_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['medseg', *{arguments!r}]\n"
        "from medseg.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as error: assert not error.code\n"
        f"heavy = {sorted(HEAVY)!r}\n"
        "print('heavy:', *(name for name in heavy if name in sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[-1] == "heavy:"


def test_list_names_all_that_is_shipped():
    said = run("list").stdout
    for name in ("dtc", "supervised", "vnet", "dynunet"):
        assert name in said
    # a change of patches with its settings, as --set takes them
    assert "axes=[] probability=0.5 one=false" in said


def test_version():
    from medseg import __version__

    assert run("--version").stdout == f"medseg {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trainn"], "No such command 'trainn'"),
        (["train", "--task", "dtc"], "Missing option '--data'"),
        (["train", "--task", "dtc", "--data", "absent.json"], "absent.json"),
        (
            ["train", "--task", "dct", "--data", "{m}"],
            "task 'dct' is not known; did you mean dmpct or dtc? one of ael",
        ),
        (["train", "--task", "dtc", "--data", "{m}", "--device", "gpu"], "device 'gpu' is not known"),
        (["train", "--task", "dtc", "--data", "{m}", "--device", "cuda:99"], "device"),
        (["train", "--task", "dtc", "--data", "{m}", "--budget", "soon"], "--budget 'soon'"),
        (["train", "--task", "dtc", "--data", "{m}", "--set", "stages.0.schedule.lr=quick"], "schedule.lr"),
        (["predict", "-m", "{m}", "-i", "{m}", "-o", "out"], "m.json"),
        (["predict", "-m", "absent", "-i", "{m}", "-o", "out"], "absent"),
        (["evaluate", "-p", "absent", "-r", "{m}"], "absent"),
        (["data", "check", "absent.json"], "absent.json"),
        (["data", "init", "absent", "-o", "x.json"], "absent"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    manifest = write_dataset(tmp_path / "data", validation=0)
    code, said = command(capfd, *[a.replace("{m}", str(manifest)) for a in arguments])
    assert code == 2, said
    is_one_line(said, words)


def test_a_mistake_of_a_real_process_is_one_line_too(tmp_path):
    """With all that it imports, up to MONAI and ignite, which may have things to say."""
    manifest = write_dataset(tmp_path / "data", validation=0)
    done = run("train", "--task", "dtc", "--data", manifest, "--device", "gpu", program=sys.executable, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    is_one_line(done.stderr, "device 'gpu' is not known")


def test_debug_shows_the_traceback():
    done = run("train", "--task", "dtc", "--data", "absent.json", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.slow
def test_the_whole_way(tmp_path):
    """init, check, train, predict, evaluate, as the README tells it."""
    write_dataset(tmp_path / "raw", test=0, validation=0, labeled=3, unlabeled=2)
    folder = tmp_path / "scans"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for path in (tmp_path / "raw").glob("*.nii.gz"):
        is_label = "_label" in path.name
        path.rename(folder / ("labels" if is_label else "images") / path.name.replace("_label", ""))
    manifest = folder / "manifest.json"
    made = run("data", "init", folder, "-o", manifest, "--modality", "MR", "--validation", "0.3")
    assert made.returncode == 0, made.stderr
    content = json.loads(manifest.read_text())
    assert len(content["training"]), len(content["validation"]) == (2, 1)
    assert len(content["unlabeled"]) == 2
    assert run("data", "check", manifest).returncode == 0
    fast = ["--set", "stages.0.schedule.iterations=4", "--set", "stages.0.network.width=4"]
    trained = run("train", "--task", "dtc", "--data", manifest, "-o", tmp_path / "run", *fast)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.strip() == str(tmp_path / "run" / "bundle")
    predicted = run("predict", "-m", tmp_path / "run", "-i", folder / "images", "-o", tmp_path / "out")
    assert predicted.returncode == 0, predicted.stderr
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 5
    scored = run("evaluate", "-p", tmp_path / "out", "-r", manifest)
    assert scored.returncode == 0, scored.stderr
    assert {"metrics.csv", "metrics.json", "metrics.md", "montage.png"} <= {
        path.name for path in (tmp_path / "out" / "evaluation").iterdir()
    }


def test_the_readme_names_only_commands_that_exist(capfd):
    import re

    text = (Path(__file__).parents[3] / "README.md").read_text()
    code = "\n".join([*text.split("```")[1::2], *re.findall(r"`([^`]+)`", text)])
    used = set(re.findall(r"^medseg ((?:data )?[a-z]+)", code, flags=re.M))
    assert used
    for words in used:
        assert command(capfd, *words.split(), "--help")[0] == 0, words


MISTAKES = [
    (["predict", "--nonsense"], "medseg predict"),
    (["data", "init", "--nonsense"], "medseg data init"),
    (["nonsense"], "medseg"),
]


@pytest.mark.parametrize(("words", "command"), MISTAKES)
def test_a_mistake_names_the_help_of_its_command(words, command):
    done = subprocess.run([python(), "-m", "medseg", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith(f"(see {command} --help)")
