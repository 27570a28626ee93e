"""Commands and snippets of the documents: taken out of the Markdown, and run as a reader would run them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "docs/install.md",
    "docs/manifest.md",
    "docs/predicting.md",
    "docs/consensus.md",
    "docs/compare.md",
    "docs/choosing.md",
    "docs/cluster.md",
    "docs/own_method.md",
    "docs/serving.md",
    "docs/architecture.md",
    "docs/security.md",
    "docs/results/README.md",
    "docs/results/supervised.md",
    "docs/results/settings.md",
    "docs/results/dtc.md",
    "docs/results/dmpct.md",
    "docs/results/few_labels.md",
    "docs/results/image_tags.md",
    "docs/results/consensus.md",
    "docs/results/robustness.md",
    "docs/results/peers.md",
    "docs/results/speed.md",
    "pipelines/README.md",
    "comparisons/README.md",
    "data_manifests/README.md",
    "benchmarks/README.md",
    "CONTRIBUTING.md",
)
"""In the order in which a reader opens them: what an earlier one makes is there for a later one."""

ELSEWHERE = "serving/tests/test_documents.py"
"""Runs the blocks that need MONAI Label; those that name it."""

LANGUAGES = ("bash", "python", "json", "yaml")
"""Of the blocks that can be run; `text` and whatever else needs a reason not to be."""

PATIENCE = float(os.environ.get("MEDSEG_PATIENCE", "1"))
LONGEST = 600 * PATIENCE  # seconds of one command

REMARK = re.compile(r"<!--\s*(?:(?P<left>not run)|run by (?P<test>\S+?)):(?P<reason>.*?)-->\s*", re.DOTALL)
NAMED = re.compile(r"# (\w+\.(?:py|yaml))\n")
DURATION = re.compile(r"\d+(?:\.\d+)?[smh]")
PLACE = re.compile(r"(?:https?:/|\w[\w.-]*)?(?:/[\w.:-]+)+/?")


@dataclass(frozen=True)
class Block:
    """A fenced or indented block of code.

    Attributes:
        document: as in `DOCUMENTS`.
        line: of its first line of code, from 1.
        language: after the fence; empty for an indented block.
        text: the code.
        test: file of the test that runs it, where that is another one.
        reason: why it is not run, or not run here; None where nothing is said.
    """

    document: str
    line: int
    language: str
    text: str
    test: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def runs_here(self) -> bool:
        """Nothing beside it says that it is not run, or by another test."""
        return self.reason is None


def blocks_of(document: str, text: str | None = None) -> list[Block]:
    """All blocks of code of a document, in its order.

    Args:
        document: as in `DOCUMENTS`.
        text: of the document, if it is not the file's.
    """
    tokens = MarkdownIt().parse((ROOT / document).read_text(encoding="utf-8") if text is None else text)
    found = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type not in ("fence", "code_block"):
            continue
        remark = REMARK.fullmatch(before.content) if before is not None and before.type == "html_block" else None
        first = token.map[0] + (2 if token.type == "fence" else 1)
        said = {"test": remark["test"], "reason": remark["reason"].strip()} if remark else {}
        found.append(Block(document, first, token.info.strip(), token.content, **said))
    return found


def complaint(block: Block) -> str | None:
    """What is wrong with a block before it is run; None: nothing."""
    if block.reason == "":
        return f"{block}: the reason why it is not run is empty"
    if block.test not in (None, ELSEWHERE):
        return f"{block}: {block.test} is said to run it; only {ELSEWHERE} runs what other tests leave out"
    if block.runs_here and block.language not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        return f"{block}: is {block.language or 'of no language'}, not {known}, and <!-- not run: REASON --> is missing"
    return None


def commands_of(text: str) -> list[str]:
    """The commands of a shell block: its lines, with those that end in a backslash joined to the next."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def replace(text: str, table: Mapping[str, str]) -> str:
    """The text with every duration or place of the table replaced, and nothing else."""
    for old, new in table.items():
        text = re.sub(rf"(?<![\w./]){re.escape(old)}(?![\w])", new.replace("\\", r"\\"), text)
    return text


def is_fair(old: str, new: str) -> bool:
    """Whether a line of the table replaces a duration by a duration or a place by a place."""
    return any(kind.fullmatch(old) and kind.fullmatch(new) for kind in (DURATION, PLACE))


def told(table: Mapping[str, str]) -> str:
    """The table, to be printed."""
    lines = [f"    {old:<40} {new}" for old, new in table.items()]
    return "\n".join(["", "replaced in the documents before they are run:", *lines])


class Terminal:
    """A shell whose folder and variables stay from one command to the next.

    Args:
        folder: where it is opened.
        variables: of the environment, beside those of this process.
        programs: folder with the programs `python` and `medseg`, in place of those of this environment.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None, programs: Path | None = None) -> None:
        self.interpreter = str((programs or Path(sys.executable).parent) / "python")
        places = [str(place) for place in (programs, Path(sys.executable).parent) if place]
        path = os.pathsep.join([*places, os.environ.get("PATH", "")])
        modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.folder = folder
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": modules, **(variables or {})}

    def do(self, block: Block, table: Mapping[str, str]) -> None:
        """Run a shell or Python block, or read a YAML block.

        A snippet that opens with its name, `# NAME.py` or `# NAME.yaml`, is left there for the commands after it.

        Raises:
            AssertionError: a command failed; what it said is in the words.
        """
        text = replace(block.text, table)
        if block.language == "python":
            self.python(text, block)
            return
        if block.language == "yaml":
            assert yaml.safe_load(text) is not None, f"{block}: is empty"
            if named := NAMED.match(text):
                (self.folder / named[1]).write_text(text, encoding="utf-8")
            return
        for command in commands_of(text):
            self.command(command, block)

    def command(self, command: str, block: Block) -> None:
        """Run one command and keep the folder and the variables that it leaves."""
        state = self.folder / f".state-{os.getpid()}"
        keeps = f'{command}\nstatus=$?\nenv -0 > {shlex.quote(str(state))}\nexit "$status"\n'
        try:
            self._finish(["bash", "-o", "pipefail", "-c", keeps], command, block)
            pairs = state.read_text(encoding="utf-8").split("\0")
        finally:
            state.unlink(missing_ok=True)
        self.environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        self.folder = Path(self.environment["PWD"])

    def python(self, text: str, block: Block) -> None:
        """Run a snippet as a file; one that trains must bear to be imported by the processes that training starts."""
        named = NAMED.match(text)
        script = self.folder / (named[1] if named else f"snippet_{block.line}.py")
        script.write_text(text, encoding="utf-8")
        try:
            self._finish([self.interpreter, script.name], script.name, block)
            if "train(" in text:
                code = f"import runpy; runpy.run_path({script.name!r}, run_name='__mp_main__')"
                self._finish([self.interpreter, "-c", code], f"the processes that {script.name} starts", block)
        finally:
            if not named:
                script.unlink()

    def _finish(self, arguments: list[str], called: str, block: Block) -> None:
        """Wait for a command in a session of its own, so that nothing that it started is left if it takes too long."""
        process = subprocess.Popen(
            arguments, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{block}: not done after {LONGEST:g} s\n{called}\n{error.output or ''}") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert process.returncode == 0, f"{block}: exit code {process.returncode} of\n{called}\n{said[-3000:]}"
