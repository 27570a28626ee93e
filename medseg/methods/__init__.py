"""One paper, one file. To add a method: write its file, add one line here and one YAML in `pipelines/`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from medseg.errors import ConfigError
from medseg.typed import typed

if TYPE_CHECKING:
    from torch import nn

    from medseg.method import Method

METHODS: dict[str, str] = {
    "supervised": "medseg.methods.supervised:Supervised",
    "dtc": "medseg.methods.dtc:DTC",
    "dmpct": "medseg.methods.dmpct:DMPCT",
}


def find(name: str) -> type[Method]:
    """The class of a method: a name of `METHODS`, or `module:Class` or `file.py:Class` of your own.

    Raises:
        ConfigError: no such method.
    """
    target = METHODS.get(name, name)
    module_name, _, class_name = target.rpartition(":")
    if not module_name:
        raise ConfigError(f"method {name!r} is not known; one of {', '.join(METHODS)}, or FILE.py:Class of your own")
    try:
        found = getattr(_module(module_name), class_name)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise ConfigError(f"method {name!r} cannot be loaded: {error}") from error
    return found


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # so that loader workers can unpickle what the method sends them
    spec.loader.exec_module(module)
    return module


def build(name: str, network: nn.Module, *, classes: int, previous: nn.Module | None = None, **options: Any) -> Method:
    """A method around a network; options are the keywords of its constructor.

    Raises:
        ConfigError: an unknown method or option, or a value that the method refuses.
    """
    kind = find(name)
    known = [p for p in inspect.signature(kind).parameters if p not in ("network", "classes", "previous")]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"method {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    try:
        hints = get_type_hints(kind.__init__)
    except NameError:  # a user's own file may import types for its type checker only: it has to check values itself
        hints = {}
    options = typed(options, hints, f"method {name}")
    try:
        return kind(network, classes=classes, previous=previous, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"method {name}: {error}") from error
