"""Options of `medseg serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from medseg.options import Option, check_types

ACCESS = "Who may use it"


@dataclass(frozen=True)
class ServeOptions:
    """What to serve, where, and to whom."""

    studies: Annotated[str, Option("Folder of images, or address of a DICOMweb server.")]
    models: Annotated[tuple[Path, ...], Option("Run folders or bundles; several may follow.")]
    further_models: Annotated[tuple[Path, ...], Option("Further models.", argument=True, metavar="MODEL")] = ()
    work: Annotated[Path, Option("Folder for logs, copied and trained models.")] = Path("runs/label")
    print_only: Annotated[bool, Option("Print the command instead of running it.", ("--print",))] = False

    host: Annotated[str, Option("Address to listen on; others can reach 0.0.0.0.", group=ACCESS)] = "127.0.0.1"
    port: Annotated[int, Option("Port to listen on.", group=ACCESS)] = 8000
    origin: Annotated[
        tuple[str, ...], Option("Another address whose web pages may use the server; repeatable.", group=ACCESS)
    ] = ()
    no_token: Annotated[bool, Option("Answer everybody who reaches the server.", group=ACCESS)] = False
    max_upload_mb: Annotated[int, Option("MiB that a request with files may have.", group=ACCESS)] = 2048

    def __post_init__(self) -> None:
        check_types(self)
