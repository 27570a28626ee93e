"""The `medseg` command: one short function per sub-command, everything heavy imported inside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from medseg.cli import consensus as fused
from medseg.cli.run import run as run_command
from medseg.cli.serve import label_app

app = typer.Typer(
    name="medseg",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make and check manifests.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(label_app, name="label")

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: a.b=value; repeatable.")]
OwnMethod = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="FILE.py:Class", help="A method of your own, whose file is executed; repeatable."),
]
Budget = Annotated[str | None, typer.Option(help="Time for training, e.g. 25m: the plan is made to fit this machine.")]


def _next(command: str | None) -> None:
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
    """Segment medical images when labels are scarce, weak or contradictory.

    Standard output gets the result: a table or a report, and as its last line the path of what was written. Progress,
    warnings, what failed and the next command go to standard error.

    Exit codes: 0 all is done; 1 some cases failed, or the data has errors; 2 a mistake, told in one line; 130 stopped
    by Ctrl-C; 143 stopped by SIGTERM.
    """


@app.command()
def train(
    task: Annotated[str, typer.Option(help="A pipeline: a name of `medseg list`, a YAML, or an earlier run's folder.")],
    data: Annotated[Path, typer.Option(help="Manifest of the data set.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder; default runs/TASK-DATA.")] = None,
    overrides: Overrides = None,
    method: OwnMethod = None,
    device: Device = "auto",
    budget: Budget = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    start: Annotated[Path | None, typer.Option(help="Run or bundle whose weights to start from.")] = None,
) -> None:
    """Train a pipeline on a data set; the product is a MONAI bundle in the run folder."""
    from medseg.manifest.manifest import Manifest
    from medseg.methods import named
    from medseg.workflows.train.durations import budget_seconds
    from medseg.workflows.train.settings import load

    # mistakes that need no torch are told at once
    load(task, overrides or (), named(method))
    Manifest.load(data)
    if budget is not None:
        budget_seconds(budget)
    from medseg.cli.next_commands import predict_command
    from medseg.workflows.train.run import train as run
    from medseg.workflows.train.summary import validation_words

    folder = output or Path("runs") / f"{Path(task).stem}-{data.stem}"
    done = run(
        task, data, folder, overrides=overrides or (), method=method, device=device,
        resume=resume, budget=budget, start=start,
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"{validation_words(done)}; the bundle:", err=True)
        typer.echo(str(done / "bundle"))
        _next(predict_command(done, data))


@app.command()
def plan(
    task: Annotated[str, typer.Option(help="A pipeline: a name of `medseg list` or a YAML.")],
    data: Annotated[Path, typer.Option(help="Manifest of the data set.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML to write; train it with --task.")],
    overrides: Overrides = None,
    method: OwnMethod = None,
    device: Device = "auto",
    budget: Budget = None,
) -> None:
    """Decide spacing, patch, batch and iterations without training, and write them as a pipeline."""
    from medseg.cli.next_commands import train_command
    from medseg.workflows.train.run import write_plan

    write_plan(task, data, output, overrides=overrides or (), method=method, device=device, budget=budget)
    typer.echo(str(output))
    _next(train_command(output, data, device))


@app.command()
def predict(
    model: Annotated[Path, typer.Option("--model", "-m", help="Run folder or bundle.")],
    inputs: Annotated[
        Path, typer.Option("--input", "-i", help="An image, a folder of images, DICOM folder(s), or a manifest.")
    ],
    output: Output,
    section: Annotated[str | None, typer.Option(help="List of the manifest to predict; default test.")] = None,
    series: Annotated[str | None, typer.Option(help="UID of the DICOM series, if the folder holds several.")] = None,
    format_: Annotated[str, typer.Option("--format", help="nifti, nrrd (with names), or dicom-seg.")] = "nifti",
    view: Annotated[list[str] | None, typer.Option(help="Ask this view alone; may be repeated.")] = None,
    fusion: Annotated[str | None, typer.Option(help="Of several views: vote, any (that sees it), or mean.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write class probabilities.")] = False,
    mirror: Annotated[bool, typer.Option("--mirror", help="Average over mirrored images (slower).")] = False,
    overlap: Annotated[float | None, typer.Option(help="Overlap of windows, 0 to below 1.")] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished cases again.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first case that fails.")] = False,
    num_shards: Annotated[int, typer.Option(help="Split the cases over this many commands.")] = 1,
    shard: Annotated[int, typer.Option(help="Which part this command does, from 0.")] = 0,
) -> None:
    """Segment images with a trained model; results lie on each image's own grid."""
    from medseg.cli.next_commands import evaluate_command
    from medseg.workflows.predict.run import predict as run

    report = run(
        model, inputs, output, section=section, series=series, format=format_, views=view or (),
        fusion=fusion, probabilities=probabilities, mirror=mirror, overlap=overlap, device=device,
        overwrite=overwrite, strict=strict, shard=shard, num_shards=num_shards,
    )  # fmt: skip
    typer.echo(str(output))
    _next(evaluate_command(inputs, output, section))
    if report["failed"]:
        raise typer.Exit(1)


@app.command()
def evaluate(
    prediction: Annotated[Path, typer.Option("--prediction", "-p", help="Folder of predicted label maps.")],
    reference: Annotated[Path, typer.Option("--reference", "-r", help="Manifest or folder of true label maps.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: PREDICTION/evaluation.")] = None,
    section: Annotated[str | None, typer.Option(help="List of the manifest that has the labels.")] = None,
    tolerance_mm: Annotated[float, typer.Option(help="Of the surface Dice, in mm.")] = 1.0,
    pictures: Annotated[bool, typer.Option(help="Draw the worst, median and best case.")] = True,
) -> None:
    """Compare predictions with reference labels: Dice, distances in mm, volumes; tables and a picture."""
    from medseg.workflows.evaluate.run import evaluate as run
    from medseg.workflows.evaluate.summary import problems, table

    report = run(prediction, reference, output, section=section, tolerance_mm=tolerance_mm, pictures=pictures)
    for line in problems(report):
        typer.echo(line, err=True)
    typer.echo(table(report))
    typer.echo(str(output or prediction / "evaluation"))
    if report["failed"]:
        raise typer.Exit(1)


@app.command()
def consensus(
    output: Output,
    image: fused.Image = None,
    annotation: fused.Annotation = None,
    series: fused.Series = None,
    name: fused.Name = None,
    data: fused.Data = None,
    section: fused.Section = None,
    studies: fused.Studies = None,
    tag: fused.Tag = None,
    method: fused.Method = "gcssl",
    compare: fused.Compare = False,
    reference: fused.Reference = None,
    weights: fused.Weights = None,
    smoothness: fused.Smoothness = None,
    neighbours: fused.Neighbours = None,
    ssl: fused.Ssl = None,
    tie: fused.Tie = None,
    seed: fused.Seed = None,
    settings: fused.Settings = None,
    missing_value: fused.MissingValue = "255",
    region: fused.Region = None,
    partial: fused.Partial = None,
    label: fused.Label = None,
    probabilities: fused.Probabilities = False,
    channel: fused.Channel = None,
    resample: fused.Resample = None,
    nan: fused.Nan = None,
    export_soft: fused.ExportSoft = None,
    tolerance_mm: fused.ToleranceMm = 1.0,
    report: fused.WithReport = True,
    viewer: fused.WithViewer = True,
    jobs: fused.Jobs = None,
    num_shards: fused.NumShards = 1,
    shard: fused.Shard = 0,
    write_back: fused.WriteBack = False,
    overwrite: fused.Overwrite = False,
    strict: fused.Strict = False,
) -> None:
    """Fuse several raters' annotations of each image into one label map, and report who was trusted and why."""
    given = dict(locals())
    from medseg.workflows.consensus.run import asked

    failed = asked(given)["failed"]
    typer.echo(str(output))
    if failed:
        raise typer.Exit(1)


@data_app.command("check")
def data_check(
    manifest: Annotated[Path, typer.Argument(help="Manifest to check.")],
    as_json: Annotated[bool, typer.Option("--json", help="A report for programs.")] = False,
    headers_only: Annotated[bool, typer.Option("--headers-only", help="Fast: do not read voxels.")] = False,
) -> None:
    """Open every file of a manifest and report what is wrong with it; exit 0 if usable, 1 if not."""
    from medseg.workflows.data.check import check_manifest

    report = check_manifest(manifest, headers_only=headers_only)
    typer.echo(report.to_json() if as_json else report.to_text())
    if not report.ok:
        raise typer.Exit(1)


@data_app.command("init")
def data_init(
    source: Annotated[Path, typer.Argument(help="Decathlon file, nnU-Net raw folder, or folder of images and labels.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.")],
    validation: Annotated[float, typer.Option(help="Share of labelled subjects to hold out.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of that choice.")] = 0,
    kind: Annotated[str, typer.Option(help="auto, decathlon, nnunet or folders.")] = "auto",
    name: Annotated[str | None, typer.Option(help="Name of the data set.")] = None,
    modality: Annotated[str | None, typer.Option(help="CT, MR, ... where the source does not say.")] = None,
) -> None:
    """Make a manifest from data that is laid out some other way."""
    from medseg.cli.next_commands import check_command
    from medseg.workflows.data.init import init_manifest

    made = init_manifest(source, output, kind=kind, validation=validation, seed=seed, name=name, modality=modality)
    counts = ", ".join(f"{len(getattr(made, s))} {s}" for s in ("training", "validation", "test", "unlabeled"))
    typer.echo(f"{counts}; the manifest:", err=True)
    typer.echo(str(output))
    _next(check_command(output))


@app.command("list")
def list_() -> None:
    """List pipelines, methods and networks."""
    import yaml

    from medseg.config import NETWORK_NAMES
    from medseg.methods import METHODS
    from medseg.workflows.train.settings import shipped

    typer.echo("pipelines (--task)")
    for name, path in shipped().items():
        typer.echo(f"  {name:<16} {yaml.safe_load(path.read_text(encoding='utf-8'))['description']}")
    typer.echo(f"methods    {', '.join(METHODS)}")
    typer.echo(f"networks   {', '.join(NETWORK_NAMES)}")


@app.command()
def demo(
    output: Output = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the generated data and the training.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller one, to see that everything works.")] = False,
) -> None:
    """Generate CT-like data, train with and without unlabelled cases, predict, evaluate, write a report."""
    from medseg.workflows.demo.run import run_demo

    typer.echo(str(run_demo(output, seed=seed, quick=quick)))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and turn what goes wrong into one line and an exit code."""
    run_command(app, sys.argv[1:] if arguments is None else arguments)
