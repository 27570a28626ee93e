"""`medseg serve`: a MONAI Label server, so that 3D Slicer and OHIF can use models and collect labels."""

from __future__ import annotations

import os
import signal

import typer

from medseg.cli.commands import add_command
from medseg.serve.options import ServeOptions

label_app = typer.Typer(help="Former name of `medseg serve`.", no_args_is_help=True, rich_markup_mode=None)


@label_app.callback()
def former() -> None:
    """Former name of `medseg serve`."""


def serve(options: ServeOptions) -> None:
    """Serve models to 3D Slicer and OHIF by a MONAI Label server.

    It prints a token that clients need, or takes that of the environment variable MEDSEG_TOKEN.
    """
    from medseg.engine.allocator import keep_freed_memory

    if not options.print_only:
        keep_freed_memory(threads=True)  # before anything is imported that starts threads
    from medseg.serve import start as server
    from medseg.serve.access import settings as access_settings

    access = access_settings.check_access(
        options.host, options.origin, not options.no_token, options.max_upload_mb, os.environ
    )
    if not options.print_only:
        server.check_port(options.host, options.port)
    models = [*options.models, *options.further_models]
    app, environment = server.prepare(options.studies, models, options.work, access)
    arguments = server.arguments(app, options.studies, options.host, options.port)
    for warning in access_settings.warnings_of(access):
        typer.echo(f"warning: {warning}", err=True)
    if options.print_only:
        typer.echo(server.line(arguments, environment))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as servers, and the processes that they start, have it
        server.become_server(arguments, environment)


def label_start(options: ServeOptions) -> None:
    """Former name of `medseg serve`."""
    typer.echo("warning: `medseg label start` is now `medseg serve`; the old name goes with the next release", err=True)
    serve(options)


add_command(label_app, "start", ServeOptions, label_start)
