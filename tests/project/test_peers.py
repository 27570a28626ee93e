"""`benchmarks/peers` without the peers: what PyMIC is given, its scans there and back, its clock, and the options."""

from __future__ import annotations

import configparser
import importlib.util
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
sys.path.insert(0, str(FOLDER))

import grids  # noqa: E402
import pymic_agent  # noqa: E402
import pymic_peer  # noqa: E402
import without_cuda  # noqa: E402

_SPEC = importlib.util.spec_from_file_location("peers_run", FOLDER / "run.py")
run = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(run)

# array axes along -z, -x and +y, with sides of 0.9, 0.6 and 0.5 mm
TURNED = np.array([[0, -0.6, 0, 30], [0, 0, 0.5, -20], [-0.9, 0, 0, 40], [0, 0, 0, 1]])
SHAPE = (22, 31, 36)


def points(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Millimetres of all voxels, `(3, *shape)`."""
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)).transpose(3, 0, 1, 2)


def write_case(folder: Path, name: str, radius_mm: float = 6.0) -> dict[str, str]:
    """Image that is x + 10 y + 100 z in millimetres, and a ball as label."""
    x, y, z = points(TURNED, SHAPE)
    centre = nib.affines.apply_affine(TURNED, (np.array(SHAPE) - 1) / 2)
    ball = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius_mm**2
    case = {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}
    for key, values in (("image", (x + 10 * y + 100 * z).astype(np.float32)), ("label", ball.astype(np.uint8))):
        (folder / case[key]).parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(values, TURNED), folder / case[key])
    return case


def write_manifest(folder: Path, **changes) -> Path:
    content = {
        "modality": {"0": "MR"},
        "labels": {"0": "background", "1": "ball"},
        "training": [write_case(folder, "a"), write_case(folder, "b", 4.0)],
        "test": [write_case(folder, "c", 5.0)],
        **changes,
    }
    (folder / "m.json").write_text(json.dumps(content))
    return folder / "m.json"


def make_peer(folder: Path, spacing_mm=(1.2, 1.0, 0.9)) -> pymic_peer.PyMIC:
    (folder / "pymic").mkdir()
    return pymic_peer.PyMIC(folder / "none", folder / "pymic", spacing_mm=spacing_mm, width=8, seed=3)


def test_a_resampled_scan_has_the_values_of_its_places(tmp_path):
    """Linear interpolation of a linear image is exact: turned axes and uneven sizes may not move anything."""
    case = write_case(tmp_path, "a")
    spacing_mm = (1.1, 0.7, 1.3)
    coarse = grids.to_spacing(sitk.ReadImage(str(tmp_path / case["image"])), spacing_mm)
    sitk.WriteImage(coarse, str(tmp_path / "coarse.nii.gz"))
    read = nib.load(tmp_path / "coarse.nii.gz")
    assert read.shape == (17, 26, 15)  # 31 * 0.6 / 1.1 = 16.9, 36 * 0.5 / 0.7 = 25.7, 22 * 0.9 / 1.3 = 15.2
    np.testing.assert_allclose(read.header.get_zooms(), spacing_mm, rtol=1e-5)
    x, y, z = points(read.affine, read.shape)
    inner = (slice(1, -1),) * 3  # what lies outside repeats the border
    np.testing.assert_allclose(read.get_fdata()[inner], (x + 10 * y + 100 * z)[inner], atol=0.01)
    centre = nib.affines.apply_affine(read.affine, (np.array(read.shape) - 1) / 2)
    np.testing.assert_allclose(centre, nib.affines.apply_affine(TURNED, (np.array(SHAPE) - 1) / 2), atol=1e-4)


def test_a_resampled_label_keeps_size_and_place(tmp_path):
    """Half a ball's border lies between two voxels at twice the spacing: by linear weights it would shrink by 6 %."""
    x, y, z = np.indices((40, 40, 40)) - 19.5
    ball = (x**2 + y**2 + z**2 < 14.3**2).astype(np.uint8)
    label = sitk.GetImageFromArray(ball * 2)
    coarse = sitk.GetArrayFromImage(grids.to_spacing(label, (2.0, 2.0, 2.0), is_label=True))
    assert coarse.shape == (20, 20, 20)
    assert coarse.dtype == np.uint8
    assert set(np.unique(coarse)) == {0, 2}
    assert abs(8 * (coarse > 0).sum() / ball.sum() - 1) < 0.02
    np.testing.assert_allclose(np.argwhere(coarse).mean(0), 9.5, atol=0.1)


def test_probabilities_become_labels_by_hand():
    """Centres at 0 and 2 mm, asked at -0.5, 0.5, 1.5 and 2.5: 0, 1/4, 3/4 and 1 of the way."""
    scan = sitk.Image(4, 1, 1, sitk.sitkInt16)
    scan.SetOrigin((-0.5, 0.0, 0.0))
    volumes = []
    for first, second in ((0.5, 0.1), (0.1, 0.2), (0.4, 0.7)):
        volume = sitk.GetImageFromArray(np.array([[[first, second]]], np.float32))
        volume.SetSpacing((2.0, 1.0, 1.0))
        volumes.append(volume)
    # of the three classes: 0.5 0.4 0.2 0.1, then 0.1 0.125 0.175 0.2, then 0.4 0.475 0.625 0.7
    labels = grids.labels_on(scan, volumes)
    assert sitk.GetArrayFromImage(labels).tolist() == [[[0, 2, 2, 2]]]
    assert labels.GetOrigin() == scan.GetOrigin()
    assert labels.GetPixelID() == sitk.sitkUInt8


def test_lists_and_configuration(tmp_path):
    peer = make_peer(tmp_path)
    peer.convert(write_manifest(tmp_path))
    data = tmp_path / "pymic" / "data"
    assert (data / "train.csv").read_text().splitlines() == [
        "image,label", "images/a.nii.gz,labels/a.nii.gz", "images/b.nii.gz,labels/b.nii.gz",
    ]  # fmt: skip
    assert (data / "valid.csv").read_text().splitlines() == ["image,label", "images/a.nii.gz,labels/a.nii.gz"]
    assert (data / "test.csv").read_text().splitlines() == ["image", "tests/c.nii.gz"]
    settings = configparser.ConfigParser()
    settings.read(tmp_path / "pymic" / "configuration.cfg")
    assert settings["dataset"]["train_dir"] == str(data)
    assert settings["dataset"]["train_batch_size"] == "2"  # of two cases
    # 22 * 0.9 / 0.9 = 22 along z, 18 along y, 15.5 along x: all under the usual patch, with a margin to 16 or 32
    assert settings["dataset"]["randomcrop_output_size"] == "[32, 32, 16]"
    assert settings["network"]["net_type"] == "UNet"
    assert settings["network"]["dimension"] == "3"
    assert settings["network"]["class_num"] == "2"
    assert settings["network"]["feature_chns"] == "[8, 16, 32, 64, 128]"
    assert settings["training"]["random_seed"] == "3"
    assert settings["testing"]["ckpt_mode"] == "0"  # the last weights
    assert settings["testing"]["save_probability"] == "True"
    assert "{" not in (tmp_path / "pymic" / "configuration.cfg").read_text()
    for name in ("images/a", "labels/a"):
        np.testing.assert_allclose(nib.load(data / f"{name}.nii.gz").header.get_zooms(), (1.2, 1.0, 0.9), rtol=1e-5)


def test_patches_and_batches_of_large_scans(tmp_path):
    text = make_peer(tmp_path).configuration([(44, 70, 95), (40, 49, 90), (44, 70, 95), (44, 70, 95), (44, 70, 95)])
    assert "train_batch_size = 4\n" in text
    assert "RandomCrop_output_size = [32, 64, 64]\n" in text


def test_a_prediction_comes_back_to_the_grid_of_its_scan(tmp_path):
    peer = make_peer(tmp_path)
    peer.convert(write_manifest(tmp_path))
    commands = []

    def call(command: str, **variables: str) -> None:
        """Do what PyMIC does for an excellent network: probabilities beside the label map."""
        commands.append(command)
        ball = sitk.ReadImage(str(tmp_path / "labels" / "c.nii.gz"), sitk.sitkFloat32)
        likely = sitk.Resample(ball, sitk.ReadImage(str(peer.data / "tests" / "c.nii.gz")))
        (tmp_path / "pymic" / "on_plan").mkdir()
        for value, probability in enumerate((1 - likely, likely)):
            sitk.WriteImage(probability, str(tmp_path / "pymic" / "on_plan" / f"c_prob_{value}.nii.gz"))

    peer._call = call
    peer.predict(tmp_path / "predictions")
    assert commands == ["pymic_agent:predict"]
    found, truth = (nib.load(tmp_path / folder / "c.nii.gz") for folder in ("predictions", "labels"))
    np.testing.assert_allclose(found.affine, TURNED, atol=1e-5)
    a, b = np.asarray(found.dataobj), np.asarray(truth.dataobj)
    assert a.shape == SHAPE
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.95


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modality": {"0": "T1", "1": "T2"}}, "m.json: has 2 channels, this benchmark takes one"),
        ({"labels": {"0": "background", "4": "ball"}}, "m.json: has the labels [0, 4], PyMIC takes 0, 1, 2 and so on"),
    ],
)
def test_what_pymic_does_not_take(tmp_path, capsys, changes, said):
    with pytest.raises(SystemExit, match="2"):
        make_peer(tmp_path).convert(write_manifest(tmp_path, **changes))
    assert said in capsys.readouterr().err


def test_every_device_is_the_cpu():
    changed = without_cuda.on_the_cpu()
    assert changed.device("cuda:1") == torch.device("cpu")
    assert changed.zeros(2).to(changed.device("cuda:{0:}".format(0))).device.type == "cpu"  # noqa: UP030, UP032
    assert changed.nn is torch.nn
    assert torch.device("cuda:1").type == "cuda"  # for everyone else
    assert isinstance(torch.device("cpu"), torch.device)


def test_training_ends_in_time(monkeypatch):
    """2 s a step, 3 s a validation: 26 s are timed, and ten rounds of 47 steps end after 996 s of 1000."""
    clock = [0.0]
    monkeypatch.setattr(pymic_agent.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(pymic_agent, "BEGAN", 0.0)
    monkeypatch.setenv("PEER_SECONDS", "1000")
    trainings = []

    class Agent:
        def __init__(self):
            self.config = {"training": {"iter_max": 1000, "iter_valid": 100}}
            self.optimizer = self.scheduler = "made"

        def train_valid(self):
            settings = self.config["training"]
            trainings.append((settings["iter_max"], settings["iter_valid"], self.optimizer, self.scheduler))
            for _ in range(0, settings["iter_max"], settings["iter_valid"]):
                assert self.training() == "losses"
                assert self.validation() == "scores"

        def training(self):
            clock[0] += 2.0 * self.config["training"]["iter_valid"]
            return "losses"

        def validation(self):
            clock[0] += 3.0
            return "scores"

    pymic_agent.timed(Agent)().train_valid()
    assert trainings == [(10, 5, "made", "made"), (470, 47, None, None)]
    assert clock[0] == 996.0


@pytest.mark.parametrize(
    ("left_s", "expected"), [(996.0, (98, 10)), (7.0, (1, 2)), (1.5, (1, 1)), (-20.0, (1, 1))], ids=str
)
def test_steps_that_fit(left_s, expected):
    """1 s a step and 1.6 s a validation: 99.6 - 1.6 = 98 steps; 7 s are two rounds of 3.5 - 1.6 = 1.9 steps."""
    assert pymic_agent.fit(left_s, 1.0, 1.6) == expected


def options(monkeypatch, tmp_path: Path, *arguments: str) -> None:
    given = ["--data", str(tmp_path / "m.json"), "-o", str(tmp_path / "out"), *arguments]
    monkeypatch.setattr(sys, "argv", ["run.py", *given])


def test_which_peers(monkeypatch, tmp_path, capsys):
    options(monkeypatch, tmp_path)
    assert run._options().peers == ["nnunet", "pymic"]
    options(monkeypatch, tmp_path, "--peers", "pymic")
    assert run._options().peers == ["pymic"]
    options(monkeypatch, tmp_path, "--peers", "pymic,totalseg")
    with pytest.raises(SystemExit, match="2"):
        run._options()
    assert "argument --peers: 'totalseg': the peers are nnunet, pymic" in capsys.readouterr().err


def test_slices_are_refused_before_anything_is_trained(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "_plan_ours", lambda *_: {"spacing_mm": [1.0, 1.0, 5.0], "planar": True})
    monkeypatch.setattr(run, "_run_ours", lambda *_: pytest.fail("trained"))
    options(monkeypatch, tmp_path)
    with pytest.raises(SystemExit, match="2"):
        run.main()
    assert capsys.readouterr().err.endswith(
        "m.json: is trained in slices, PyMIC is compared on volumes: --peers nnunet\n"
    )


def test_each_seed_trains_the_peers_that_were_named(monkeypatch, tmp_path):
    row = {"dice": 0.8, "hd95_mm": 5.0, "hd95_mm_missing": 0, "training_cpu_s": 60.0, "prediction_s": 9.0}
    monkeypatch.setattr(run, "_plan_ours", lambda *_: {"spacing_mm": [1.0, 1.0, 1.0], "planar": False})
    monkeypatch.setattr(run, "_run_ours", lambda *_: {"who": "medseg supervised", **row})
    monkeypatch.setitem(run.PEERS, "nnunet", lambda *_: pytest.fail("left out"))
    called = []
    monkeypatch.setitem(
        run.PEERS, "pymic", lambda *given: called.append(given[1:]) or {"who": "PyMIC supervised", **row}
    )
    options(monkeypatch, tmp_path, "--peers", "pymic", "--seeds", "4,5")
    run.main()
    plan = {"spacing_mm": [1.0, 1.0, 1.0], "planar": False}
    assert called == [(tmp_path / "out" / f"pymic_{seed}", plan, seed) for seed in (4, 5)]
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert table[-2] == "| medseg supervised | 0.800 ± 0.000 | 5.0 | 0 | 1.0 | 9 | 1 command |"
    assert table[-1] == "| PyMIC supervised | 0.800 ± 0.000 | 5.0 | 0 | 1.0 | 9 | 76 lines |"
    assert run.SETUP["nnU-Net"] == "29 lines"


def test_an_environment_is_used_again(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(run.subprocess, "run", lambda command, check: calls.append(command))
    monkeypatch.setattr(run.venv, "create", lambda *_, **__: pytest.fail("made anew"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    for _ in range(2):
        run._make_environment(tmp_path, ("PYMIC==0.6.2", "imops"))
    assert len(calls) == 1
    assert calls[0][-3:] == [f"torch=={torch.__version__.partition('+')[0]}", "PYMIC==0.6.2", "imops"]
