"""What is made to be passed on (bundles, cards, pages, tables) holds no absolute path and no name of a case."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from forking import python
from tiny import write_dataset

from medseg.manifest.manifest import Manifest
from medseg.workflows.reports.paths import without_folders

PATHS = (
    ("medseg compare --data /home/anna/la/set.json -o runs/la", "medseg compare --data set.json -o runs/la"),
    ("--set 'network.weights.file=/home/an na/w.pth'", "--set 'network.weights.file=w.pth'"),
    (r"C:\Users\anna\x.nii.gz: is damaged", "x.nii.gz: is damaged"),
    ("~/data/m.json", "m.json"),
    ('["/x/y.json", "/z.json"]', '["y.json", "z.json"]'),
    ("'/a b/c d/e.json'", "'e.json'"),
)
NO_PATHS = ("../data/x.json", "data/la/x.json", "1 / 2", "3 mm/s", "https://example.org/a/b", "a/b, CE/CT")


@pytest.mark.parametrize(("given", "shown"), PATHS)
def test_folders_of_absolute_paths_are_left_out(given, shown):
    assert without_folders(given) == shown


@pytest.mark.parametrize("text", NO_PATHS)
def test_other_text_stays(text):
    assert without_folders(text) == text


def test_a_bundle_has_no_path_and_no_case(tmp_path):
    manifest = write_dataset(tmp_path / "hospital")
    first = train(manifest, tmp_path / "first")
    second = train(manifest, tmp_path / "second", "--init-from", first)
    cases = [case.name for case in Manifest.load(manifest).cases]
    for bundle in (first / "bundle", second / "bundle"):
        files = [path for path in bundle.rglob("*") if path.is_file() and "scripts" not in path.parts]
        assert any(path.name == "model.pt" for path in files)
        for path in files:
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content, path.name
            for case in cases:
                assert case.encode() not in content, path.name


def train(manifest: Path, output: Path, *more: object) -> Path:
    """A run of two iterations."""
    small = ["stages.0.schedule.iterations=2", "stages.0.network.width=4", "data.patch=[16,16,16]"]
    words = ["--task", "supervised", "--data", manifest, "--output", output, "--device", "cpu", *more]
    words += [word for setting in small for word in ("--set", setting)]
    command = [python(), "-m", "medseg", "train", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return output
