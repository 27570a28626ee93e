"""Options of `medseg data check` and `medseg data init`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from medseg.options import Option, check_types


@dataclass(frozen=True)
class CheckOptions:
    """Which manifest to check, and how thoroughly."""

    manifest: Annotated[Path, Option("Manifest to check.", argument=True)]
    as_json: Annotated[bool, Option("A report for programs.", ("--json",))] = False
    headers_only: Annotated[bool, Option("Fast: do not read voxels.")] = False

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class InitOptions:
    """What to make a manifest of."""

    source: Annotated[
        Path, Option("Decathlon file, nnU-Net raw folder, or folder of images and labels.", argument=True)
    ]
    output: Annotated[Path, Option("Manifest to write.", ("--output", "-o"))]
    validation: Annotated[float, Option("Share of labelled subjects to hold out.")] = 0.0
    seed: Annotated[int, Option("Of that choice.")] = 0
    kind: Annotated[str, Option("auto, decathlon, nnunet or folders.")] = "auto"
    name: Annotated[str | None, Option("Name of the data set.")] = None
    modality: Annotated[str | None, Option("CT, MR, ... where the source does not say.")] = None

    def __post_init__(self) -> None:
        check_types(self)
