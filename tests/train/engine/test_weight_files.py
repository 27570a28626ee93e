"""Files of weights that are empty, cut off, changed or hold code: refused alike, whoever reads them."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from models import make_bundle
from tiny import FAST, write_dataset
from torch import nn

from medseg.bundle.bundle import open_bundle
from medseg.config.pipeline import Weights
from medseg.engine import checkpoint
from medseg.engine.run_progress import RunProgress
from medseg.errors import BundleError, CheckpointError, ConfigError
from medseg.networks.pretrained import load_weights
from medseg.networks.weight_files import UnreadableWeights, load_tensors, sha256_of
from medseg.workflows.train.run import train


class Touches:
    """Runs a command of the shell when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def good(path: Path) -> Path:
    checkpoint.save_atomic({"weight": torch.full((3, 3), 2.0)}, path)
    return path


def flipped(path: Path) -> Path:
    """One bit of a number is another: 2.0 has become 2.25, which is as good a weight as any."""
    content = good(path).read_bytes()
    at = content.index(b"\x00\x00\x00\x40" * 9)
    path.write_bytes(content[: at + 2] + b"\x10" + content[at + 3 :])
    assert torch.load(path, weights_only=True)["weight"].flatten()[0] == 2.25
    return path


def cut(path: Path) -> Path:
    path.write_bytes(good(path).read_bytes()[:-40])
    return path


def pickled(path: Path) -> Path:
    path.write_bytes(pickle.dumps({"weight": Touches(path.with_name("ran"))}, protocol=2))
    return path


def zipped_code(path: Path) -> Path:
    torch.save({"weight": Touches(path.with_name("ran"))}, path)
    return path


def script(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/constants.pkl", pickle.dumps(()))
        archive.writestr("m/data.pkl", pickle.dumps({}))
        archive.writestr("m/version", "3\n")
    return path


def written(content: bytes):
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


KINDS = {
    "empty": (written(b""), "it is empty"),
    "text": (written(b"these are notes\n" * 9), "no file of weights"),
    "zeros": (written(bytes(500)), "no file of weights"),
    "flipped": (flipped, "checksum"),
    "cut": (cut, "damaged"),
    "pickle": (pickled, "it holds code"),
    "zipped": (zipped_code, "it holds code"),
    "script": (script, "it holds code"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_weights_is_refused(kind, tmp_path):
    write, words = KINDS[kind]
    path = write(tmp_path / "model.pt")
    with pytest.raises(UnreadableWeights, match=words) as caught:
        load_tensors(path)
    told = str(caught.value)
    assert "weights_only" not in told, "torch's own words say how to execute the file"
    assert "\n" not in told
    assert not (tmp_path / "ran").exists()


def test_a_good_one_is_read(tmp_path):
    torch.testing.assert_close(load_tensors(good(tmp_path / "a.pt"))["weight"], torch.full((3, 3), 2.0))
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load_tensors(tmp_path / "old.pt")["weight"].tolist() == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_refuses_it_in_one_line(kind, tmp_path):
    path = KINDS[kind][0](tmp_path / "model.pt")
    network = nn.Linear(3, 3, bias=False)
    readers = {
        CheckpointError: [lambda: checkpoint.read(path), lambda: checkpoint.read_weights(path, network)],
        ConfigError: [lambda: load_weights(network, Weights(file=str(path)))],
    }
    for error, reads in readers.items():
        for read in reads:
            with pytest.raises(error, match=r"model\.pt: ") as caught:
                read()
            assert "\n" not in str(caught.value)


def test_weights_of_a_run_are_those_of_its_network(tmp_path):
    network = nn.Linear(3, 3, bias=False)
    checkpoint.read_weights(good(tmp_path / "best.pt"), network)
    assert network.weight.flatten().tolist() == [2.0] * 9
    with pytest.raises(CheckpointError, match="another network"):
        checkpoint.read_weights(tmp_path / "best.pt", nn.Linear(4, 4, bias=False))
    checkpoint.save_atomic([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="another network"):
        checkpoint.read_weights(tmp_path / "list.pt", network)
    checkpoint.save_atomic({"weight": torch.full((3, 3), torch.nan)}, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match="NaN"):
        checkpoint.read_weights(tmp_path / "nan.pt", network)


def test_a_bundle_with_code_for_weights_is_told_so(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    weights = bundle / "models" / "model.pt"
    description = bundle / "configs" / "medseg.json"
    before = _sha256(weights)
    shutil.copy(zipped_code(tmp_path / "evil.pt"), weights)
    description.write_text(description.read_text().replace(before, _sha256(weights)))
    with pytest.raises(BundleError, match="it holds code") as caught:
        open_bundle(bundle)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_that_were_exchanged_for_others_are_refused(tmp_path):
    network = nn.Linear(3, 3, bias=False)
    written = sha256_of(good(tmp_path / "best.pt"))
    checkpoint.read_weights(tmp_path / "best.pt", network, written)
    checkpoint.save_atomic({"weight": torch.ones(3, 3)}, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=f"is not what the run kept: SHA-256 .*, recorded is {written[:12]}"):
        checkpoint.read_weights(tmp_path / "best.pt", network, written)
    assert network.weight.flatten().tolist() == [2.0] * 9


def exchange(path: Path) -> None:
    """The same network's weights, of which no checksum tells that they are others."""
    weights = torch.load(path, weights_only=True)
    torch.save({key: value + 1 if value.is_floating_point() else value for key, value in weights.items()}, path)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("change", "told"),
    [(exchange, "is not what the run kept"), (Path.unlink, "the weights that the run kept are gone")],
)
def test_a_bundle_is_made_of_the_best_weights_or_of_none(change, told, tmp_path):
    data, run = write_dataset(tmp_path / "data"), tmp_path / "run"
    changes = [*FAST, "stages.0.schedule.iterations=2", "stages.0.schedule.workers=0"]
    train("supervised", data, run, overrides=changes, device="cpu")
    kept = checkpoint.read(run / "last.pt")["extra"]["best_sha256"]
    assert kept == _sha256(run / "best.pt")
    shutil.rmtree(run / "bundle")
    change(run / "best.pt")
    with pytest.raises(CheckpointError, match=told):
        train("supervised", data, run, overrides=changes, device="cpu", resume=True)
    assert not (run / "bundle").exists()


def test_a_run_that_was_killed_between_best_weights_and_their_checkpoint_goes_on(tmp_path, capsys):
    weights = good(tmp_path / "best.pt")
    progress = RunProgress(0.7, done=4)
    progress.best_sha256 = sha256_of(weights)
    progress.forget_other_best(weights)
    assert (progress.best, weights.exists(), capsys.readouterr().err) == (0.7, True, "")

    checkpoint.save_atomic({"weight": torch.ones(3, 3)}, weights)
    progress.forget_other_best(weights)
    assert (progress.best, progress.best_sha256, weights.exists()) == (-1.0, None, False)
    assert "best.pt is not what the run kept" in capsys.readouterr().err
