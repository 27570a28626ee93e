"""The `Examples` in the docstrings of what users call print what they say they print."""

from __future__ import annotations

import doctest
import importlib

import pytest

WITH_EXAMPLES = (
    "medseg.consensus.fuse:fuse",
    "medseg.consensus.fuse:resolve_options",
    "medseg.consensus.fusers.majority:majority",
    "medseg.consensus.fusers.staple:staple",
)
"""Module and name of each function or class whose examples are run."""


@pytest.mark.parametrize("place", WITH_EXAMPLES)
def test_examples_print_what_they_say(place, tmp_path, monkeypatch):
    module_name, name = place.split(":")
    module = importlib.import_module(module_name)
    monkeypatch.chdir(tmp_path)  # whatever an example writes is left there
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(getattr(module, name), name, module=module, globs=dict(vars(module)))
    assert test.examples, f"{place} has no examples"
    said: list[str] = []
    found = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert found.failed == 0, "".join(said)


def test_an_example_that_is_wrong_fails():
    def function() -> None:
        """Adds.

        Examples:
            >>> 1 + 1
            3
        """

    (test,) = doctest.DocTestFinder().find(function, "function", globs={})
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None).failed == 1
