"""Running a command: errors become one line and an exit code, an interruption the command that continues."""

from __future__ import annotations

import errno
import io
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

from medseg.errors import MedsegError
from medseg.stopping import Stopped, describe_stop

_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[
    2
]  # ClickException, which newer typers carry inside themselves
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EDQUOT)
COMPLETE = "_MEDSEG_COMPLETE"
"""Variable by which the completion of a shell calls."""

_CONTINUABLE = ("train", "pretrain", "predict", "compare", "consensus")
"""Commands that find what is finished when they are called again."""


_NO_MEMORY = "there is too little memory for this; close other programs, or give smaller inputs"


def run_command(app: typer.Typer, arguments: Sequence[str]) -> NoReturn:
    """Run `medseg ARGUMENTS` and exit.

    Exit codes: 0 done; 1 done, and some cases failed or the data has errors; 2 a mistake, explained in one line; 130
    stopped by Ctrl-C; 143 stopped by SIGTERM.
    """
    if COMPLETE in os.environ:  # a shell asks what may come next: typer answers and exits
        typer.main.get_command(app)(prog_name="medseg")
    # --debug is understood wherever it stands: people add it at the end of the line that failed
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal cannot write must not cost the result
    try:
        with _interrupt_on_sigterm():
            _invoke(app, [word for word in arguments if word != "--debug"])
    except KeyboardInterrupt as stop:
        _exit_stopped(describe_stop(stop), arguments, debug=debug)
    except _USAGE_ERROR as problem:
        message = problem.format_message()  # type: ignore[attr-defined]
        if type(problem).__name__ == "NoArgsIsHelpError":
            typer.echo(message)
            sys.exit(0)
        context = problem.ctx  # type: ignore[attr-defined]
        words = context.command_path.split()[1:] if context is not None else []  # without the name of the program
        _fail(f"{message} (see {' '.join(['medseg', *words])} --help)", 2, debug=debug)
    except (MedsegError, MemoryError) as error:
        _fail(str(error) if isinstance(error, MedsegError) else _NO_MEMORY, 2, debug=debug)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of the output is gone; nothing is left to flush at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(1)
        if error.errno not in _OUTPUT_ERRORS:
            raise
        _fail(f"{error.filename or 'output'}: {error.strerror}", 2, debug=debug)
    sys.exit(0)


def _invoke(app: typer.Typer, arguments: list[str]) -> None:
    """Do what the command's own `main` does, which would hide an interruption and its message."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("medseg", arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        if end.exit_code:
            sys.exit(end.exit_code)


@contextmanager
def _interrupt_on_sigterm() -> Iterator[None]:
    """Treat SIGTERM, by which schedulers stop a job, like Ctrl-C: reports are written, files are whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number=number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_stopped(stop: Stopped, arguments: Sequence[str], *, debug: bool) -> NoReturn:
    code = 128 + stop.number
    if os.environ.get("RANK", "0") != "0":
        sys.exit(code)
    further = continue_command(arguments)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # all is written: a further signal must not print a traceback
    _fail(f"{stop}; {further}" if further else str(stop), code, debug=debug, prefix="")


def continue_command(arguments: Sequence[str]) -> str:
    """The command that continues an interrupted one, with a verb before it; empty for a server.

    Args:
        arguments: of the command that was stopped.
    """
    name = next((word for word in arguments if not word.startswith("-")), "")
    if name in ("serve", "label"):
        return ""
    further = list(arguments)
    if name in ("train", "pretrain") and "--resume" not in further:
        further.append("--resume")
    if name in _CONTINUABLE and "--write-back" not in further:
        further = [word for word in further if word != "--overwrite"]  # it would do again what is done
    verb = "continue with" if name in _CONTINUABLE else "begin again with"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > int(os.environ.get("LOCAL_WORLD_SIZE", processes)):
        return f"{verb} the same torchrun command on every machine, and --resume"
    launcher = _program()
    if processes > 1:
        launcher = ["torchrun", f"--nproc_per_node={processes}", "-m", "medseg"]
    return f"{verb}: {shlex.join([*launcher, *further])}"


def _program() -> list[str]:
    """The words of the command line by which this program was called."""
    original = sys.orig_argv
    for place in range(1, len(original)):
        if original[place - 1 : place + 1] == ["-m", "medseg"]:
            return original[: place + 1]
    called = sys.argv[0]
    if Path(called).name != "medseg" or shutil.which("medseg") == called:
        return ["medseg"]
    return [called]


def _fail(line: str, code: int, *, debug: bool, prefix: str = "error: ") -> NoReturn:
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"{prefix}{line}\n")
    sys.exit(code)
