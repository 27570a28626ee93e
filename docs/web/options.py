"""Shows functions such as `medseg.train` with the options that they take as their arguments.

In the sources these are `train = api(TrainOptions, run_training)`: the class of options has the arguments, the function
that runs has the rest of the text.
"""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import MISSING, fields
from typing import Any

import griffe

SECTION = re.compile(r"^(?=(?:Returns|Raises|Examples|Yields):)", re.MULTILINE)


class OptionsAsArguments(griffe.Extension):
    """Makes a function of each attribute whose value is a call of `medseg.options.api`."""

    def on_package(self, *, pkg: griffe.Module, **others: Any) -> None:
        """Change the tree once it is read."""
        for module in _modules(pkg):
            for attribute in [one for one in module.attributes.values() if not one.is_alias]:
                call = attribute.value
                if isinstance(call, griffe.ExprCall) and str(call.function) == "api":
                    module.set_member(attribute.name, _function(module, attribute, *map(str, call.arguments)))


def _modules(module: griffe.Module) -> list[griffe.Module]:
    below = [one for one in module.modules.values() if not one.is_alias]
    return [module, *(found for each in below for found in _modules(each))]


def _function(module: griffe.Module, attribute: griffe.Attribute, options: str, runs: str) -> griffe.Function:
    """The function as people call it."""
    kind = getattr(importlib.import_module(module.resolve(options).rpartition(".")[0]), options)
    parameters = griffe.Parameters()
    rows = []
    for name, (hint, option) in importlib.import_module("medseg.options").described(kind).items():
        default = next(each.default for each in fields(kind) if each.name == name)
        parameters.add(
            griffe.Parameter(
                name,
                annotation=_words_of(hint),
                default=None if default is MISSING else repr(default),
                kind=griffe.ParameterKind.positional_or_keyword,
            )
        )
        rows.append(f"    {name}: {option.help}")
    doer = module[runs]
    made = griffe.Function(attribute.name, parameters=parameters, returns=doer.returns, lineno=attribute.lineno)
    made.docstring = griffe.Docstring(_text(doer.docstring.value, rows), parent=made, parser="google")
    return made


def _words_of(hint: Any) -> str:
    """A type as it is written in sources."""
    return hint.__name__ if inspect.isclass(hint) else re.sub(r"\b(?:pathlib|typing)\.", "", str(hint))


def _text(text: str, rows: list[str]) -> str:
    """A docstring with other arguments; what it says of the object of options becomes a paragraph."""
    opening, *sections = SECTION.split(inspect.cleandoc(text))
    first, _, arguments = opening.partition("Args:\n")
    said = re.search(r"^ +options: (.*?)(?=^ {4}\w+:|\Z)", arguments, re.MULTILINE | re.DOTALL)
    parts = [first.strip()]
    if said:
        words = " ".join(said[1].split())
        parts.append(words[0].upper() + words[1:])
    parts += ["Args:\n" + "\n".join(rows), *(section.strip() for section in sections)]
    return "\n\n".join(parts)
