"""Nothing that a file says is executed: pipelines, run folders, bundles, and what the label server trains."""

from __future__ import annotations

import ast
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from forking import python
from models import data_spec, make_bundle, make_image
from tiny import FAST, write_dataset

from medseg.bundle.bundle import open_bundle, write_bundle
from medseg.config.instantiate import build_network
from medseg.config.pipeline import NetworkSpec
from medseg.errors import ConfigError, ManifestError
from medseg.networks import registry
from medseg.serve.models import Model
from medseg.serve.training import learn as training
from medseg.workflows.train import settings
from medseg.workflows.train.plan import write_plan
from medseg.workflows.train.run import train

PACKAGE = Path(__file__).parents[3] / "medseg"
TOUCH = "$__import__('os').system('touch HACKED')"
CALL = {"_target_": "subprocess.getoutput", "cmd": "touch HACKED"}
OPTIONS = "stages.0.network.options"


def medseg(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python(), "-m", "medseg", *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)} | environment, timeout=120,
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess, *words: str) -> None:
    """Exit 2 with one line that has the words."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def pipeline(**stage: object) -> dict:
    schedule = {"iterations": 2, "batch": {"labeled": 2}, "workers": 0}
    plain = {"method": {"name": "supervised"}, "network": {"name": "unet", "width": 4}, "schedule": schedule}
    return {"name": "given", "stages": [plain | stage], "data": {"patch": [16, 16, 16]}}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A data set, and a run of two iterations."""
    folder = tmp_path_factory.mktemp("world")
    changes = [*FAST, "stages.0.schedule.iterations=2"]
    train("supervised", write_dataset(folder / "data"), folder / "run", overrides=changes, device="cpu")
    return folder


@pytest.mark.parametrize(
    ("command", "value"), [("train", TOUCH), ("train", CALL), ("plan", TOUCH)], ids=["expression", "call", "plan"]
)
def test_a_yaml_is_not_executed(world, tmp_path, command, value):
    network = {"name": "unet", "width": 4, "options": {"dropout": value}}
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(pipeline(network=network)))
    done = medseg(tmp_path, command, "--task", "given.yaml", "--data", world / "data" / "m.json", "-o", "out")
    one_line(done, f"given.yaml: {OPTIONS}.dropout", "a pipeline holds values alone")
    assert {path.name for path in tmp_path.iterdir()} == {"given.yaml"}


@pytest.mark.parametrize("value", [TOUCH, json.dumps(CALL)], ids=["expression", "call"])
def test_a_setting_is_not_executed(world, tmp_path, value):
    given = ["--task", "supervised", "--data", world / "data" / "m.json", "-o", "out"]
    done = medseg(tmp_path, "train", *given, "--set", f"{OPTIONS}.dropout={value}")
    one_line(done, f"{OPTIONS}.dropout", "--set ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resume", [True, False])
def test_the_pipeline_of_a_run_folder_is_not_executed(world, tmp_path, resume):
    run = doctored(world, tmp_path, lambda stage: stage["network"].update(options={"dropout": TOUCH}))
    changes = [part for change in [*FAST, "stages.0.schedule.iterations=2"] for part in ("--set", change)]
    again = ["--task", "supervised", "-o", run, "--resume", *changes] if resume else ["--task", run, "-o", "out"]
    done = medseg(tmp_path, "train", "--data", world / "data" / "m.json", "--device", "cpu", *again)
    one_line(done, f"given/pipeline.yaml: {OPTIONS}.dropout")
    assert {path.name for path in tmp_path.iterdir()} == {"given"}


def doctored(world: Path, folder: Path, change) -> Path:
    """A run folder that somebody gave."""
    run = shutil.copytree(world / "run", folder / "given")
    content = yaml.safe_load((run / "pipeline.yaml").read_text())
    change(content["stages"][0])
    (run / "pipeline.yaml").write_text(yaml.safe_dump(content))
    return run


LEARN = """
from pathlib import Path
from medseg.serve.training.manifest import Studies
from medseg.serve.training.learn import can_learn, learn
from medseg.serve.models import Model

model = Model("given", Path("given"), Path("given/bundle"), Path("work"))
print(can_learn(model))
learn(model, Studies({}, {}), {"iterations": 1})
"""


@pytest.mark.parametrize(
    "change",
    [
        lambda stage: stage["network"].update(options={"dropout": TOUCH}),
        lambda stage: stage["method"].update(name="hacked:Method"),
        lambda stage: stage["method"].update(name="hacked.py:Method"),
    ],
    ids=["expression", "module", "file"],
)
def test_the_label_server_executes_nothing_of_a_run(world, tmp_path, change):
    (tmp_path / "hacked.py").write_text("open('HACKED', 'w')")
    doctored(world, tmp_path, change)
    model = Model("given", tmp_path / "given", tmp_path / "given" / "bundle", tmp_path / "work")
    assert not training.can_learn(model), "it is served all the same"
    assert model.bundle.network
    done = subprocess.run(
        [python(), "-c", LEARN], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("False"), done.stderr
    assert "ConfigError: given/pipeline.yaml: stages.0" in done.stderr
    assert not (tmp_path / "HACKED").exists()


@pytest.mark.parametrize("name", ["hacked:Method", "hacked.py:Method", "os:system", "medseg.methods.dtc:DTC"])
def test_no_module_is_imported_by_its_name(world, tmp_path, name):
    (tmp_path / "hacked.py").write_text("open('HACKED', 'w')")
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(pipeline(method={"name": name})))
    given = ["--task", "given.yaml", "--data", world / "data" / "m.json", "-o", "out"]
    done = medseg(tmp_path, "train", *given)
    one_line(done, f"given.yaml: stages.0.method.name: method {name!r} is not known", "--method FILE.py:Class")
    assert not (tmp_path / "HACKED").exists()


PLACES = {
    "description": ({"description": "it costs $5"}, "description is 'it costs $5'"),
    "name": ({"name": "@x"}, "name is '@x'"),
    "macro": ({"name": "%other.yaml#a"}, "name is '%other.yaml#a'"),
    "stage": (pipeline(init="$1"), "stages.0.init is '$1'"),
    "list": (pipeline(views=["axial", "@view"]), "stages.0.views.1 is '@view'"),
    "key": (
        pipeline(network={"name": "unet", "options": {"_requires_": "x"}}),
        "stages.0.network.options has the key '_requires_'",
    ),
    "key with a sign": (
        pipeline(method={"name": "dtc", "options": {"a@b": 1}}),
        "stages.0.method.options has the key 'a@b'",
    ),
    "options of a method": (
        pipeline(method={"name": "dtc", "options": {"x": "$1"}}),
        "stages.0.method.options.x is '$1'",
    ),
    "data": ({**pipeline(), "data": {"patch": "@p"}}, "data.patch is '@p'"),
    "structure": ({**pipeline(), "data": {"labels": {1: "$1"}}}, "data.labels.1 is '$1'"),
    "top": ({"_target_": "os.system"}, "the pipeline has the key '_target_'"),
}


@pytest.mark.parametrize("what", PLACES)
def test_wherever_it_stands_it_is_refused_with_its_place(tmp_path, what):
    content, words = PLACES[what]
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        settings.load(str(tmp_path / "given.yaml"))
    assert f"given.yaml: {words}; a pipeline holds values alone" in str(caught.value)


def test_a_pipeline_that_contains_itself_is_refused(tmp_path):
    (tmp_path / "loop.yaml").write_text("name: x\nstages: &a [*a]\n")
    with pytest.raises(ConfigError, match="contains itself"):
        settings.load(str(tmp_path / "loop.yaml"))
    levels = "\n".join(f"  - &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9))
    (tmp_path / "many.yaml").write_text(f"name: x\ndata:\n  x:\n  - &l0 [1]\n{levels}\n")
    with pytest.raises(ConfigError, match="more than 10000 values"):
        settings.load(str(tmp_path / "many.yaml"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "/tmp/w.pt"}, "norm is '/tmp/w.pt'"),
        ({"norm": "https://example.org"}, "norm is 'https://example.org'"),
        ({"act": ["relu", {"inplace": "os.system"}]}, "act.1.inplace is 'os.system'"),
    ],
)
def test_options_of_a_network_are_numbers_and_words(tmp_path, options, words):
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(pipeline(network={"name": "unet", "options": options})))
    with pytest.raises(ConfigError) as caught:
        settings.load(str(tmp_path / "given.yaml"))
    assert f"{OPTIONS}: Value error, {words}; accepted are numbers, words, and lists of them" in str(caught.value)


def test_names_of_structures_may_have_signs_inside(tmp_path):
    """Manifests choose them; MONAI takes for an expression what begins with the sign."""
    path = write_dataset(tmp_path / "data")
    content = json.loads(path.read_text())
    content["labels"] = {"0": "background", "1": "stenosis > 50 %", "2": "box @ 3 T"}
    path.write_text(json.dumps(content))
    plan = write_plan("supervised", path, tmp_path / "plan.yaml", overrides=FAST, device="cpu")
    assert settings.load(str(tmp_path / "plan.yaml")) == plan
    content["labels"]["2"] = "% fat"
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=r"m\.json: has the name '% fat'.*rename it"):
        write_plan("supervised", path, tmp_path / "plan.yaml", overrides=FAST, device="cpu")


class Asked:
    """A proxy that notes who wants to go where, and lets nobody."""

    def __init__(self) -> None:
        self.wanted: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                self.wanted.append(connection.recv(200))

    @property
    def environment(self) -> dict[str, str]:
        address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        return dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), address)


@pytest.fixture
def proxy() -> Iterator[Asked]:
    asked = Asked()
    yield asked
    asked.socket.close()


PRETRAINED = {
    "_target_": "monai.networks.nets.EfficientNetBN", "model_name": "efficientnet-b0", "pretrained": True,
    "num_classes": 3,
}  # fmt: skip


def test_no_bundle_begins_a_download(tmp_path, proxy):
    make_image(tmp_path / "scan.nii.gz")
    path = make_bundle(tmp_path / "b") / "configs" / "inference.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"network_def": PRETRAINED}))
    done = medseg(tmp_path, "predict", "-m", "b", "-i", "scan.nii.gz", "-o", "out", **proxy.environment)
    one_line(done, "b/configs/inference.json: network_def wants to make 'monai.networks.nets.EfficientNetBN'")
    assert not proxy.wanted
    code = "from monai.networks.nets import EfficientNetBN as N; N('efficientnet-b0', pretrained=True)"
    subprocess.run([python(), "-c", code], env=os.environ | proxy.environment, capture_output=True, timeout=120)
    assert proxy.wanted, "the proxy would have seen it"


WRITTEN = {
    "vnet": [{}, {"norm": "group", "dropout": 0.1, "residual": True}],
    "unet": [
        {},
        {"act": ["leakyrelu", {"negative_slope": 0.1}], "norm": "batch", "dropout": 0.2, "adn_ordering": "AN"},
    ],
    "dynunet": [{}, {"norm_name": ["group", {"num_groups": 4}], "act_name": "relu", "res_block": True, "dropout": 0.1}],
    "segresnet": [{}, {"norm": ["group", {"num_groups": 4}], "upsample_mode": "deconv", "dropout_prob": None}],
}


@pytest.mark.parametrize(("name", "options"), [(name, options) for name in WRITTEN for options in WRITTEN[name]])
def test_what_medseg_writes_it_opens(tmp_path, name, options):
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(pipeline(network={"name": name, "options": options})))
    spec = settings.load(str(tmp_path / "given.yaml")).stages[0].network
    assert spec == NetworkSpec(name=name, options=options)
    data = data_spec(patch=(32, 32, 32))
    definition = registry.network_def(spec, patch=data.patch, in_channels=1, out_channels=data.classes)
    network = build_network(definition)
    bundle = write_bundle(tmp_path / "b", network, network_def=definition, data=data, name="x")
    weights = open_bundle(bundle).network.state_dict()
    assert weights.keys() == network.state_dict().keys()


IMPORTERS = {
    "methods/__init__.py",
    "consensus/fuse.py",
    "__init__.py",
    "serve/standins/__init__.py",
    "config/instantiate.py",
}
"""What imports by a name imports names of tables in the code."""
EXECUTOR = "methods/_own.py"
"""Executes the file that the user named."""
STRANGERS = {"pickle", "marshal", "shelve", "pydoc", "joblib", "dill"}


def executors(path: Path) -> Iterator[str]:
    """What in a file of the package executes text, or would unpickle it."""
    name = path.relative_to(PACKAGE).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            words = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            yield from words & STRANGERS | words & {"ConfigParser"}
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            wrong = {
                "eval": True,
                "exec": True,
                "compile": True,
                "__import__": True,
                "yaml.load": True,
                "torch.load": given.get("weights_only") != "True",
                "np.load": "allow_pickle" in given,
                "importlib.import_module": name not in IMPORTERS,
                "importlib.util.spec_from_file_location": name != EXECUTOR,
            }
            if wrong.get(function):
                yield function


def test_the_package_has_nothing_that_executes_text():
    assert not {path.name: found for path in PACKAGE.rglob("*.py") if (found := list(executors(path)))}
