"""Options of commands: one dataclass each, from which flags, Python functions and records come."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import medseg
from medseg.cli.app import app
from medseg.cli.commands import add_command
from medseg.errors import ConfigError
from medseg.options import Option, api, check_types, described, flag_of, plain
from medseg.serve.options import ServeOptions
from medseg.workflows.compare.options import CompareOptions
from medseg.workflows.consensus.options import OF_A_RESULT, ConsensusOptions
from medseg.workflows.data.options import CheckOptions, InitOptions
from medseg.workflows.demo.options import DemoOptions
from medseg.workflows.evaluate.options import EvaluateOptions
from medseg.workflows.export.options import ExportOptions
from medseg.workflows.predict.options import PredictOptions
from medseg.workflows.train.options import PlanOptions, PretrainOptions, TrainOptions

COMMANDS = {
    "train": TrainOptions,
    "pretrain": PretrainOptions,
    "plan": PlanOptions,
    "predict": PredictOptions,
    "evaluate": EvaluateOptions,
    "export": ExportOptions,
    "compare": CompareOptions,
    "consensus": ConsensusOptions,
    "serve": ServeOptions,
    "demo": DemoOptions,
    "data check": CheckOptions,
    "data init": InitOptions,
}


@dataclass(frozen=True)
class Example:
    model: Annotated[Path, Option("Run folder.", ("--model", "-m"))]
    views: Annotated[tuple[str, ...], Option("Views.", ("--view",))] = ()
    report: Annotated[bool, Option("Write a report.", group="Results")] = True
    ssl: Annotated[bool | None, Option("Yes, no, or as the method says.", group="Results")] = None
    strict: Annotated[bool, Option("Stop at the first.")] = False
    overlap_mm: Annotated[float | None, Option("Of windows.")] = None

    def __post_init__(self) -> None:
        check_types(self)


def called(*arguments: str) -> Example:
    """What the command line makes of its arguments."""
    got = []
    application = typer.Typer(rich_markup_mode=None)

    def run(options: Example) -> None:
        """Do it."""
        got.append(options)

    add_command(application, "go", Example, run)
    done = CliRunner().invoke(application, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return got[0]


def test_flags_and_python_make_equal_options():
    by_line = called(
        "-m", "runs/a", "--view", "axial", "--view", "coronal", "--no-report", "--ssl", "--overlap-mm", "2"
    )
    by_call = Example("runs/a", ["axial", "coronal"], report=False, ssl=True, overlap_mm=2)
    assert by_line == by_call
    assert called("--model", "x") == Example(Path("x"))
    assert Example("x", "axial").views == ("axial",)


def test_the_record_is_json():
    assert plain(Example("x", ["a"])) == {
        "model": "x", "views": ["a"], "report": True, "ssl": None, "strict": False, "overlap_mm": None,
    }  # fmt: skip


def test_a_value_of_another_type_is_named_by_its_flag():
    with pytest.raises(ConfigError, match=r"--overlap-mm is 'wide': Input should be a valid number"):
        Example("x", overlap_mm="wide")


def test_an_api_function_has_the_signature_of_the_options():
    function = api(Example, lambda options: options.overlap_mm)
    assert function("x", overlap_mm=3) == 3.0
    assert list(inspect.signature(function).parameters) == [each.name for each in fields(Example)]
    with pytest.raises(TypeError, match="model"):
        function()
    with pytest.raises(TypeError, match="overlapp"):
        function("x", overlapp=3)


def test_a_field_without_an_option_is_told():
    @dataclass
    class Bare:
        model: Path

    with pytest.raises(TypeError, match=r"Bare\.model has no Option"):
        described(Bare)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_help_of_its_command(name):
    done = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    shown = " ".join(done.output.split())
    for field, (_, option) in described(COMMANDS[name]).items():
        assert option.argument or flag_of(field, option) in shown, field
        assert option.help in shown, field
        assert not option.group or f"{option.group}:" in shown


def test_predict_takes_images_in_memory_besides():
    """The options of its command, of which only files need the folder of the results, and the spacing of arrays."""
    parameters = inspect.signature(medseg.predict).parameters
    assert list(parameters) == [*(each.name for each in fields(COMMANDS["predict"])), "spacing_mm", "affine"]
    assert [name for name, each in parameters.items() if each.default is inspect.Parameter.empty] == ["model", "inputs"]


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_the_functions_at_the_top_take_the_options_of_their_commands(name):
    parameters = inspect.signature(getattr(medseg, name)).parameters
    assert [(p.name, p.default) for p in parameters.values()] == [
        (each.name, inspect.Parameter.empty if each.default is MISSING else each.default)
        for each in fields(COMMANDS[name])
    ]


def test_what_a_consensus_depends_on_is_listed():
    work = {"output", "image", "annotation", "name", "data", "section", "studies", "tag", "jobs", "num_shards", "shard",
            "write_back", "overwrite", "strict"}  # fmt: skip
    assert {each.name for each in fields(ConsensusOptions)} == work | set(OF_A_RESULT)


def test_former_names_work_and_say_so():
    for name in ("train", "predict", "evaluate"):
        module = importlib.import_module(f"medseg.workflows.{name}")
        with pytest.warns(FutureWarning, match=f"medseg.workflows.{name}.{name} is now medseg.{name}"):
            assert getattr(module, name) is getattr(medseg, name)
    done = subprocess.run([sys.executable, "-m", "medseg.label.standins"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "is now `python -m medseg.serve.standins`" in done.stderr
    done = CliRunner().invoke(app, ["label", "start", "--studies", "none", "--models", "none", "--print"])
    assert "`medseg label start` is now `medseg serve`" in done.stderr


def test_importing_medseg_and_its_command_loads_nothing_heavy():
    code = "import sys, medseg.cli; print([m for m in ('torch', 'monai', 'numpy', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
