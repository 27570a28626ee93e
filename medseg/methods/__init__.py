"""Methods, one file per paper. To add one: write its file, add one line here and one YAML in `pipelines/`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_type_hints

from medseg.errors import ConfigError
from medseg.methods._own import Given, OwnMethod, load_classes, locate_methods
from medseg.options import typed

if TYPE_CHECKING:
    from torch import nn

    from medseg.method import Method

__all__ = [
    "METHODS",
    "REMEDY",
    "RENAMED_OPTIONS",
    "Given",
    "OwnMethod",
    "build",
    "find",
    "former_options",
    "locate_methods",
    "methods_in_use",
    "use_methods",
]

METHODS: dict[str, str] = {
    "supervised": "medseg.methods.supervised:Supervised",
    "dtc": "medseg.methods.dtc:DTC",
    "dmpct": "medseg.methods.dmpct:DMPCT",
}

RENAMED_OPTIONS: dict[str, dict[str, str]] = {
    "dmpct": {"sure_background": "background_confidence", "sure_rounds": "background_confidence_rounds"},
}
"""Method -> former name of an option -> its name. Pipelines of earlier runs may have the former name, and the hashes
in run folders are made with it, so that earlier runs can be resumed."""

REMEDY = "a method of your own is named on the command line: --method FILE.py:Class"

_OWN: dict[str, tuple[OwnMethod, type[Method]]] = {}
"""Methods that the user named, while a command uses them."""


@contextmanager
def use_methods(own: Sequence[OwnMethod]) -> Iterator[None]:
    """Execute the files of the user's own methods; inside the block `find` finds them.

    Raises:
        ConfigError: a file that cannot be executed, or holds no such method.
    """
    with load_classes(own) as classes:
        before = dict(_OWN)
        _OWN.update({each.name: (each, classes[each.name]) for each in own})
        try:
            yield
        finally:
            _OWN.clear()
            _OWN.update(before)


def methods_in_use() -> tuple[OwnMethod, ...]:
    """The user's own methods that the running command was given."""
    return tuple(own for own, _ in _OWN.values())


def find(name: str) -> type[Method]:
    """The class of a method: a name of `METHODS`, or a class that the user named.

    Raises:
        ConfigError: no such method; nothing is imported for a name that is not known.
    """
    if name in _OWN:
        return _OWN[name][1]
    if name not in METHODS:
        raise ConfigError(f"method {name!r} is not known; one of {', '.join(METHODS)}", hint=REMEDY)
    module, _, class_name = METHODS[name].rpartition(":")
    return getattr(importlib.import_module(module), class_name)


def former_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a method by the names that the hashes in run folders are made with."""
    former = {new: old for old, new in RENAMED_OPTIONS.get(name, {}).items()}
    return {former.get(option, option): value for option, value in options.items()}


def build(name: str, network: nn.Module, *, classes: int, previous: nn.Module | None = None, **options: Any) -> Method:
    """A method around a network; options are the keywords of its constructor.

    Raises:
        ConfigError: an unknown method or option, or a value that the method refuses.
    """
    kind = find(name)
    arguments = inspect.signature(kind).parameters
    accepted = [argument for argument in arguments if argument not in ("network", "classes", "previous")]
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ConfigError(f"method {name} has no option {unknown[0]!r}; it has {', '.join(accepted) or 'none'}")
    try:
        hints = get_type_hints(kind.__init__)
    except NameError:  # a user's own file may import types for its type checker only: it has to check values itself
        hints = {}
    options = typed(options, hints, f"method {name}")
    try:
        return kind(network, classes=classes, previous=previous, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"method {name}: {error}") from error
