"""The `Examples` in the docstrings of what users call print what they say they print."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import pytest
from document_data import write_dicom
from models import make_bundle, make_image
from tiny import write_dataset


def write_my_scans(folder: Path) -> None:
    """`my_scans/manifest.json` with two labelled and two unlabelled cases."""
    write_dataset(folder / "my_scans").rename(folder / "my_scans/manifest.json")


def write_run_and_scans(folder: Path) -> None:
    """`runs/first`, a run folder with a bundle, and two images in `new_scans/`."""
    write_run(folder)
    for case in ("case1", "case2"):
        make_image(folder / f"new_scans/{case}.nii.gz")


def write_run(folder: Path) -> None:
    make_bundle(folder / "runs/first/bundle")


def write_nothing(folder: Path) -> None:
    """The example makes what it needs."""


WITH_EXAMPLES: dict[str, Callable[[Path], None]] = {
    "medseg:train": write_my_scans,
    "medseg:predict": write_run_and_scans,
    "medseg:evaluate": write_nothing,
    "medseg:fuse": write_nothing,
    "medseg.bundle.bundle:open_bundle": write_run,
    "medseg.consensus.fuse:resolve_options": write_nothing,
    "medseg.consensus.fusers.majority:majority": write_nothing,
    "medseg.consensus.fusers.staple:staple": write_nothing,
    "medseg.consensus.statistics.inter_rater_agreement:agreement": write_nothing,
    "medseg.dicom.scan.series:open_series": write_dicom,
    "medseg.dicom.writing.write_seg:write_segmentation": write_dicom,
    "medseg.manifest.manifest:Manifest.load": write_nothing,
    "medseg.metrics:segmentation_metrics": write_nothing,
}
"""Module and name of each function whose examples are run -> what writes the files that they read."""


@pytest.mark.parametrize("place", WITH_EXAMPLES)
def test_examples_print_what_they_say(place, tmp_path, monkeypatch):
    WITH_EXAMPLES[place](tmp_path)
    module_name, name = place.split(":")
    module = importlib.import_module(module_name)
    monkeypatch.chdir(tmp_path)  # whatever an example writes is left there
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(attrgetter(name)(module), name, module=module, globs=dict(vars(module)))
    assert test.examples, f"{place} has no examples"
    assert not any(doctest.SKIP in example.options for example in test.examples), f"{place} skips an example"
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
