"""Several models on one image: the mean of their probabilities, in bounded memory, and what cannot be averaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from models import data_spec, definition_of, labels_of, make_bundle, make_image, network_of
from typer.testing import CliRunner

from medseg.bundle import ensemble
from medseg.bundle.bundle import open_bundle, write_bundle
from medseg.bundle.components import set_components
from medseg.bundle.ensemble import Ensemble
from medseg.bundle.join import join_bundles
from medseg.bundle.runner import BundleRunner
from medseg.cli.app import app
from medseg.errors import BundleError, ConfigError
from medseg.portable.inference import view_fusion
from medseg.portable.inference.view_fusion import fuse_mean
from medseg.workflows.predict.models import configure_models
from medseg.workflows.predict.options import PredictOptions
from medseg.workflows.predict.run import predict

LARGEST = {"keep": "largest"}
MODELS = ("vnet", "unet", "coarse")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Three models, of which one has another spacing, and an image."""
    folder = tmp_path_factory.mktemp("world")
    make_bundle(folder / "vnet", name="vnet")
    make_bundle(folder / "unet")
    make_bundle(folder / "coarse", data_spec(spacing_mm=(2.0, 1.8, 2.5)))
    make_image(folder / "images" / "ct.nii.gz")
    for name in MODELS:
        predict(folder / name, folder / "images", folder / "alone" / name, probabilities=True)
    return folder


def stored(folder: Path) -> np.ndarray:
    """Probabilities `(X, Y, Z, K)` in steps of 1/255."""
    file = nib.load(folder / "probabilities" / "ct.nii.gz")
    return np.rint(file.get_fdata() * 255).astype(int)


def statuses(report: dict) -> list[str]:
    return [case["status"] for case in report["cases"]]


def test_the_mean_decides(world, tmp_path):
    models = [world / name for name in MODELS]
    report = predict(models, world / "images", tmp_path / "out", probabilities=True)
    total = sum(stored(world / "alone" / name) for name in MODELS)
    expected = np.array([0, 1, 7])[total.argmax(-1)]
    found = labels_of(tmp_path / "out" / "ct.nii.gz")
    np.testing.assert_array_equal(found, expected)
    for name in MODELS:
        assert not np.array_equal(found, labels_of(world / "alone" / name / "ct.nii.gz"))
    mean = stored(tmp_path / "out")
    assert np.abs(mean - total / 3).max() <= 1.5  # half a step by rounding, and one for the winner
    np.testing.assert_array_equal(np.array([0, 1, 7])[mean.argmax(-1)], found)
    assert [each["model_sha256"] for each in report["models"]] == [open_bundle(model).digest for model in models]
    assert report["model"] == [str(model) for model in models]
    left = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert left == ["ct.nii.gz", "ct.nii.gz", "predict_report.html", "predict_report.json"]


def test_finished_cases_are_known_again_whatever_the_order(world, tmp_path):
    first, second, third = (world / name for name in MODELS)
    predict([first, second], world / "images", tmp_path)
    assert statuses(predict([second, first], world / "images", tmp_path)) == ["skipped"]
    assert statuses(predict([second, first], world / "images", tmp_path, overlap=0.25)) == ["done"]
    assert statuses(predict([first, second, third], world / "images", tmp_path)) == ["done"]
    assert statuses(predict(first, world / "images", tmp_path)) == ["done"]


def test_a_model_of_views_has_one_vote(world, tmp_path):
    whole = data_spec(resample_axes=(True, True, False))
    for view, name in (("axial", "unet"), ("volume", "vnet")):
        make_bundle(tmp_path / view, whole.of_view(view), name)
    parts = {view: tmp_path / view for view in ("axial", "volume")}
    join_bundles(tmp_path / "views", parts, data=whole, name="tiny")
    image = [world / "images" / "ct.nii.gz"]
    runner = BundleRunner(open_bundle(tmp_path / "views"), torch.device("cpu"))
    (tmp_path / "kept").mkdir()
    views, _ = runner.predict_views(runner.read(image), probability_folder=tmp_path / "kept")
    of_views = np.stack([each.probabilities.numpy().astype(float) for each in views]).mean(0)
    of_unet = np.moveaxis(stored(world / "alone" / "unet"), -1, 0)
    total = of_views + of_unet
    predict([tmp_path / "views", world / "unet"], world / "images", tmp_path / "out", probabilities=True)
    found = labels_of(tmp_path / "out" / "ct.nii.gz")
    ordered = np.sort(total, 0)
    clear = ordered[-1] - ordered[-2] > 3  # steps; the mean of the views is rounded first
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], np.array([0, 1, 7])[total.argmax(0)][clear])


def test_rounded_means_by_hand(monkeypatch):
    monkeypatch.setattr(view_fusion, "BLOCK", 2)
    first = np.array([[100, 128, 126], [155, 127, 127]], np.uint8)[:, None, None]
    second = np.array([[154, 127, 127], [101, 128, 127]], np.uint8)[:, None, None]
    mean = np.zeros_like(first)
    winners = fuse_mean([first, second], mean)
    assert winners.tolist() == [[[1, 0, 1]]]  # 254 against 256; 255 against 255: the first; 253 against 254
    # 127 and 128; 127.5 rounded for both, the first is the winner's; 126.5 and 127 both 127, the winner gets a step
    assert mean[:, 0, 0].tolist() == [[127, 128, 127], [128, 128, 128]]


def with_rules(source: Path, target: Path, rules: dict) -> Path:
    shutil.copytree(source, target)
    set_components(target, rules, [])
    return target


def test_rules_are_applied_where_all_models_have_one(world, tmp_path, capsys):
    small = {"smallest_mm3": 5.0}
    one = with_rules(world / "vnet", tmp_path / "one", {1: LARGEST, 7: small})
    two = with_rules(world / "unet", tmp_path / "two", {1: LARGEST})
    report = predict([one, two], world / "images", tmp_path / "out")
    said = capsys.readouterr().err
    assert report["settings"]["components"] == {"1": LARGEST}
    assert (
        "post-processing: 1 of 2 models have a rule for spleen, none is applied; --largest spleen keeps it in one piece"
    ) in said
    plain = predict([world / "vnet", world / "unet"], world / "images", tmp_path / "plain")
    assert "components" not in plain["settings"]
    before, after = (labels_of(tmp_path / name / "ct.nii.gz") for name in ("plain", "out"))
    np.testing.assert_array_equal(before == 7, after == 7)
    assert (after == 1).sum() < (before == 1).sum()
    assert not ((after == 1) & (before != 1)).any()


@pytest.mark.parametrize(
    ("first", "second", "mildest"),
    [
        ({"smallest_mm3": 450.0}, {"smallest_mm3": 110.0}, {"smallest_mm3": 110.0}),
        (LARGEST, {"smallest_mm3": 450.0}, {"smallest_mm3": 450.0}),
        (LARGEST, LARGEST, LARGEST),
    ],
)
def test_of_different_rules_the_mildest_is_applied(first, second, mildest, world, tmp_path):
    one = with_rules(world / "vnet", tmp_path / "one", {7: first})
    two = with_rules(world / "unet", tmp_path / "two", {7: second})
    for models in ([one, two], [two, one]):
        bundles = [open_bundle(model) for model in models]
        options = PredictOptions(tuple(models), world / "images", tmp_path / "out")
        _, rules = configure_models(bundles, options, print)
        assert rules == {7: mildest}
        assert all(bundle.inferer.components == rules for bundle in bundles)


def test_memory_does_not_grow_with_the_models(world, monkeypatch):
    """Of all models' probabilities a few planes are in memory at once, and one network input."""
    blocks: list[int] = []
    mapped: list[str] = []
    plain = view_fusion.channel_argmax
    monkeypatch.setattr(view_fusion, "BLOCK", 2000)
    monkeypatch.setattr(view_fusion, "channel_argmax", lambda part: blocks.append(part[0].numel()) or plain(part))
    monkeypatch.setattr(
        ensemble, "fuse_mean", lambda maps, mean: mapped.extend(map(storage_of, maps)) or fuse_mean(maps)
    )
    bundles = [open_bundle(world / name) for name in MODELS]
    runner = Ensemble(bundles, torch.device("cpu"), {})
    scratch = world / "scratch"
    runner.predict_files([world / "images" / "ct.nii.gz"], None, scratch=scratch, probabilities=False)
    shutil.rmtree(scratch)
    assert mapped == ["memmap"] * 3
    assert max(blocks) <= 2000


def storage_of(array: np.ndarray) -> str:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return type(array).__name__


def test_other_labels_and_channels_are_refused(world, tmp_path):
    other = make_bundle(tmp_path / "other", data_spec(labels={0: "background", 1: "liver", 7: "kidney"}))
    with pytest.raises(
        BundleError, match=r"finds 0 background, 1 liver, 7 kidney, and .*vnet 0 background, 1 liver, 7 sp"
    ):
        predict([world / "vnet", other], world / "images", tmp_path / "out")
    mr = make_bundle(tmp_path / "mr", data_spec(modality=("MR",)))
    with pytest.raises(BundleError, match=r"takes the channels MR, and .*vnet CT: they cannot be averaged"):
        predict([world / "vnet", mr], world / "images", tmp_path / "out")
    with pytest.raises(BundleError, match="is the same model as"):
        predict(
            [world / "vnet", shutil.copytree(world / "vnet", tmp_path / "copy")], world / "images", tmp_path / "out"
        )
    with pytest.raises(ConfigError, match="--fusion vote: of several models the probabilities are averaged"):
        predict([world / "vnet", world / "unet"], world / "images", tmp_path / "out", fusion="vote")
    with pytest.raises(ConfigError, match="--model is missing"):
        predict([], world / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_takes_models_and_the_folder_of_folds(world, tmp_path):
    for fold, name in enumerate(("vnet", "unet")):
        run = tmp_path / "folds" / f"fold{fold}"
        shutil.copytree(world / name, run / "bundle")
        (run / "run.json").write_text(json.dumps({"settings": {"split": {"folds": 2, "fold": fold, "seed": 0}}}))
    where = ["-i", str(world / "images"), "-o"]
    done = CliRunner().invoke(app, ["predict", "-m", str(tmp_path / "folds"), *where, str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert "folds: the mean of its folds fold0, fold1" in done.stderr
    both = ["-m", str(tmp_path / "folds" / "fold1"), "--model", str(tmp_path / "folds" / "fold0")]
    assert CliRunner().invoke(app, ["predict", *both, *where, str(tmp_path / "b")]).exit_code == 0
    np.testing.assert_array_equal(*(labels_of(tmp_path / name / "ct.nii.gz") for name in "ab"))
    shutil.rmtree(tmp_path / "folds" / "fold1" / "bundle")
    with pytest.raises(
        BundleError, match=r"folds: has no model of fold1, of 2 folds; finish its training with --resume"
    ):
        predict(tmp_path / "folds", world / "images", tmp_path / "c")


@pytest.mark.parametrize(
    ("flip", "axes", "one"),
    [
        ({"axes": [1]}, [1], None),
        ({"axes": [0, 2]}, [0, 2], None),
        ({"axes": [0, 1], "probability": 1.0, "one": True}, [0, 1], True),
    ],
)
def test_mirroring_along_the_axes_of_training(flip, axes, one, world, tmp_path):
    model = make_bundle(tmp_path / "model", data_spec(augment={"flip": flip}))
    report = predict(model, world / "images", tmp_path / "out", mirror=True)
    assert report["settings"]["mirror_axes"] == axes
    assert report["settings"].get("mirror_one") is one


@pytest.mark.parametrize(
    ("changes", "axes"),
    [
        ({}, "0,1,2"),
        ({"augment": {"flip": {"axes": [0, 1], "probability": 0}}}, "0,1,2"),
        ({"labels": {0: "background", 1: "left kidney", 7: "right kidney"}}, "1,2"),
        ({"view": "axial", "patch": (16, 16, 1), "augment": {"flip": {"axes": [2]}}}, "0,1"),
    ],
)
def test_mirroring_that_training_did_not_do_is_refused(changes, axes, world, tmp_path):
    spec = data_spec(**changes)
    definition = definition_of(spec)
    model = write_bundle(tmp_path / "m", network_of(definition), network_def=definition, data=spec, name="tiny")
    with pytest.raises(ConfigError) as caught:
        predict(model, world / "images", tmp_path / "out", mirror=True)
    hint = f"train one with --set data.augment.flip.axes=[{axes}]"
    assert str(caught.value) == f"{model}: --mirror: the model was not trained on mirrored images; {hint}"
