"""Keys of a pipeline that are not known: which they are, what they may have meant, and what is accepted there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel


def unknown_key(model: type[BaseModel], place: Sequence[int | str], shown: Sequence[int | str]) -> str:
    """What is said of a key that a model does not have.

    Args:
        model: that was checked.
        place: of the key in it, as errors of pydantic give it.
        shown: the place as the user knows it.

    Examples:
        >>> from medseg.config.pipeline import Stage
        >>> unknown_key(Stage, ("method", "nme"), ("stages", 0, "method", "nme"))
        "stages.0.method has no key 'nme'; did you mean name? accepted are name, options"
    """
    *above, key = [str(part) for part in shown]
    where = ".".join(above) or "a pipeline"
    accepted = _accepted(model, place[:-1])
    if not accepted:
        return f"{where} has no key {key!r}"
    meant = did_you_mean(key, accepted) or ";"
    return f"{where} has no key {key!r}{meant} accepted are {', '.join(accepted)}"


def did_you_mean(name: str, accepted: Iterable[str]) -> str:
    """A question after a name that is not known; empty where none is near.

    Examples:
        >>> did_you_mean("dct", ["dtc", "supervised"]), did_you_mean("x", ["dtc"])
        ('; did you mean dtc?', '')
    """
    near = get_close_matches(name, list(accepted), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _accepted(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The keys of the model that stands at a place; empty where it cannot be told."""
    found: Any = model
    for part in place:
        if isinstance(part, str):
            fields = getattr(found, "model_fields", {})
            kind_of_extra = getattr(found, "kind_of_extra", None)
            if part in fields:
                found = _model_in(fields[part].annotation)
            else:
                found = kind_of_extra(part) if kind_of_extra else None
    return list(getattr(found, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """The model that an annotation is of, be it of several, or of none as well."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _model_in(part)
        if found is not None:
            return found
    return None
