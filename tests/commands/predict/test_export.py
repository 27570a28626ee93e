"""`medseg export`: an ONNX file gives whole volumes the labels of `medseg predict`, and says what it needs for that."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from forking import python
from models import data_spec, definition_of, labels_of, make_bundle, make_image, network_of
from monai.inferers import SlidingWindowInferer
from tiny_sets import called
from torch import nn

from medseg import __version__
from medseg.bundle.bundle import open_bundle, write_bundle
from medseg.bundle.join import join_bundles
from medseg.config.pipeline import NetworkSpec
from medseg.errors import ConfigError
from medseg.networks import registry
from medseg.workflows.export import run as export

ON_GRID = np.diag([1.5, 1.5, 2.0, 1.0])  # the spacing of the models, so that nothing is resampled


def medseg(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python(), "-m", "medseg", *map(str, words)], capture_output=True, text=True, timeout=300)


def of_planes(folder: Path) -> Path:
    """A bundle with the networks of two planes, each of which sees three slices."""
    whole = data_spec(patch=(16, 16, 16), slices=3)
    parts = {}
    for view in ("axial", "coronal"):
        spec = whole.of_view(view)
        inner = registry.network_def(
            NetworkSpec(name="unet", width=4), patch=(16, 16), in_channels=spec.channels, out_channels=spec.classes
        )
        definition = {
            "_target_": "medseg.portable.networks.adapters.Planar",
            "network": inner,
            "axis": spec.slice_axis,
            "slices": 3,
        }
        parts[view] = write_bundle(
            folder / view, network_of(definition), network_def=definition, data=spec, name="tiny"
        )
    return join_bundles(folder / "run" / "bundle", parts, data=whole, name="tiny")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A run folder, an image, and the run's ONNX file, written by the command."""
    folder = tmp_path_factory.mktemp("export")
    make_bundle(folder / "run" / "bundle")
    make_image(folder / "ct.nii.gz", (26, 30, 19), affine=ON_GRID)
    done = medseg("export", folder / "run", "--format", "onnx", "-o", folder / "new" / "tiny.onnx")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'new' / 'tiny.onnx'}\n"
    said = r"onnxruntime \S+ and PyTorch differ by (\S+) at most, of logits up to (\S+) \(window 16 x 16 x 16\)\n"
    found = re.fullmatch(said, done.stderr)
    assert found, done.stderr
    assert float(found[1]) <= 1e-4 * max(1.0, float(found[2]))
    return folder


def test_it_gives_the_labels_of_predict(place):
    """MONAI's sliding window, onnxruntime in the place of the network, and of medseg only the file's metadata."""
    session = onnxruntime.InferenceSession(place / "new" / "tiny.onnx", providers=["CPUExecutionProvider"])
    says = session.get_modelmeta().custom_metadata_map
    (scaling,) = json.loads(says["intensities"])
    volume = np.asarray(nib.load(place / "ct.nii.gz").dataobj, np.float32)
    scaled = (volume.clip(scaling["low"], scaling["high"]) - scaling["mean"]) / scaling["std"]
    sizes = set()

    def network(windows: torch.Tensor) -> torch.Tensor:
        sizes.add(len(windows))
        return torch.from_numpy(session.run(["logits"], {"image": windows.numpy()})[0])

    window, overlap = json.loads(says["window"]), json.loads(says["overlap"])
    inferer = SlidingWindowInferer(roi_size=window, sw_batch_size=5, overlap=overlap, mode="gaussian")
    logits = inferer(torch.from_numpy(scaled)[None, None], network)[0]
    assert sizes == {5, 3}  # 3 x 3 x 2 windows, five at a time: any number is taken
    values = np.array([each["value"] for each in json.loads(says["classes"])])
    expected = values[logits.argmax(0).numpy()]

    done = medseg("predict", "-m", place / "run", "-i", place / "ct.nii.gz", "-o", place / "out", "--no-report")
    assert done.returncode == 0, done.stderr
    found = labels_of(place / "out" / "ct.nii.gz")
    assert set(np.unique(found)) == {0, 1, 7}
    first, second = logits.topk(2, dim=0).values
    decided = ((first - second) > 1e-4).numpy()  # elsewhere rounding alone decides
    assert decided.mean() > 0.999
    assert (found == expected)[decided].all()


def test_the_file_says_what_the_network_needs(place):
    model = onnx.load(place / "new" / "tiny.onnx")
    onnx.checker.check_model(model)
    says = {each.key: each.value for each in model.metadata_props}
    bundle = open_bundle(place / "run")
    texts = {"medseg_version": __version__, "model_sha256": bundle.digest, "target": "voxels", "view": "volume",
             "probabilities": "softmax", "orientation": "RAS", "padding": "minimum",
             "blend": "gaussian"}  # fmt: skip
    assert {key: says.pop(key) for key in texts} == texts
    assert {key: json.loads(value) for key, value in says.items()} == {
        "classes": [
            {"channel": 0, "value": 0, "name": "background"},
            {"channel": 1, "value": 1, "name": "liver"},
            {"channel": 2, "value": 7, "name": "spleen"},
        ],
        "modality": ["CT"],
        "spacing_mm": [1.5, 1.5, 2.0],
        "resample_axes": [True, True, True],
        "intensities": [{"kind": "window", "low": -200.0, "high": 300.0, "mean": 40.0, "std": 60.0}],
        "window": [16, 16, 16],
        "context": [0, 0, 0],
        "overlap": 0.5,
        "components": {},
    }


def test_of_several_networks_one_is_named(tmp_path, capfd):
    bundle = of_planes(tmp_path)
    target = tmp_path / "plane.onnx"
    code, said = called(capfd, "export", bundle, "-o", target)
    assert code == 2
    assert f"error: {bundle}: has 2 networks, of the views axial, coronal, and an ONNX file is one network" in said
    assert "--view axial, --view coronal" in said
    code, said = called(capfd, "export", bundle, "-o", target, "--view", "sagittal")
    assert code == 2
    assert "--view sagittal: the model has no such view; it has axial, coronal" in said
    assert not target.exists()

    code, said = called(capfd, "export", tmp_path / "run", "-o", target, "--view", "coronal")
    assert code == 0, said
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    says = session.get_modelmeta().custom_metadata_map
    assert [json.loads(says[key]) for key in ("window", "context")] == [[16, 1, 16], [0, 1, 0]]
    windows = torch.randn(4, 1, 16, 3, 16)
    with torch.no_grad():
        expected = open_bundle(bundle).network.networks["coronal"](windows).numpy()
    assert expected.shape == (4, 3, 16, 1, 16)
    np.testing.assert_allclose(session.run(None, {"image": windows.numpy()})[0], expected, rtol=1e-4, atol=1e-4)


def test_a_file_that_gives_other_logits_is_not_written(place, tmp_path, capfd, monkeypatch):
    """The graph of one network and the weights of another."""
    definition = definition_of(data_spec())
    other = network_of(definition)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.001)
    bundle = write_bundle(tmp_path / "b", other, network_def=definition, data=data_spec(), name="tiny")
    monkeypatch.setattr(export, "_converted", lambda *given: onnx.load(place / "new" / "tiny.onnx"))
    target = tmp_path / "x.onnx"
    target.write_bytes(b"an earlier one")
    code, said = called(capfd, "export", bundle, "-o", target)
    assert code == 2
    assert re.search(r"x\.onnx: not written: onnxruntime and PyTorch differ by \S+ at most, of logits up to", said)
    assert target.read_bytes() == b"an earlier one"

    broken = onnx.load(place / "new" / "tiny.onnx")
    broken.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8
    monkeypatch.setattr(export, "_converted", lambda *given: broken)
    code, said = called(capfd, "export", bundle, "-o", target)
    assert code == 2
    assert "x.onnx: not written: onnxruntime cannot run it (" in said
    assert target.read_bytes() == b"an earlier one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "x.onnx"]


def test_differences_are_judged_by_the_size_of_the_logits():
    assert export._Comparison(5e-4, 420.0).is_good
    assert export._Comparison(0.9e-4, 0.1).is_good
    assert not export._Comparison(1.1e-4, 0.1).is_good
    assert not export._Comparison(float("nan"), 1.0).is_good


class CountsItsWindows(nn.Module):
    """A network that takes the number of windows for a constant."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.flatten(0, 1).unflatten(0, (len(windows), -1)) * 2


def test_a_network_of_a_fixed_number_of_windows_is_refused(tmp_path):
    part = export._Part(CountsItsWindows().eval(), (4, 4, 4), "volume")
    with pytest.raises(ConfigError, match="b: its network can be expressed in ONNX only for a fixed number of windows"):
        export._converted(part, torch.randn(2, 1, 4, 4, 4), tmp_path / "b")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere", "-o", "x.onnx"], "nowhere: does not exist; give a run folder or its bundle"),
        (["run", "-o", "x.onnx", "--format", "coreml"], "--format coreml: accepted is onnx"),
        (["run", "-o", "x.pt"], "--output x.pt: accepted is a file that ends in .onnx"),
        (
            ["run", "-o", "x.onnx", "--view", "axial"],
            "run/bundle: --view axial: the model has no such view",
        ),
        (["run", "-o", "folder.onnx"], "folder.onnx: is a folder; an export is a file"),
        (["run", "-o", "ct.nii.gz/x.onnx"], "ct.nii.gz: cannot be made (File exists)"),
    ],
)
def test_mistakes_are_told_in_a_line(place, capfd, monkeypatch, words, told):
    monkeypatch.chdir(place)
    (place / "folder.onnx").mkdir(exist_ok=True)
    code, said = called(capfd, "export", *words)
    assert code == 2
    assert f"error: {told}" in said
    assert len(said.strip().splitlines()) == 1
    assert not (place / "x.onnx").exists()


def test_what_is_not_installed_is_named(place, tmp_path, capfd, monkeypatch):
    real = export.find_spec
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    code, said = called(capfd, "export", place / "run", "-o", tmp_path / "x.onnx")
    assert (code, said) == (2, 'error: an export to ONNX needs onnxscript; pip install "medseg[onnx]"\n')
