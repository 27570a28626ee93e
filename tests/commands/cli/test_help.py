"""What commands say of themselves: lists for programs, an example of each command, near names, completion."""

from __future__ import annotations

import json
import os
import shlex
import subprocess

import pytest
import typer
from forking import python
from tiny_sets import called
from typer.testing import CliRunner

from medseg.cli.app import app
from medseg.cli.examples import EXAMPLES
from medseg.consensus.methods import DESCRIPTIONS, FUSERS
from medseg.methods import METHODS


def test_the_list_for_programs(capfd):
    code, said = called(capfd, "list", "--json")
    assert code == 0
    found = json.loads(said)
    assert list(found) == ["pipelines", "pretraining", "methods", "networks", "consensus", "augmentation"]
    assert found["methods"] == list(METHODS)
    described = [*found["pipelines"], *found["pretraining"], *found["consensus"]]
    assert all(set(each) == {"name", "description"} and each["description"] for each in described)
    assert {"dtc", "supervised"} <= {each["name"] for each in found["pipelines"]}


def test_methods_of_consensus_are_listed(capfd):
    assert list(DESCRIPTIONS) == list(FUSERS)
    _, said = called(capfd, "list")
    assert "consensus (medseg consensus --method)" in said
    for name, description in DESCRIPTIONS.items():
        assert f"  {name:<22} {description}" in said


def commands() -> list[str]:
    """All that have a `--help`, but the former name of `serve`."""
    group = typer.main.get_command(app)
    names = [name for name in group.commands if name != "label"]
    return [*names, *(f"data {name}" for name in group.commands["data"].commands)]


def test_every_command_has_an_example():
    assert sorted(EXAMPLES) == sorted(commands())


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_are_in_the_help_and_are_understood(name):
    """They stand on a line of their own, and their options are those of the command."""
    shown = CliRunner().invoke(app, [*name.split(), "--help"]).output
    assert f"\n  Example:\n    {EXAMPLES[name]}\n" in shown
    program, *words = shlex.split(EXAMPLES[name])
    assert program == "medseg"
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    with command.make_context(name, words):
        pass


def test_the_shell_completes_commands():
    """As bash asks: which commands begin with `pre`?"""
    asked = {"_MEDSEG_COMPLETE": "complete_bash", "COMP_WORDS": "medseg pre", "COMP_CWORD": "1"}
    done = subprocess.run(
        [python(), "-m", "medseg"], env=os.environ | asked, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["pretrain", "predict"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["train", "--task", "supervisd", "--data", "m.json"],
            "task 'supervisd' is not known; did you mean supervised?",
        ),
        (["consensus", "-a", "a.nii.gz", "-o", "out", "--method", "stapel"], "no method stapel; did you mean staple"),
    ],
)
def test_near_names(words, told, tmp_path, capfd):
    code, said = called(capfd, *words)
    assert (code, told in said) == (2, True), said
