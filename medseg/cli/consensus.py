"""Options of `medseg consensus`: they are many, and each says what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Image = Annotated[
    list[Path] | None,
    typer.Option("--image", "-i", help="The image, one file per channel; a DICOM folder; or a folder of images."),
]
Annotation = Annotated[
    list[Path] | None, typer.Option("--annotation", "-a", help="A rater's file or folder; repeat for each rater.")
]
Series = Annotated[str | None, typer.Option(help="UID of the image's DICOM series, if its folder holds several.")]
Name = Annotated[list[str] | None, typer.Option("--name", help="Of each rater, in the same order.")]
Data = Annotated[Path | None, typer.Option(help="Manifest whose cases have annotations: fuse them all.")]
Section = Annotated[str | None, typer.Option(help="List of the manifest; default all.")]
Studies = Annotated[Path | None, typer.Option(help="MONAI Label studies folder: fuse labels/TAG of each image.")]
Tag = Annotated[
    list[str] | None, typer.Option("--tag", help="Which tags are raters; default all but final and original.")
]
Method = Annotated[str, typer.Option("--method", "-m", help="gcssl, majority, staple, ml-staple, simple or sba.")]
Compare = Annotated[bool, typer.Option("--compare", help="Also run every other method and compare.")]
Reference = Annotated[Path | None, typer.Option(help="True labels, to measure against; no method sees them.")]
Weights = Annotated[str | None, typer.Option(help="logodds, sc, uniform, or numbers: 0.5,0.3,0.2.")]
Smoothness = Annotated[float | None, typer.Option(help="Total smoothness; 0 for the weighted vote.")]
Neighbours = Annotated[int | None, typer.Option(help="4 or 8 in a picture, 6, 18 or 26 in a volume.")]
Ssl = Annotated[bool | None, typer.Option("--ssl/--no-ssl", help="Whether raters vote where they left something out.")]
Tie = Annotated[str | None, typer.Option(help="Of majority: background, lowest, undecided or prior.")]
Seed = Annotated[int | None, typer.Option(help="Of what is random in the method.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any other option of the method: NAME=VALUE.")]
MissingValue = Annotated[str, typer.Option(help="Label value of what was not annotated, or none.")]
Region = Annotated[list[str] | None, typer.Option("--region", help="NAME=FILE: mask of what the rater annotated.")]
Partial = Annotated[
    list[str] | None, typer.Option("--partial-protocol", help="NAME:CLASS: the rater did not look for it.")
]
Label = Annotated[list[str] | None, typer.Option("--label", help="VALUE=NAME of a class.")]
Probabilities = Annotated[
    bool, typer.Option("--probabilities", help="Files of fractions or several channels are probabilities.")
]
Channel = Annotated[str | None, typer.Option(help="Of an image with several: a number from 0, or all.")]
Resample = Annotated[str | None, typer.Option(help="nearest or linear: bring other grids to the image's.")]
Nan = Annotated[str | None, typer.Option(help="zero: replace NaN in the image.")]
ExportSoft = Annotated[str | None, typer.Option(help="uint8 or float16: also write each class's share of votes.")]
ToleranceMm = Annotated[float, typer.Option(help="Of the surface Dice, in mm.")]
WithReport = Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")]
WithViewer = Annotated[bool, typer.Option("--viewer/--no-viewer", help="With an interactive viewer in it (2.5 MB).")]
Jobs = Annotated[int | None, typer.Option(help="Processes for many studies; default one per core.")]
NumShards = Annotated[int, typer.Option(help="Split the studies over this many commands.")]
Shard = Annotated[int, typer.Option(help="Which part this command does, from 0.")]
WriteBack = Annotated[bool, typer.Option("--write-back", help="Copy each consensus to labels/final of --studies.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Do finished studies again.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first study that fails.")]
