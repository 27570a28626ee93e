"""Values of options against the types that a function's signature gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medseg.errors import ConfigError


def typed(options: Mapping[str, Any], hints: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The options in the types that are asked for, such as 1.0 for 1; those without a hint as they are.

    Args:
        options: name -> value.
        hints: name -> type, as of `typing.get_type_hints`.
        owner: whose options they are, for the message.

    Raises:
        ConfigError: a value of another type.
    """
    return {
        name: _typed(value, hints[name], name, owner) if name in hints else value for name, value in options.items()
    }


def _typed(value: Any, hint: Any, name: str, owner: str) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        wanted = " or ".join(dict.fromkeys(problem["msg"] for problem in error.errors()))
        raise ConfigError(f"{name} of {owner} is {value!r}: {wanted}") from error
