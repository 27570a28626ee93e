"""The report page of the demonstration."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.atomic import write_whole
from medseg.manifest.manifest import SECTIONS, Manifest
from medseg.workflows.demo.figures import TITLES, side_by_side
from medseg.workflows.demo.result import Result
from medseg.workflows.reports.formatting import describe_computer, format_duration, format_number
from medseg.workflows.reports.pages import Table, data_uri, render_page

NO_CHANGE = 0.0005
"""Differences of Dice below this are shown as 0.000."""


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Args:
        output: folder of the demonstration.
        manifest_path: of the generated data.
        results: "supervised" and "dmpct".
        pseudo_labels: round -> their mean Dice with the hidden truth.
        training: the command.
        seconds: "data", "training" and "all".
        seed: of everything.
        quick: whether it is the small one, whose metrics mean nothing.
    """

    output: Path
    manifest_path: Path
    results: Mapping[str, Result]
    pseudo_labels: Mapping[int, float]
    training: str
    seconds: Mapping[str, float]
    seed: int
    quick: bool

    @property
    def run(self) -> Path:
        """Folder of the training."""
        return self.output / "dmpct"

    def dice(self, method: str) -> float:
        """Mean Dice on the test scans."""
        return self.results[method].dice


@dataclass(frozen=True)
class OrganRow:
    """Metrics of one organ, or the mean of all: each of the supervised networks and of DMPCT, None where undefined."""

    name: str
    dice: tuple[float | None, float | None]
    hd95_mm: tuple[float | None, float | None]
    surface_dice: tuple[float | None, float | None]

    @property
    def gain(self) -> float | None:
        """Dice of DMPCT less Dice of the supervised networks."""
        supervised, dmpct = self.dice
        if supervised is None or dmpct is None:
            return None
        return dmpct - supervised

    @property
    def trend(self) -> str:
        """Class of the style sheet for the gain."""
        if self.gain is None or abs(self.gain) < NO_CHANGE:
            return "soft"
        return "up" if self.gain > 0 else "down"


def write_report(report: Report) -> Path:
    """Write `report.html` and return it.

    Raises:
        OutputError: it cannot be written.
    """
    return write_whole(report.output / "report.html", render_report(report))


def render_report(report: Report) -> str:
    """The page as HTML."""
    manifest = Manifest.load(report.manifest_path)
    supervised, dmpct = report.dice("supervised"), report.dice("dmpct")
    gain = dmpct - supervised
    first, second = report.results["supervised"].evaluation, report.results["dmpct"].evaluation
    gain_of_case = _gains(report.results)
    organs = [_organ_row(name, first["classes"][name], second["classes"][name]) for name in first["classes"]]
    folders = {method: result.predictions for method, result in report.results.items()}
    return render_page(
        "demo.html",
        title="medseg demonstration",
        few=len(manifest.training),
        many=len(manifest.unlabeled),
        tested=len(manifest.test),
        quick=report.quick,
        supervised=supervised,
        dmpct=dmpct,
        gain=gain,
        error_closed=gain / (1 - supervised) if gain > 0 else 0.0,
        better=sum(each > 0 for each in gain_of_case.values()),
        compared=len(gain_of_case),
        organs=organs,
        mean=_organ_row("mean of organs", first["mean"], second["mean"]),
        tolerance_mm=first["tolerance_mm"],
        comparison=data_uri(side_by_side(manifest, folders, _cases_to_show(gain_of_case))),
        curves=data_uri((report.run / "summary.png").read_bytes()),
        pseudo_labels=_pseudo_labels(report),
        montage=data_uri(report.results["dmpct"].picture.read_bytes()),
        seed=report.seed,
        times=_times(manifest, report),
        command=_command(report),
        steps=_steps(report),
        computer=describe_computer(),
    )


def _gains(results: Mapping[str, Result]) -> dict[str, float]:
    """Case -> Dice of DMPCT less Dice of the supervised networks."""
    supervised, dmpct = _case_dice(results["supervised"]), _case_dice(results["dmpct"])
    return {name: dmpct[name] - supervised[name] for name in supervised if name in dmpct}


def _case_dice(result: Result) -> dict[str, float]:
    cases = result.evaluation["cases"]
    return {case["case"]: case["mean_dice"] for case in cases if case["mean_dice"] is not None}


def _cases_to_show(gains: Mapping[str, float]) -> list[str]:
    """The cases that gained most, a middle gain, and least."""
    ranked = sorted(gains, key=lambda name: gains[name])
    chosen = [ranked[-1], ranked[len(ranked) // 2], ranked[0]]
    return list(dict.fromkeys(chosen))


def _organ_row(name: str, supervised: Mapping[str, Any], dmpct: Mapping[str, Any]) -> OrganRow:
    def pair(metric: str) -> tuple[float | None, float | None]:
        return supervised[metric]["mean"], dmpct[metric]["mean"]

    return OrganRow(name, pair("dice"), pair("hd95_mm"), pair("surface_dice"))


def _pseudo_labels(report: Report) -> Table:
    rows = [[f"round {number}", format_number(dice, 3)] for number, dice in report.pseudo_labels.items()]
    return Table(["pseudo-labels of", "mean Dice"], rows)


def _times(manifest: Manifest, report: Report) -> Table:
    scans = sum(len(getattr(manifest, section)) for section in SECTIONS)
    trainings = len(list(report.run.glob("round*/*/last.pt")))
    seconds = {
        f"generating {scans} scans": report.seconds["data"],
        f"training {trainings} networks, with all pseudo-labels": report.seconds["training"],
    }
    for method, result in report.results.items():
        for step, taken in result.seconds.items():
            seconds[f"{step}, {TITLES[method]}"] = taken
    seconds["everything"] = report.seconds["all"]
    rows = [[step, format_duration(taken)] for step, taken in seconds.items()]
    return Table(["", ""], rows, total=True)


def _command(report: Report) -> str:
    """The command that makes the whole demonstration again."""
    options = ["--output", str(report.output), "--seed", str(report.seed)]
    if report.quick:
        options.append("--quick")
    return _beside_output(report, shlex.join(["medseg", "demo", *options]))


def _steps(report: Report) -> list[str]:
    """The commands of its steps after the data is there."""
    commands = [report.training]
    for result in report.results.values():
        commands += result.commands
    return [_beside_output(report, command) for command in commands]


def _beside_output(report: Report, command: str) -> str:
    """A command as it is typed in the folder that holds the demonstration's: the page may be passed on."""
    return command.replace(str(report.output), report.output.name)
