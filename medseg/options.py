"""Options of commands: one dataclass each, from which command line, Python API, records and documents come.

A field of such a class is `Annotated[type, Option("What it does.")]`. `medseg.cli.commands` makes flags of the fields,
`api` makes a Python function of the class and the function that runs it, `plain` makes values for JSON. Options are
checked when the object is made, before any file is opened, whoever makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from medseg.errors import ConfigError

P = ParamSpec("P")
Options = TypeVar("Options")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Option:
    """What people read of an option.

    Args:
        help: one phrase.
        flags: of the command line; by default `--field-name`.
        group: heading under which `--help` lists it.
        argument: given by its place on the command line, without a flag.
        metavar: what a value looks like in `--help`.
    """

    help: str
    flags: tuple[str, ...] = ()
    group: str = ""
    argument: bool = False
    metavar: str | None = None


def described(kind: type) -> dict[str, tuple[Any, Option]]:
    """Field name -> type and `Option` of a class of options, in order.

    Raises:
        TypeError: a field without an `Option`.
    """
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for each in fields(kind):
        hint = hints[each.name]
        options = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Option)]
        if get_origin(hint) is not Annotated or not options:
            raise TypeError(f"{kind.__name__}.{each.name} has no Option")
        found[each.name] = (get_args(hint)[0], options[0])
    return found


def check_types(options: Any) -> None:
    """Bring the values of an object of options to the types of its fields, such as `Path` for a string; in place.

    Raises:
        ConfigError: a value of another type, with the name of the option.
    """
    for name, (hint, option) in described(type(options)).items():
        value = getattr(options, name)
        if get_origin(hint) is tuple:
            value = several(value)
        object.__setattr__(options, name, _typed(value, hint, flag_of(name, option)))


def flag_of(name: str, option: Option) -> str:
    """How people know an option: its longest flag, or the name of an argument."""
    if option.argument:
        return name.upper()
    flags = option.flags or (f"--{name.replace('_', '-')}",)
    return max(flags, key=len).split("/")[0]


def plain(options: Any) -> dict[str, Any]:
    """The options as values for JSON."""
    return {each.name: _plain(getattr(options, each.name)) for each in fields(options)}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def api(kind: Callable[P, Options], run: Callable[[Options], Result]) -> Callable[P, Result]:
    """A function that takes the fields of a class of options as its arguments.

    Args:
        kind: the class of options.
        run: does the work of one object of it.
    """

    @wraps(run)
    def call(*args: P.args, **keywords: P.kwargs) -> Result:
        try:
            options = kind(*args, **keywords)
        except TypeError as error:  # an unknown, a missing or a doubled argument, as Python tells it
            raise TypeError(str(error).replace("__init__()", f"{run.__name__}()")) from None
        return run(options)

    setattr(call, "__wrapped__", kind)  # noqa: B010  # its signature is that of the class
    return call


def typed(options: Mapping[str, Any], hints: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The options in the types that are asked for, such as 1.0 for 1; those without a hint as they are.

    Args:
        options: name -> value.
        hints: name -> type, as of `typing.get_type_hints`.
        owner: whose options they are, for the message.

    Raises:
        ConfigError: a value of another type.
    """
    checked = {}
    for name, value in options.items():
        checked[name] = _typed(value, hints[name], f"{name} of {owner}") if name in hints else value
    return checked


def _typed(value: Any, hint: Any, what: str) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        wanted = " or ".join(dict.fromkeys(problem["msg"] for problem in error.errors()))
        raise ConfigError(f"{what} is {value!r}: {wanted}") from error


def several(value: Sequence[Any] | Any | None) -> tuple[Any, ...]:
    """One value (a text, a path, a class) or several as a tuple; None is none."""
    if value is None:
        return ()
    if isinstance(value, str | Path | type):
        return (value,)
    return tuple(value)
