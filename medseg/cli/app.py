"""The `medseg` command: one short function per sub-command, everything heavy imported inside it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from medseg.cli.commands import HELP, add_command
from medseg.cli.examples import with_example
from medseg.cli.run import run_command
from medseg.cli.serve import label_app, serve
from medseg.serve.options import ServeOptions
from medseg.workflows.compare.options import CompareOptions
from medseg.workflows.consensus.options import ConsensusOptions
from medseg.workflows.data.options import CheckOptions, InitOptions, SaliencyOptions
from medseg.workflows.demo.options import DemoOptions
from medseg.workflows.evaluate.options import EvaluateOptions
from medseg.workflows.export.options import ExportOptions
from medseg.workflows.predict.options import PredictOptions
from medseg.workflows.train.options import ALL, PlanOptions, PretrainOptions, TrainOptions

app = typer.Typer(
    name="medseg",
    no_args_is_help=True,
    context_settings=HELP,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    help=with_example("Make and check manifests.", "data"), no_args_is_help=True, rich_markup_mode=None
)


def _print_next(command: str | None) -> None:
    if command:
        typer.echo(f"next: {command}", err=True)


def _version(wanted: bool) -> None:
    if wanted:
        from medseg import __version__

        typer.echo(f"medseg {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    r"""Segment medical images when labels are scarce, weak or contradictory.

    Standard output gets the result: a table or a report, and as its last line the path of what was written. Progress,
    warnings, what failed and the next command go to standard error.

    Exit codes: 0 all is done; 1 some cases failed, or the data has errors; 2 a mistake, explained in one line; 130
    stopped by Ctrl-C; 143 stopped by SIGTERM.

    \b
    Example:
      medseg demo --quick
    """


def train(options: TrainOptions) -> None:
    """Train a pipeline on a data set; the product is a MONAI bundle in the run folder."""
    began = time.monotonic()  # the imports below take seconds, which are part of a budget
    from medseg.manifest.manifest import Manifest
    from medseg.manifest.splits import fold_manifest
    from medseg.methods import locate_methods
    from medseg.workflows.train.settings import load

    # mistakes that need no torch are found at once
    load(options.task, options.overrides, locate_methods(options.method))
    manifest = Manifest.load(options.data)
    if options.folds is not None:
        fold_manifest(manifest, options.folds, options.chosen_folds[0], options.split_seed, section="validation")
    from medseg.workflows.train.run import run_training

    run = run_training(options, began=began)
    if os.environ.get("RANK", "0") == "0":
        _tell_training(options, run)


def _tell_training(options: TrainOptions, run: Path) -> None:
    """How good the networks are, and where."""
    from medseg.cli.next_commands import judging_manifest, predict_command
    from medseg.workflows.train.run_folder import describe_validation

    if options.fold == ALL:
        for fold in options.chosen_folds:
            typer.echo(f"fold {fold}: {describe_validation(run / f'fold{fold}')}", err=True)
        typer.echo(str(run))
        data = judging_manifest(run / f"fold{options.chosen_folds[0]}", options.data)
        _print_next(predict_command(run, data, held_out=False))
        return
    typer.echo(f"{describe_validation(run)}; the bundle:", err=True)
    typer.echo(str(run / "bundle"))
    own = run / "manifest.json"
    _print_next(predict_command(run, judging_manifest(run, options.data) if options.folds is None else own))


def pretrain(options: PretrainOptions) -> None:
    """Train an encoder on all images of a data set, without labels, for `medseg train --init-from`."""
    began = time.monotonic()
    from medseg.cli.next_commands import start_command
    from medseg.workflows.train.pretrain import run_pretraining

    encoder = run_pretraining(options, began=began)
    if os.environ.get("RANK", "0") == "0":
        typer.echo(str(encoder))
        _print_next(start_command(encoder, options.data, options.overrides))


def plan(options: PlanOptions) -> None:
    """Decide spacing, patch, batch size and iterations without training, and write them as a pipeline."""
    from medseg.cli.next_commands import train_command
    from medseg.workflows.train.plan import run_plan

    run_plan(options)
    typer.echo(str(options.output))
    _print_next(train_command(options.output, options.data, options.device, options.method))


def predict(options: PredictOptions) -> None:
    """Segment images with a trained model; results lie on each image's own grid."""
    from medseg.cli.next_commands import evaluate_command
    from medseg.workflows.predict.run import run_prediction

    report = run_prediction(options)
    typer.echo(str(options.output))
    _print_next(evaluate_command(options.inputs, options.output, options.section))
    if report["failed"]:
        raise typer.Exit(1)


def evaluate(options: EvaluateOptions) -> None:
    """Compare predictions with reference labels: Dice, distances in mm, volumes; tables and a figure."""
    from medseg.workflows.evaluate.run import run_evaluation
    from medseg.workflows.evaluate.summary import problems, table

    report = run_evaluation(options)
    for line in problems(report):
        typer.echo(line, err=True)
    typer.echo(table(report))
    typer.echo(str(options.folder))
    if report["failed"]:
        raise typer.Exit(1)


def export(options: ExportOptions) -> None:
    """Write a trained network for programs without PyTorch, as ONNX, checked by onnxruntime."""
    from medseg.workflows.export.run import run_export

    typer.echo(str(run_export(options)))


def compare(options: CompareOptions) -> None:
    """Train several arms on the same data, judge them on the same cases, and say which of them to take."""
    from medseg.workflows.compare.arms.read_arms import read_comparison

    read_comparison(options)  # mistakes that need no torch are found at once
    from medseg.workflows.compare.run import run_comparison
    from medseg.workflows.compare.summary import table

    compared = run_comparison(options)
    typer.echo(table(compared.findings))
    for line in compared.findings.missing:
        typer.echo(line, err=True)
    typer.echo(str(compared.page))
    if compared.failed:
        raise typer.Exit(1)


def consensus(options: ConsensusOptions) -> None:
    """Fuse several raters' annotations of each image into one label map, and report who was trusted and why."""
    from medseg.workflows.consensus.run import consensus as fuse_studies

    failed = fuse_studies(options)["failed"]
    typer.echo(str(options.output))
    if failed:
        raise typer.Exit(1)


def data_check(options: CheckOptions) -> None:
    """Open every file of a manifest and report what is wrong with it; exit 0 if usable, 1 if not."""
    from medseg.workflows.data.check import check_manifest

    report = check_manifest(options.manifest, headers_only=options.headers_only)
    typer.echo(report.to_json() if options.as_json else report.to_text())
    if not report.ok:
        raise typer.Exit(1)


def data_init(options: InitOptions) -> None:
    """Make a manifest from data that is laid out some other way."""
    from medseg.cli.next_commands import check_command
    from medseg.workflows.data.init import run_init

    manifest = run_init(options)
    sections = ("training", "validation", "test", "unlabeled")
    counts = [f"{len(getattr(manifest, section))} {section}" for section in sections]
    typer.echo(f"{', '.join(counts)}; the manifest:", err=True)
    typer.echo(str(options.output))
    _print_next(check_command(options.output))


def data_saliency(options: SaliencyOptions) -> None:
    """Compute for each image where something may be, for methods that learn from tags and saliency."""
    from medseg.workflows.data.saliency import MANIFEST, run_saliency

    run_saliency(options)
    typer.echo(f"{options.output / 'overview.png'} shows some; the manifest with the maps:", err=True)
    typer.echo(str(options.output / MANIFEST))


@app.command(
    "list", help=with_example("List pipelines, methods, networks, augmentation and the methods of consensus.", "list")
)
def list_(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List pipelines, methods, networks, augmentation and the methods of consensus."""
    from medseg.cli.listing import as_text, everything

    found = everything()
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else as_text(found))


def demo(options: DemoOptions) -> None:
    """Generate CT-like data, train with and without unlabelled cases, predict, evaluate, write a report."""
    from medseg.workflows.demo.run import run_demo

    typer.echo(str(run_demo(options.output, seed=options.seed, quick=options.quick)))


@app.command("doctor", help=with_example("Show versions, devices, memory and what is missing.", "doctor"))
def doctor() -> None:
    """Show versions, devices, memory and what is missing; exit code 1 where medseg cannot work."""
    from medseg.cli.doctor import as_text, examine

    findings = examine()
    typer.echo(as_text(findings))
    if any(finding.serious for finding in findings):
        raise typer.Exit(1)


add_command(app, "train", TrainOptions, train)
add_command(app, "pretrain", PretrainOptions, pretrain)
add_command(app, "plan", PlanOptions, plan)
add_command(app, "predict", PredictOptions, predict)
add_command(app, "evaluate", EvaluateOptions, evaluate)
add_command(app, "export", ExportOptions, export)
add_command(app, "compare", CompareOptions, compare)
add_command(app, "consensus", ConsensusOptions, consensus)
add_command(app, "serve", ServeOptions, serve)
add_command(app, "demo", DemoOptions, demo)
add_command(data_app, "check", CheckOptions, data_check, group="data")
add_command(data_app, "init", InitOptions, data_init, group="data")
add_command(data_app, "saliency", SaliencyOptions, data_saliency, group="data")
app.add_typer(data_app, name="data")
app.add_typer(label_app, name="label", hidden=True)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and turn what goes wrong into one line and an exit code."""
    run_command(app, sys.argv[1:] if arguments is None else arguments)
