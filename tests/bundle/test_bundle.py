"""Bundles: run by MONAI where medseg cannot be imported, and opened by medseg without running anything."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from models import data_spec, definition_of, labels_of, make_bundle, make_image, network_of
from stock import elsewhere

from medseg import __version__
from medseg.bundle.bundle import open_bundle, write_bundle
from medseg.bundle.configs import fill, inference_config, inferer_config, train_config
from medseg.bundle.metadata import metadata
from medseg.config.pipeline import Intensity
from medseg.errors import BundleError, OutputError
from medseg.portable.masked_losses import KnownOneHotd
from medseg.workflows.predict.run import predict

CHECKS = """
import importlib.util, sys
try:
    import medseg
except ImportError:
    pass
else:
    sys.exit("medseg can be imported")
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
meta = "configs/metadata.json"
for kind in ("inference", "train"):
    config = f"configs/{kind}.json"
    change = {"bundle_root": ".", "dataset_dir": sys.argv[1], "epochs": 1, "val_interval": 1}
    flow = ConfigWorkflow(config, meta, workflow_type=kind, **change)
    flow.initialize()
    assert flow.check_properties() == [], kind
    if kind == "train":
        flow.run()
verify_net_in_out("network_def", meta, "configs/inference.json", device="cpu")
verify_metadata(meta, "configs/metadata_schema.json")
import torch
state = torch.load("models/model.pt", weights_only=True)
print(flow.network_def.load_state_dict(state, strict=True))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_bundle(folder / "run" / "bundle", name="vnet")
    for i in range(2):
        make_image(folder / "images" / f"ct{i}.nii.gz", seed=i)
    moved = nib.load(folder / "images" / "ct1.nii.gz")
    aside = moved.affine + np.outer([12, 35, 0, 0], [0, 0, 0, 1])
    moved.set_qform(aside, 4)
    moved.set_sform(moved.affine, 4)
    nib.save(moved, folder / "images" / "ct1.nii.gz")
    return folder


def test_monai_alone_gives_the_voxels_of_medseg(world, tmp_path):
    predict(world / "run", world / "images", tmp_path / "ours")
    shutil.copytree(world / "run" / "bundle", tmp_path / "copy")
    run = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    places = ["--bundle_root", ".", "--dataset_dir", str(world / "images"), "--output_dir", str(tmp_path / "theirs")]
    files = ["--meta_file", "configs/metadata.json", "--logging_file", "configs/logging.conf"]
    elsewhere(tmp_path / "copy", *run, *files, *places)
    for name in ("ct0.nii.gz", "ct1.nii.gz"):
        ours, theirs, image = (nib.load(f / name) for f in (tmp_path / "ours", tmp_path / "theirs", world / "images"))
        assert set(np.unique(ours.dataobj)) == {0, 1, 7}
        np.testing.assert_array_equal(ours.dataobj, theirs.dataobj)
        assert ours.shape == theirs.shape == image.shape
        assert ours.get_data_dtype() == theirs.get_data_dtype() == np.uint8
        for field in set(ours.header) - {"descrip"}:
            np.testing.assert_array_equal(ours.header[field], theirs.header[field], err_msg=field)
        for result in (ours, theirs):
            for form in ("get_sform", "get_qform"):
                (found, code), (wanted, wanted_code) = (getattr(i, form)(coded=True) for i in (result, image))
                assert code == wanted_code
                np.testing.assert_array_equal(found, wanted)
    assert theirs.get_sform(coded=True)[1] == theirs.get_qform(coded=True)[1] == 4
    assert np.linalg.norm((theirs.get_qform() - theirs.get_sform())[:3, 3]) == pytest.approx(37, abs=1e-5)


def test_monais_own_checks_pass_and_fine_tuning_runs(world, tmp_path):
    shutil.copytree(world / "run" / "bundle", tmp_path / "copy")
    data, cases = tmp_path / "data", []
    for i in range(2):
        image = make_image(data / f"i{i}.nii.gz", seed=i)
        values = np.array([0, 1, 7], np.uint8)[(labels_of(image) > 0).astype(int) + (labels_of(image) > 150)]
        values[:, :, values.shape[2] // 2 :] = 255  # nobody labelled the upper half
        nib.save(nib.Nifti1Image(values, nib.load(image).affine), data / f"l{i}.nii.gz")
        cases.append({"image": f"i{i}.nii.gz", "label": f"l{i}.nii.gz"})
    (data / "dataset.json").write_text(json.dumps({"training": cases[:1], "validation": cases[1:]}))
    done = elsewhere(tmp_path / "copy", "-c", CHECKS, str(data))
    assert "All keys matched" in done.stdout
    assert (tmp_path / "copy" / "models" / "model_finetuned.pt").exists()


def test_maps_for_stock_metrics_are_empty_where_nobody_labelled():
    label = torch.tensor([[0, 1, 255, 255, 2]])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 0, 2]), 3).T.float()
    of_logits = KnownOneHotd(["pred", "label"], 3)({"pred": logits, "label": label})
    of_labels = KnownOneHotd(["pred", "label"], 3)({"pred": torch.tensor([[0, 2, 1, 0, 2]]), "label": label})
    for maps in (of_logits, of_labels):
        assert maps["pred"].tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1]]
        assert maps["label"].tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_what_is_written_is_what_is_opened(tmp_path):
    spec = data_spec()
    definition = definition_of(spec)
    network = network_of(definition)
    write_bundle(tmp_path / "b", network, network_def=definition, data=spec, name="tiny")
    opened = open_bundle(tmp_path / "b")
    assert opened.data == spec
    assert opened.inferer.roi_size == spec.patch
    assert not opened.network.training
    image = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(opened.network(image), network(image))
    written = {p.relative_to(tmp_path / "b").as_posix() for p in (tmp_path / "b").rglob("*") if p.is_file()}
    assert {
        "configs/metadata.json",
        "configs/train.json",
        "docs/README.md",
        "scripts/inference/sliding_window.py",
    } <= written
    assert not [p for p in tmp_path.iterdir() if p.name != "b"]


GOLDEN = Path(__file__).parent / "golden" / "bundle"
PLANAR = data_spec(modality=("T1", "T2"), patch=(32, 32, 1), view="axial", slices=3, intensity=Intensity(kind="zscore"))
TWO_VIEWS = ("axial", "coronal")


def configs_of(kind: str) -> dict[str, dict]:
    """What is written of a planar network that sees three slices of two channels, or of two views."""
    network = {"_target_": "scripts.networks.adapters.Planar"}
    if kind == "planar":
        return {
            "inference.json": inference_config(network, PLANAR, inferer_config(PLANAR)),
            "train.json": train_config(network, PLANAR),
            "metadata.json": metadata(PLANAR, "tiny"),
        }
    volume = data_spec()
    return {
        "inference.json": inference_config(network, volume, inferer_config(volume, TWO_VIEWS, "any")),
        "metadata.json": metadata(volume, "tiny", TWO_VIEWS),
    }


@pytest.mark.parametrize("kind", ["planar", "views"])
def test_configurations_are_to_the_byte_what_they_were(kind):
    configs = configs_of(kind)
    assert set(configs) == {path.name for path in (GOLDEN / kind).iterdir()}
    for name, config in configs.items():
        for key in ("monai_version", "pytorch_version", "numpy_version"):
            if key in config:
                config[key] = "VERSION"
        if "description" in config:
            config["description"] = config["description"].replace(f"medseg {__version__}", "medseg VERSION")
        assert json.dumps(config, indent=2) + "\n" == (GOLDEN / kind / name).read_text("utf-8"), name


def test_a_template_has_a_place_for_every_value():
    with pytest.raises(KeyError, match="no 'roi', only roi_size"):
        fill({"roi_size": None}, roi=[1, 1, 1])


@pytest.mark.parametrize("name", ["vnet", "dynunet", "segresnet"])
def test_every_network_can_be_opened(name, tmp_path):
    assert open_bundle(make_bundle(tmp_path / "b", name=name)).network


def test_a_planar_network_can_be_opened(tmp_path):
    opened = open_bundle(make_bundle(tmp_path / "b", data_spec(patch=(32, 32, 1), view="axial")))
    assert opened.network(torch.randn(1, 1, 32, 32, 3)).shape == (1, 3, 32, 32, 3)


def test_a_bundle_is_replaced_but_nothing_else(tmp_path):
    first = open_bundle(make_bundle(tmp_path / "b")).digest
    assert open_bundle(make_bundle(tmp_path / "b", name="vnet")).digest != first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="no bundle"):
        make_bundle(tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").exists()


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    spec = data_spec()
    definition = definition_of(spec)
    network = network_of(definition)
    next(network.parameters()).data[0] = float("nan")
    with pytest.raises(BundleError, match="NaN"):
        write_bundle(tmp_path / "b", network, network_def=definition, data=spec, name="tiny")
    assert not list(tmp_path.iterdir())


def edit(bundle: Path, change, file: str = "inference.json") -> None:
    path = bundle / "configs" / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def nested(levels: int) -> list:
    return [nested(levels - 1)] if levels else []


FOREIGN = {
    "expression": (lambda c: c.update(network_def="$__import__('os').system('touch HACKED')"), "expression"),
    "expression inside": (lambda c: c["inferer"].update(overlap="$0.5"), r"inferer#overlap.*expression"),
    "reference": (lambda c: c["inferer"].update(overlap="@overlap"), "expression"),
    "macro": (lambda c: c["inferer"].update(overlap="%/etc/passwd#a"), "expression"),
    "foreign class": (lambda c: c["network_def"].update(_target_="os.system"), "'os.system'"),
    "foreign script": (
        lambda c: c["network_def"].update(_target_="scripts.networks.adapters.Evil"),
        "scripts.networks.adapters.Evil",
    ),
    "function of MONAI": (
        lambda c: c["preprocessing"]["transforms"].append({"_target_": "monai.transforms.Lambdad", "keys": "image"}),
        "Lambdad",
    ),
    "no network": (lambda c: c["network_def"].update(_target_="monai.networks.nets.torch"), "nets.torch"),
    "other reader": (
        lambda c: c["preprocessing"]["transforms"][0].update(reader="os.system"),
        r"preprocessing#transforms#0#reader",
    ),
    "debugger": (lambda c: c["network_def"].update(_mode_="debug"), "_mode_"),
    "wrong argument": (
        lambda c: c["network_def"].update(colour="red"),
        "has no argument 'colour'; accepted are dropout",
    ),
    "wrong value": (lambda c: c["network_def"].update(norm="nothing"), "cannot be made"),
    "other network": (lambda c: c["network_def"].update(_target_="monai.networks.nets.AutoEncoder"), "AutoEncoder"),
    "pretrained": (lambda c: c["network_def"].update(pretrained=True), "has no argument 'pretrained'"),
    "address": (
        lambda c: c["network_def"].update(norm="https://example.org/w.pt"),
        r"norm is 'https://example\.org/w\.pt'; accepted are numbers, words",
    ),
    "file": (
        lambda c: c["network_def"].update(norm=["group", {"weights": "../w.pt"}]),
        r"norm\.1\.weights is '\.\./w\.pt'",
    ),
    "object": (lambda c: c["network_def"].update(norm=dict(c["inferer"])), "norm is <medseg"),
    "argument of a transform": (
        lambda c: c["preprocessing"]["transforms"][0].update(dtype="object"),
        r"transforms#0.*has no argument 'dtype'; accepted are as_closest_canonical",
    ),
    "nesting": (lambda c: c.update(inferer=nested(60)), "is nested more than 50 times"),
    "wrong kind": (lambda c: c.update(inferer=c["network_def"]), "inferer is not"),
    "nothing": (lambda c: c.pop("preprocessing"), "preprocessing is not"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_ours_is_refused_by_name(what, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle = shutil.copytree(world / "run" / "bundle", tmp_path / "b")
    change, words = FOREIGN[what]
    edit(bundle, change)
    with pytest.raises(BundleError, match=words) as caught:
        open_bundle(bundle)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "HACKED").exists()


def test_edited_scripts_are_not_run(world, tmp_path):
    bundle = shutil.copytree(world / "run" / "bundle", tmp_path / "b")
    (bundle / "scripts" / "nets.py").write_text("raise SystemExit('executed')")
    assert open_bundle(bundle).network


def other_weights(change):
    """Replace the weights and their recorded hash."""

    def damage(bundle: Path) -> None:
        import hashlib

        path = bundle / "models" / "model.pt"
        torch.save(change(torch.load(path, weights_only=True)), path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit(bundle, lambda c: c.update(weights_sha256=digest), "medseg.json")

    return damage


class Evil:
    def __reduce__(self):
        return os.system, ("touch HACKED",)


DAMAGE = {
    "truncated weights": (lambda b: os.truncate(b / "models" / "model.pt", 1000), "damaged or was exchanged"),
    "no weights": (lambda b: (b / "models" / "model.pt").unlink(), "No such file"),
    "weights missing": (other_weights(lambda s: dict(list(s.items())[1:])), "is missing"),
    "other shape": (other_weights(lambda s: {k: v[..., None] for k, v in s.items()}), "has the shape"),
    "more weights": (other_weights(lambda s: {**s, "extra": torch.zeros(1)}), "extra is not the network's"),
    "infinite weights": (other_weights(lambda s: {k: v.float() / 0 for k, v in s.items()}), "do not fit"),
    "a list": (other_weights(list), "no plain dictionary"),
    "code": (other_weights(lambda s: Evil()), "no plain weights"),
    "broken JSON": (lambda b: (b / "configs" / "inference.json").write_text("{"), "is no JSON"),
    "JSON list": (lambda b: (b / "configs" / "medseg.json").write_text("[]"), "not an object"),
    "no data": (lambda b: edit(b, lambda c: c.pop("data"), "medseg.json"), "does not describe a model"),
    "odd data": (lambda b: edit(b, lambda c: c["data"].update(x=1), "medseg.json"), "does not describe a model"),
    "foreign bundle": (lambda b: (b / "configs" / "medseg.json").unlink(), "not one of medseg"),
    "no bundle": (lambda b: shutil.rmtree(b / "configs"), "holds no bundle"),
    "nothing": (lambda b: shutil.rmtree(b), "does not exist"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_clear_line(what, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle = shutil.copytree(world / "run" / "bundle", tmp_path / "b")
    damage, words = DAMAGE[what]
    damage(bundle)
    with pytest.raises(BundleError, match=words) as caught:
        open_bundle(bundle)
    assert str(caught.value).startswith(str(bundle))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "HACKED").exists()


def test_an_unfinished_run_says_so(tmp_path):
    (tmp_path / "last.pt").touch()
    with pytest.raises(BundleError, match="--resume"):
        open_bundle(tmp_path)
