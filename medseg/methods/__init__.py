"""One paper, one file. To add one: write its file, add one line here and one YAML in `pipelines/`."""

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
    from medseg.method import Method, Networks, PseudoLabels, Stream

__all__ = [
    "METHODS",
    "REMEDY",
    "RULES",
    "Given",
    "OwnMethod",
    "build",
    "build_rule",
    "find",
    "find_rule",
    "find_streams",
    "locate_methods",
    "methods_in_use",
    "use_methods",
]

METHODS: dict[str, str] = {
    "supervised": "medseg.methods.supervised:Supervised",
    "dtc": "medseg.methods.dtc:DTC",
    "mean_teacher": "medseg.methods.mean_teacher:MeanTeacher",
    "ael": "medseg.methods.ael:AEL",
    "crest": "medseg.methods.crest:CReST",
    "tag_classifier": "medseg.methods.tag_classifier:TagClassifier",
    "auxsegnet": "medseg.methods.auxsegnet:AuxSegNet",
    "wilson": "medseg.methods.wilson:Wilson",
    "group_wsss": "medseg.methods.group_wsss:GroupWSSS",
    "s4l": "medseg.methods.s4l:S4L",
    "rotation": "medseg.methods.rotation:Rotation",
    "exemplar": "medseg.methods.exemplar:Exemplar",
    "colorization": "medseg.methods.colorization:Colorization",
    "inpainting": "medseg.methods.inpainting:Inpainting",
    "mix_and_match": "medseg.methods.mix_and_match:MixAndMatch",
}

RULES: dict[str, str] = {
    "dmpct": "medseg.methods.dmpct:VoteOfViews",
    "crest": "medseg.methods.crest:ClassRebalanced",
    "tag_maps": "medseg.methods.tag_classifier:TagMaps",
    "auxsegnet": "medseg.methods.auxsegnet:SaliencyFusion",
    "group_wsss": "medseg.methods.group_wsss:SaliencyColouring",
    "s4l": "medseg.methods.s4l:MeanRotations",
    "true_labels": "medseg.methods.s4l:TrueLabels",
}
"""Pseudo-label rules."""

REMEDY = "a class of your own is named on the command line: --method FILE.py:Class"

_OWN: dict[str, tuple[OwnMethod, type[Method] | type[PseudoLabels]]] = {}
"""Classes that the user named, while a command uses them."""


@contextmanager
def use_methods(own: Sequence[OwnMethod]) -> Iterator[None]:
    """Execute the files of the user's own classes; inside the block `find` and `find_rule` find them.

    Raises:
        ConfigError: a file that cannot be executed, or holds no such class.
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
    """The user's own classes that the running command was given."""
    return tuple(own for own, _ in _OWN.values())


def find(name: str) -> type[Method]:
    """The class of a method: a name of `METHODS`, or a class that the user named.

    Raises:
        ConfigError: no such method; nothing is imported for a name that is not known.
    """
    from medseg.method import Method

    return _find(name, METHODS, Method, "method")


def find_rule(name: str) -> type[PseudoLabels]:
    """The class of a pseudo-label rule: a name of `RULES`, or a class that the user named.

    Raises:
        ConfigError: no such rule; nothing is imported for a name that is not known.
    """
    from medseg.method import PseudoLabels

    return _find(name, RULES, PseudoLabels, "rule")


def _find(name: str, shipped: Mapping[str, str], base: type, what: str) -> Any:
    if name in _OWN:
        kind = _OWN[name][1]
        if not issubclass(kind, base):
            raise ConfigError(f"{name} is no {what}: it is not derived from medseg.method.{base.__name__}")
        return kind
    if name not in shipped:
        raise ConfigError(f"{what} {name!r} is not known; one of {', '.join(shipped)}", hint=REMEDY)
    module, _, class_name = shipped[name].rpartition(":")
    return getattr(importlib.import_module(module), class_name)


def build(name: str, networks: Networks, **options: Any) -> Method:
    """A method with its networks; options are the keywords of its constructor.

    Raises:
        ConfigError: an unknown method or option, or a value that the method refuses.
    """
    return _build(find(name), f"method {name}", networks, options)


def find_streams(name: str, options: Mapping[str, Any]) -> tuple[Stream, ...]:
    """What the batches of a method carry with these options.

    Raises:
        ConfigError: an unknown method or option, or a value that the method refuses.
    """
    kind = find(name)
    with _refusals(f"method {name}"):
        return kind.streams_of(_checked(kind, f"method {name}", options))


def build_rule(name: str, classes: int, **options: Any) -> PseudoLabels:
    """A pseudo-label rule; options are the keywords of its constructor.

    Raises:
        ConfigError: an unknown rule or option, or a value that the rule refuses.
    """
    return _build(find_rule(name), f"rule {name}", classes, options)


def _build(kind: Any, what: str, argument: Any, options: Mapping[str, Any]) -> Any:
    """An object of a class whose first argument is not an option."""
    with _refusals(what):
        return kind(argument, **_checked(kind, what, options))


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Of options, by the class that gets them."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: {error}") from error


def _checked(kind: Any, what: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that the constructor of a class has, of the types that it asks for."""
    _, *accepted = inspect.signature(kind).parameters
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ConfigError(f"{what} has no option {unknown[0]!r}; it has {', '.join(accepted) or 'none'}")
    try:
        hints = get_type_hints(kind.__init__)
    except NameError:  # a user's own file may import types for its type checker only: it has to check values itself
        hints = {}
    return typed(options, hints, what)
