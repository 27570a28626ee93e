"""A method of the user's own: named on the command line, recorded with its hash, named again to go on."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forking import python
from given_networks import factory
from tiny import FAST, write_dataset

from medseg import methods
from medseg.errors import ConfigError
from medseg.methods.dmpct import VoteOfViews
from medseg.methods.supervised import Supervised
from medseg.workflows.train import settings
from medseg.workflows.train.plan import write_plan
from medseg.workflows.train.run import train

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "own_method.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
BOTH = [change for change in FAST if "batch" not in change] + ["stages.0.schedule.batch={labeled: 1, unlabeled: 1}"]

MINE = """
from medseg.methods.supervised import Supervised
from neighbour import WEIGHT

def far(label):
    return {"far": label[None].astype("float32")}

class Mine(Supervised):
    def targets(self):
        return far

    def forward(self, batch, clock):
        assert batch["labeled"]["far"].dtype.is_floating_point
        return {name: WEIGHT * term for name, term in super().forward(batch, clock).items()}

class Nothing:
    pass
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def mine(tmp_path) -> Path:
    """A file with a method whose targets are made in the loader's workers, and which imports its neighbour."""
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    (folder / "neighbour.py").write_text("WEIGHT = 1.0\n")
    return folder / "mine.py"


def command(*arguments: object) -> list[str]:
    return [python(), "-m", "medseg", *map(str, arguments)]


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )  # fmt: skip


def sets(changes: list[str]) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def weights(folder: Path) -> dict:
    return torch.load(folder / "last.pt", weights_only=True)["method"]


def one_line(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert (done.stderr[:7], done.stderr.count("\n")) == ("error: ", 1), done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.slow
def test_the_life_of_an_own_method(manifest, tmp_path):
    file = shutil.copy(EXAMPLE, tmp_path / "paper.py")
    changes = sets([*BOTH, "stages.0.schedule.iterations=40", "stages.0.method.options.decay=0.9"])
    given = ["train", "--task", "supervised", "--data", manifest, "--device", "cpu", *changes]
    named = ["--method", "paper.py:MeanTeacher"]
    whole = run(*given, *named, "-o", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    recorded = yaml.safe_load((tmp_path / "whole" / "pipeline.yaml").read_text())
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert recorded["stages"][0]["method"] == {"name": "MeanTeacher", "sha256": digest, "options": {"decay": 0.9}}
    assert recorded["name"] == "MeanTeacher", "what was trained is not called supervised"

    process = subprocess.Popen(
        command(*given, *named, "-o", "broken"), cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "broken" / "last.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert torch.load(tmp_path / "broken" / "last.pt", weights_only=True)["iteration"] < 40

    again = f"MeanTeacher (SHA-256 {digest[:12]}); name its file again: --method FILE.py:MeanTeacher"
    one_line(run(*given, "-o", "broken", "--resume", cwd=tmp_path), "broken/pipeline.yaml: stages.0.method: ", again)
    one_line(run("train", "--task", "whole", "--data", manifest, "-o", "again", cwd=tmp_path), "whole/", again)
    Path(file).write_text(EXAMPLE.read_text() + "\n# edited\n")
    changed = run(*given, *named, "-o", "broken", "--resume", cwd=tmp_path)
    one_line(changed, "paper.py is not as it was: SHA-256 ", f"recorded is {digest[:12]}; give the old file")
    Path(file).write_text(EXAMPLE.read_text())
    done = run(*given, *named, "-o", "broken", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(first[key], second[key]) for key in first)

    Path(file).unlink()
    predicted = run("predict", "-m", "broken", "-i", manifest, "-o", "out", "--device", "cpu", cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    assert list((tmp_path / "out").glob("*.nii.gz")), "prediction needs the bundle alone"


def test_a_run_of_an_own_method_is_repeated_when_it_is_named_again(manifest, mine, tmp_path):
    named = f"{mine}:Mine"
    first = train("supervised", manifest, tmp_path / "run", overrides=FAST, method=named, device="cpu")
    again = train(str(first), manifest, tmp_path / "again", method=named, device="cpu")
    assert all(torch.equal(value, weights(again)[key]) for key, value in weights(first).items())
    with pytest.raises(ConfigError, match=r"trained with a method of your own, Mine .*--method FILE\.py:Mine"):
        train(str(first), manifest, tmp_path / "no", device="cpu")
    mine.write_text(MINE + "\n")
    with pytest.raises(ConfigError, match=r"mine\.py is not as it was"):
        train(str(first), manifest, tmp_path / "no", method=named, device="cpu")
    new = ["stages.0.method.sha256=null", "stages.0.schedule.iterations=1"]
    anew = train(str(first), manifest, tmp_path / "anew", overrides=new, method=named, device="cpu")
    digest = hashlib.sha256(mine.read_bytes()).hexdigest()
    assert settings.read_task(str(anew))[0]["stages"][0]["method"]["sha256"] == digest
    assert not {"mine", "neighbour"} & {Path(entry).name for entry in sys.path}
    assert "mine" not in sys.modules


class Here(Supervised):
    """A class that Python code has already."""


def test_python_code_gives_the_class(manifest, tmp_path):
    made = train("supervised", manifest, tmp_path / "run", overrides=FAST, method=Here, device="cpu")
    recorded = settings.read_task(str(made))[0]["stages"][0]["method"]
    assert recorded == {
        "name": "Here",
        "sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "options": {},
    }
    with pytest.raises(ConfigError, match="'Here' is not known"):
        methods.find("Here")


class Voting(VoteOfViews):
    """A rule of the user's own."""


def test_rounds_take_a_rule_of_ones_own(manifest, tmp_path):
    changes = [*FAST, "stages.0.schedule.iterations=1", "stages.0.rounds.count=1", "stages.0.views=[axial]",
               "stages.0.rounds.rule.name=Voting"]  # fmt: skip
    changes = [c.replace("data.patch=[16,16,16]", "data.patch=[16,16,1]") for c in changes]
    task = tmp_path / "voting.yaml"
    content, _ = settings.read_task("dmpct")
    content["stages"][0]["rounds"]["rule"]["name"] = "Voting"
    task.write_text(yaml.safe_dump(content))
    made = train(str(task), manifest, tmp_path / "run", overrides=changes, method=Voting, device="cpu")
    assert (made / "round1" / "bundle").is_dir()
    rule = settings.read_task(str(made))[0]["stages"][0]["rounds"]["rule"]
    assert (rule["name"], rule["options"]) == ("Voting", {"background_confidence": 0.9})
    assert rule["sha256"] == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match=r"trained with a rule of your own, Voting"):
        train(str(made), manifest, tmp_path / "no", device="cpu")
    with pytest.raises(ConfigError, match=r"Voting is no method: it is not derived from medseg\.method\.Method"):
        train("supervised", manifest, tmp_path / "no", method=Voting, device="cpu")


def two_stages(*names: str) -> dict:
    return {"name": "two", "stages": [{"method": {"name": name}} for name in names]}


def test_stages_of_a_pipeline_say_which_is_whose(mine, tmp_path):
    task = tmp_path / "two.yaml"
    task.write_text(yaml.safe_dump(two_stages("supervised", "Mine")))
    own = methods.locate_methods(f"{mine}:Mine")
    found = settings.load(str(task), (), own)
    assert [stage.method.name for stage in found.stages] == ["supervised", "Mine"]
    assert found.name == "two"
    with pytest.raises(
        ConfigError, match=r"stages\.1\.method\.name: method 'Mine' is not known.*--method FILE\.py:Class"
    ):
        settings.load(str(task))
    both = methods.locate_methods([f"{mine}:Mine", Here])
    with pytest.raises(
        ConfigError, match="method=Here: no stage has the method Here; the stages have supervised, Mine"
    ):
        settings.load(str(task), (), both)
    assert settings.load(str(task), ["stages.0.method.name=Here"], both).stages[0].method.name == "Here"
    task.write_text(yaml.safe_dump(two_stages(f"{mine}:Mine")))
    with pytest.raises(ConfigError, match="is not known"):
        settings.load(str(task))
    assert settings.load(str(task), (), own).stages[0].method.name == "Mine", "as it was written before"


def test_a_plan_is_made_for_an_own_method(manifest, mine, tmp_path):
    one = write_plan("dtc", manifest, tmp_path / "a.yaml", overrides=FAST, method=Here, device="cpu")
    assert one.stages[0].schedule.batch == {"labeled": 2}
    assert one.stages[0].method.sha256 is None, "a plan is not yet a run of this file"
    assert settings.load(str(tmp_path / "a.yaml"), (), methods.locate_methods(Here)) == one


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nothing.py:X", "nothing.py cannot be read (No such file or directory)"),
        ("mine.py", "accepted is FILE.py:Class"),
        ("os:system", "accepted is FILE.py:Class"),
        ("mine.py:Other", "there is no Other in mine.py"),
        ("mine.py:Nothing", "Nothing is no class derived from medseg.method.Method"),
        ("mine.py:WEIGHT", "WEIGHT is no class derived from"),
        ("abstract.py:Method", "Method does not define forward, segmenter"),
        ("broken.py:X", "broken.py cannot be loaded (SyntaxError: '(' was never closed"),
        ("failing.py:X", "failing.py cannot be loaded (ValueError: two lines)"),
        ("numbers.py:X", "numbers is also a module of Python"),
        ("a.b.py:X", "a.b is no name of a module"),
        ("called.py:dtc", "dtc is a name of medseg; rename the class"),
    ],
)
def test_what_is_no_method_is_one_line(manifest, mine, monkeypatch, given, words):
    folder = mine.parent
    monkeypatch.chdir(folder)
    (folder / "abstract.py").write_text("from medseg.method import Method\n")
    (folder / "broken.py").write_text("x = (")
    (folder / "failing.py").write_text("raise ValueError('two\\nlines')")
    for name in ("numbers", "a.b", "called"):
        (folder / f"{name}.py").write_text(MINE.replace("class Mine", "class dtc"))
    with pytest.raises(ConfigError) as caught:
        train("supervised", manifest, folder / "run", method=given)
    assert f"--method {given}" in str(caught.value).replace("'", "")
    assert words in str(caught.value)
    assert not (folder / "run").exists()


def test_the_command_says_it_in_one_line(manifest, tmp_path):
    given = ["train", "--task", "dtc", "--data", manifest, "-o", "run"]
    one_line(run(*given, "--method", "nothing.py:X", cwd=tmp_path), "nothing.py cannot be read")


def test_two_classes_of_one_file_are_of_one_module(mine):
    mine.write_text(MINE + "\nclass Second(Mine):\n    pass\n")
    with methods.use_methods(methods.locate_methods([f"{mine}:Mine", f"{mine}:Second"])):
        assert issubclass(methods.find("Second"), methods.find("Mine"))


def test_workers_that_start_anew_find_the_file(mine):
    """As loaders do where processes are not forked, and torch's own pools."""
    with methods.use_methods(methods.locate_methods(f"{mine}:Mine")):
        targets = methods.build("Mine", factory(3)).targets()
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(targets, np.ones((2, 3, 4), np.uint8)).result(timeout=120)
    assert found["far"].shape == (1, 2, 3, 4)
