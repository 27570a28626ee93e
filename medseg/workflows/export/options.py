"""Options of `medseg export`, checked before any file is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from medseg.errors import ConfigError
from medseg.options import Option, check_types

FORMATS = {"onnx": ".onnx"}
"""What `--format` takes, and the ending of each."""


@dataclass(frozen=True)
class ExportOptions:
    """Which model to write for other programs, and where."""

    model: Annotated[Path, Option("Run folder or bundle.", argument=True)]
    output: Annotated[Path, Option("File to write.", ("--output", "-o"))]
    format: Annotated[str, Option("onnx.")] = "onnx"
    view: Annotated[str | None, Option("Of a model with several networks, the view to take.")] = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.format not in FORMATS:
            raise ConfigError(f"--format {self.format}: accepted is {', '.join(FORMATS)}")
        ending = FORMATS[self.format]
        if self.output.suffix.lower() != ending:
            raise ConfigError(f"--output {self.output}: accepted is a file that ends in {ending}")
