"""The report of a training run: `report.html`, which needs no network and no file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from medseg.atomic import write_whole
from medseg.bundle.components import describe
from medseg.config.pipeline import Pipeline
from medseg.manifest.manifest import Manifest, streams_of
from medseg.portable.inference.components import Rule
from medseg.records import read_record
from medseg.workflows.reports.formatting import describe_computer, format_number
from medseg.workflows.reports.pages import ShownPicture, Table, data_uri, render_page
from medseg.workflows.reports.paths import without_folders
from medseg.workflows.train.postprocessing.evidence import Evidence
from medseg.workflows.train.postprocessing.run import CHOSEN, MEASURED, PICTURES
from medseg.workflows.train.report.curves import draw_trainings, read_trainings
from medseg.workflows.train.report.sheets import read_sheets
from medseg.workflows.train.report.watched import draw_watched
from medseg.workflows.train.run_folder import PLAN, describe_validation
from medseg.workflows.train.self_training.labelling.measured import FILE, read_measured
from medseg.workflows.train.self_training.report.measured_table import measured_table

PAGE = "report.html"
"""Name of the page, in the run folder."""

SUMMARY = "summary.html"
"""The page of rounds of pseudo-labels, in the folder of their stage."""


@dataclass(frozen=True)
class StructureRow:
    """How well one structure is found in the validation cases.

    Args:
        name: of it.
        before: mean Dice without post-processing.
        after: with it.
        lowest: name of the case with the lowest Dice.
        dice: case -> Dice with post-processing.
        rule: of post-processing; None: none helps.
    """

    name: str
    before: float
    after: float
    lowest: str
    dice: Mapping[str, float]
    rule: Rule | None


def write_training_report(
    run: Path, pipeline: Pipeline, manifest: Manifest, command: str, *, segments: bool = True
) -> Path:
    """Write the page of a finished run.

    Args:
        run: its folder.
        pipeline: with its plan.
        manifest: its data set.
        command: that repeats it.
        segments: whether the run left a bundle that predicts, and not an encoder.

    Raises:
        OutputError: the page cannot be written.
    """
    evidence = _read_evidence(run)
    trainings = read_trainings(run)
    curves, watched = draw_trainings(trainings), draw_watched(trainings)
    structures = _structure_rows(evidence, _read_rules(run))
    pictures = _pictures(run, manifest, _dice_of_cases(evidence))
    labelled = [case for case in manifest.validation if case.label and segments]
    page = render_page(
        "training.html",
        title=f"medseg: {pipeline.name}",
        pipeline=pipeline,
        data=manifest.name or manifest.path.name,
        cases=_count_cases(manifest),
        judged=len(labelled),
        iterations=sum(training.iterations for training in trainings),
        trainings=len(trainings),
        segments=segments,
        found=describe_validation(run) if segments else "",
        mean=fmean(row.after for row in structures) if structures else None,
        structures=_structure_table(structures),
        pictures=pictures,
        unseen=len(labelled) - len(pictures),
        sheets=read_sheets(run),
        measured=measured_table(_read_measured(run)),
        curves=data_uri(curves) if curves else None,
        watched=data_uri(watched) if watched else None,
        plan=_rows(read_record(run / PLAN)),
        versions=_rows(read_record(run / "versions.json")),
        summaries=sorted(path.relative_to(run).as_posix() for path in run.rglob(SUMMARY)),
        command=without_folders(command),
        computer=describe_computer(),
    )
    return write_whole(run / PAGE, page)


def _count_cases(manifest: Manifest) -> str:
    """How many cases are learnt from, by what is known of them, those with tags where there are some."""
    streams = streams_of(manifest)
    counts = {"labelled": len(streams["labeled"]), "unlabelled": len(streams["unlabeled"])}
    if streams["weak"]:
        counts["with tags only"] = len(streams["weak"])
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _rows(values: Mapping[str, object]) -> Table:
    rows = [[name, without_folders(str(value))] for name, value in values.items()]
    return Table(["", ""], rows, words=True)


def _read_evidence(run: Path) -> dict[str, list[Evidence]]:
    """What the validation cases say of each structure; nothing where none has a label."""
    structures = read_record(run / MEASURED).get("notes", {}).get("structures", {})
    return {name: [Evidence.of_plain(each) for each in cases] for name, cases in structures.items() if cases}


def _read_rules(run: Path) -> dict[str, Rule | None]:
    """The rule of each structure; of a fold those that all folds chose together."""
    chosen = read_record(run / CHOSEN) or read_record(run.parent / CHOSEN)
    return {row["structure"]: row["rule"] for row in chosen.get("structures", [])}


def _read_measured(run: Path) -> dict[str, dict[str, Any]]:
    """Stage -> how right the pseudo-labels are that it made for the next one; rounds have a page of their own."""
    found = {}
    folders = [path.parent for path in run.glob(f"stage*/labels/{FILE}")]
    for folder in sorted(folders, key=lambda folder: int(folder.parent.name.removeprefix("stage"))):
        found[folder.parent.name] = read_measured(folder)
    return found


def _structure_rows(evidence: Mapping[str, Sequence[Evidence]], rules: Mapping[str, Rule | None]) -> list[StructureRow]:
    rows = []
    for name, cases in evidence.items():
        rule = rules.get(name)
        after = {case.case: case.dice(rule) for case in cases}
        before = fmean(case.dice(None) for case in cases)
        rows.append(
            StructureRow(name, before, fmean(after.values()), min(after, key=lambda case: after[case]), after, rule)
        )
    return rows


def _structure_table(rows: Sequence[StructureRow]) -> Table | None:
    """Dice of each structure on the validation cases, on the grids of their files; None where nothing was measured."""
    if not rows:
        return None
    texts = []
    for row in rows:
        lowest = f"{row.dice[row.lowest]:.3f} ({row.lowest})"
        kept = "all components" if row.rule is None else describe(row.rule)
        gain = "-" if row.rule is None else f"{row.after - row.before:+.3f}"
        texts.append([row.name, str(len(row.dice)), f"{row.after:.3f}", lowest, kept, gain])
    return Table(["structure", "cases", "mean Dice", "lowest", "kept", "gain"], texts)


def _dice_of_cases(evidence: Mapping[str, Sequence[Evidence]]) -> dict[str, float]:
    """Case -> mean Dice over its structures, as its picture shows them: without post-processing."""
    values: dict[str, list[float]] = {}
    for cases in evidence.values():
        for each in cases:
            values.setdefault(each.case, []).append(each.dice(None))
    return {name: fmean(found) for name, found in values.items()}


def _pictures(run: Path, manifest: Manifest, dice: Mapping[str, float]) -> list[ShownPicture]:
    """The validation cases that were drawn, the worst first."""
    labelled = [case.name for case in manifest.validation if case.label]
    drawn = [number for number in range(len(labelled)) if (run / PICTURES / f"{number}.png").is_file()]
    drawn.sort(key=lambda number: dice.get(labelled[number], 1.0))
    shown = []
    for number in drawn:
        content = (run / PICTURES / f"{number}.png").read_bytes()
        score = format_number(dice.get(labelled[number]), 3)
        shown.append(ShownPicture(data_uri(content), f"{labelled[number]}: mean Dice {score}"))
    return shown
