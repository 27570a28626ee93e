"""Options of `medseg predict`, checked before any file is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from medseg.errors import ConfigError
from medseg.options import Option, check_types

MODEL, WORK = "Model", "Many cases"
IMPLAUSIBLE = ("warn", "refuse")


@dataclass(frozen=True)
class PredictOptions:
    """Which images to segment, with which model, and how."""

    model: Annotated[
        tuple[Path, ...], Option("Run folder or bundle; of several, and of folds, the mean.", ("--model", "-m"))
    ]
    inputs: Annotated[Path, Option("An image, a folder of images, DICOM folder(s), or a manifest.", ("--input", "-i"))]
    output: Annotated[Path, Option("Folder to write.", ("--output", "-o"))]
    section: Annotated[str | None, Option("List of the manifest to predict; default test.")] = None
    series: Annotated[str | None, Option("UID of the DICOM series, if the folder holds several.")] = None
    format: Annotated[str, Option("nifti, png (2D), nrrd, dicom-seg or rtstruct; auto: as the image.")] = "auto"
    overlay: Annotated[bool, Option("Also draw the labels over the images, in overlays/.")] = False
    probabilities: Annotated[bool, Option("Also write class probabilities, in steps of 1/255.")] = False

    views: Annotated[tuple[str, ...], Option("Ask this view alone; may be repeated.", ("--view",), MODEL)] = ()
    fusion: Annotated[str | None, Option("Of several views: vote, any (that sees it), or mean.", group=MODEL)] = None
    mirror: Annotated[bool, Option("Average over mirrored images (slower).", group=MODEL)] = False
    overlap: Annotated[float | None, Option("Overlap of windows, 0 to below 1.", group=MODEL)] = None
    postprocessing: Annotated[bool, Option("Keep only the components that the model's rules keep.", group=MODEL)] = True
    largest: Annotated[
        tuple[str, ...], Option("Structure to keep in one piece, or all; may be repeated.", ("--largest",), MODEL)
    ] = ()
    device: Annotated[str, Option("auto, cpu, cuda, cuda:N or mps.", group=MODEL)] = "auto"

    implausible: Annotated[str, Option("Of a case unlike those of training: warn, or refuse.", group=WORK)] = "warn"
    overwrite: Annotated[bool, Option("Do finished cases again.", group=WORK)] = False
    strict: Annotated[bool, Option("Stop at the first case that fails.", group=WORK)] = False
    report: Annotated[bool, Option("Write a page with volumes, warnings and pictures.", group=WORK)] = True
    num_shards: Annotated[int, Option("Split the cases over this many commands.", group=WORK)] = 1
    shard: Annotated[int, Option("Which part this command does, from 0.", group=WORK)] = 0

    def __post_init__(self) -> None:
        # needs numpy, which `medseg --help` does not wait for
        from medseg.workflows.predict.results.formats import suffix_of

        check_types(self)
        if not self.model:
            raise ConfigError("--model is missing: accepted are run folders and bundles")
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise ConfigError(f"--overlap {self.overlap} is not in [0, 1)")
        if self.implausible not in IMPLAUSIBLE:
            raise ConfigError(f"--implausible {self.implausible}: accepted are {', '.join(IMPLAUSIBLE)}")
        suffix_of(self.format)

    @property
    def report_name(self) -> str:
        """File name of the report."""
        part = "" if self.num_shards == 1 else f"_{self.shard}_of_{self.num_shards}"
        return f"predict_report{part}.json"
