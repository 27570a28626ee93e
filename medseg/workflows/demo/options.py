"""Options of `medseg demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from medseg.options import Option, check_types


@dataclass(frozen=True)
class DemoOptions:
    """Where and how large."""

    output: Annotated[Path, Option("Folder to write.", ("--output", "-o"))] = Path("demo")
    seed: Annotated[int, Option("Of the generated data and the training.")] = 0
    quick: Annotated[bool, Option("A smaller one, to see that everything works.")] = False

    def __post_init__(self) -> None:
        check_types(self)
