"""Methods and rules of the user's own: named on the command line or given by Python code, never by a file."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from medseg.atomic import real_path
from medseg.errors import ConfigError

if TYPE_CHECKING:
    from medseg.method import Method, PseudoLabels

Given: TypeAlias = "str | type[Method] | type[PseudoLabels]"
"""`FILE.py:Class`, or the class."""


@dataclass(frozen=True)
class OwnMethod:
    """A method or pseudo-label rule of the user's own by its name and file; nothing of the file has run yet.

    Attributes:
        name: of the class, by which a pipeline calls it.
        option: the command-line option or argument that named it, for messages.
        file: that holds it.
        sha256: of the file; None where the class of a notebook has none.
        kind: the class, where Python code gave it.
    """

    name: str
    option: str
    file: Path | None
    sha256: str | None
    kind: type[Method] | type[PseudoLabels] | None = None


def locate_methods(given: Given | Sequence[Given] | None) -> tuple[OwnMethod, ...]:
    """The methods that a user named, their files found but not executed.

    Args:
        given: one or several `FILE.py:Class` or classes.

    Raises:
        ConfigError: no such file, or no name of a class.
    """
    several = [given] if isinstance(given, str | type) else list(given or ())
    own = [_locate_file(each) if isinstance(each, str) else _locate_class(each) for each in several]
    names: set[str] = set()
    for method in own:
        if method.name in names:
            raise ConfigError(f"--method names two classes called {method.name}", hint="rename one of them")
        names.add(method.name)
    return tuple(own)


def _locate_file(text: str) -> OwnMethod:
    file, _, name = text.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ConfigError(f"--method {text!r}: accepted is FILE.py:Class, a file of yours and the class in it")
    path = Path(file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--method {text!r}: {file} cannot be read ({error.strerror})") from error
    return OwnMethod(name, f"--method {text}", path, hashlib.sha256(content).hexdigest())


def _locate_class(kind: type[Method] | type[PseudoLabels]) -> OwnMethod:
    try:
        path = Path(inspect.getsourcefile(kind) or "")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (TypeError, OSError):  # defined in a notebook or at a prompt
        return OwnMethod(kind.__name__, f"method={kind.__name__}", None, None, kind)
    return OwnMethod(kind.__name__, f"method={kind.__name__}", path, digest, kind)


@contextmanager
def load_classes(own: Sequence[OwnMethod]) -> Iterator[dict[str, type[Method] | type[PseudoLabels]]]:
    """Execute the files and give the classes by name; afterwards Python's modules are as they were.

    A file is a module of its own name in a folder that is searched for modules, so that worker processes find what the
    method sends them, and so that the file can import its neighbours.

    Raises:
        ConfigError: a file that cannot be executed, or holds no such class.
    """
    modules = dict(sys.modules)
    path = list(sys.path)
    executed: dict[Path, ModuleType] = {}
    try:
        yield {each.name: _load_class(each, executed) for each in own}
    finally:
        sys.path[:] = path
        for module in executed.values():
            before = modules.get(module.__name__)
            if before is None:
                sys.modules.pop(module.__name__, None)
            else:
                sys.modules[module.__name__] = before


def _load_class(own: OwnMethod, executed: dict[Path, ModuleType]) -> type[Method] | type[PseudoLabels]:
    from medseg.method import Method, PseudoLabels

    kind: Any = own.kind
    if kind is None and own.file is not None:
        file = real_path(own.file)
        if file not in executed:
            _execute(own, file, executed)
        kind = getattr(executed[file], own.name, None)
        if kind is None:
            raise ConfigError(f"{own.option}: there is no {own.name} in {own.file}")
    is_ours = isinstance(kind, type) and issubclass(kind, Method | PseudoLabels)
    if not is_ours:
        raise ConfigError(f"{own.option}: {own.name} is no class derived from medseg.method.Method or PseudoLabels")
    if inspect.isabstract(kind):
        raise ConfigError(f"{own.option}: {own.name} does not define {', '.join(sorted(kind.__abstractmethods__))}")
    return kind


def _execute(own: OwnMethod, file: Path, executed: dict[Path, ModuleType]) -> None:
    _refuse_name_of_module(own, file)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    executed[file] = module
    sys.modules[file.stem] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code may raise anything
        reason = " ".join(str(error).split()) or "no words"
        raise ConfigError(f"{own.option}: {own.file} cannot be loaded ({type(error).__name__}: {reason})") from error


def _refuse_name_of_module(own: OwnMethod, file: Path) -> None:
    """Refuse a file called like an existing module: workers and importers would take the one for the other."""
    name = file.stem
    if "." in name:
        raise ConfigError(f"{own.option}: {name} is no name of a module, which has no dot", hint="rename the file")
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module without a file, such as __main__
        origin: str | None = "loaded already"
    else:
        origin = None if spec is None else spec.origin
    if origin is not None and real_path(Path(origin)) != file:
        raise ConfigError(f"{own.option}: {name} is also a module of Python ({origin})", hint="rename the file")
