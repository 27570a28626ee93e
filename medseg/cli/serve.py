"""`medseg label`: a MONAI Label server, so that 3D Slicer and OHIF can use models and collect labels."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

label_app = typer.Typer(help="Serve models to 3D Slicer and OHIF.", no_args_is_help=True, rich_markup_mode=None)


@label_app.callback()
def common() -> None:
    """Serve models to 3D Slicer and OHIF."""


@label_app.command(context_settings={"allow_extra_args": True})
def start(
    context: typer.Context,
    studies: Annotated[str, typer.Option(help="Folder of images, or address of a DICOMweb server.")],
    models: Annotated[list[Path], typer.Option(help="Run folders or bundles; several may follow.")],
    host: Annotated[str, typer.Option(help="Address to listen on; others can reach 0.0.0.0.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    work: Annotated[Path, typer.Option(help="Folder for logs, copied and trained models.")] = Path("runs/label"),
    origin: Annotated[
        list[str] | None, typer.Option(help="Another address whose web pages may use the server; may be given again.")
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Answer everybody who reaches the server.")] = False,
    max_upload_mb: Annotated[int, typer.Option(help="MiB that a request with files may have.")] = 2048,
    print_only: Annotated[bool, typer.Option("--print", help="Print the command instead of running it.")] = False,
) -> None:
    """Start a MONAI Label server with trained models.

    It prints a token that clients need, or takes that of the environment variable MEDSEG_TOKEN.
    """
    from medseg.engine.allocator import keep_freed_memory

    if not print_only:
        keep_freed_memory(threads=True)  # before anything is imported that starts threads
    from medseg.serve import start as server
    from medseg.serve.access import settings as who

    access = who.checked(host, origin or [], not no_token, max_upload_mb, os.environ)
    if not print_only:
        server.check_port(host, port)
    app, environment = server.prepare(studies, [*models, *map(Path, context.args)], work, access)
    arguments = server.arguments(app, studies, host, port)
    for warning in who.warnings_of(access):
        typer.echo(f"warning: {warning}", err=True)
    if print_only:
        typer.echo(server.line(arguments, environment))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as servers, and the processes that they start, have it
        server.become_server(arguments, environment)
