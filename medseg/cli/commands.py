"""Sub-commands made from classes of options: each field becomes a flag, with its help, default and group."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from medseg.cli.examples import with_example
from medseg.options import Option, described

HELP = {"help_option_names": ["-h", "--help"]}


def add_command(app: typer.Typer, name: str, kind: type, run: Callable[[Any], None], *, group: str = "") -> None:
    """Add a command to an application.

    Args:
        app: the application.
        name: of the command.
        kind: class of its options (`medseg.options`).
        run: what it does; its docstring is the command's help.
        group: that the command is in, such as `data`.
    """

    def call(**given: Any) -> None:
        run(kind(**given))

    options = described(kind)
    parameters = []
    for field in fields(kind):
        hint, option = options[field.name]
        parameters.append(_parameter(field, hint, option))
    call.__doc__ = with_example(inspect.getdoc(run) or "", f"{group} {name}".strip())
    call.__name__ = run.__name__
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command(name, cls=_grouped(kind), context_settings=HELP)(call)


def _parameter(field: Any, hint: Any, option: Option) -> inspect.Parameter:
    """A field as the parameter of a function that typer reads."""
    default = _default(field)
    metavar = option.metavar
    hint, many = _item_type(hint)
    if many:
        metavar = metavar or ("PATH" if hint is Path else "TEXT")
        hint = list[hint]
        if default is not inspect.Parameter.empty:
            default = list(default)
    flags = option.flags or _flags(field.name, hint, default)
    if option.argument:
        info = typer.Argument(help=option.help, metavar=metavar)
    else:
        info = typer.Option(*flags, help=option.help, metavar=metavar)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, info]
    )


def _default(field: Any) -> Any:
    """The default of a field as `inspect` has it."""
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    return inspect.Parameter.empty


def _item_type(hint: Any) -> tuple[Any, bool]:
    """The type of one value, and whether the option may be repeated."""
    origin = get_origin(hint)
    many = isinstance(origin, type) and issubclass(origin, Sequence)
    if many:
        hint = get_args(hint)[0]
    return (str if hint is Any else hint), many


def _flags(name: str, hint: Any, default: Any) -> tuple[str, ...]:
    flag = f"--{name.replace('_', '-')}"
    may_be_bool = get_origin(hint) in (Union, UnionType) and bool in get_args(hint)
    if (hint is bool or may_be_bool) and default is not False:
        return (f"{flag}/--no-{flag[2:]}",)
    return (flag,)


def _grouped(kind: type) -> type[TyperCommand]:
    """A command whose `--help` lists the options under the headings of their class."""
    groups = {name: option.group for name, (_, option) in described(kind).items()}

    class Grouped(TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:
            sections: dict[str, list[tuple[str, str]]] = {}
            for parameter in self.get_params(ctx):
                record = parameter.get_help_record(ctx)
                if record is not None:
                    heading = groups.get(parameter.name or "") or "Options"
                    sections.setdefault(heading, []).append(record)
            for heading, records in sections.items():
                with formatter.section(heading):
                    formatter.write_dl(records)

    return Grouped
