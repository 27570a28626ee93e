"""Post-processing kept in a bundle: medseg and MONAI alone apply it alike."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from models import data_spec, labels_of, make_bundle, make_image
from skimage.measure import label as components
from stock import elsewhere

from medseg.bundle import components as components_module
from medseg.bundle.bundle import open_bundle
from medseg.bundle.components import components_of, set_components
from medseg.bundle.join import copy_bundle, join_bundles
from medseg.errors import BundleError, ConfigError, OutputError
from medseg.records import digest_of
from medseg.workflows.predict.run import predict
from medseg.workflows.train.run_folder import remove_unfinished

RULES = {1: {"keep": "largest"}, 7: {"smallest_mm3": 60000.0}}
GAINS = [{"structure": "liver", "dice_before": 0.8, "dice_after": 0.85, "cases": 2}]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_bundle(folder / "plain", name="vnet")
    shutil.copytree(folder / "plain", folder / "kept")
    set_components(folder / "kept", RULES, GAINS)
    make_image(folder / "images" / "ct0.nii.gz")
    return folder


def test_monai_alone_keeps_the_same_components(world, tmp_path):
    predict(world / "plain", world / "images", tmp_path / "plain")
    report = predict(world / "kept", world / "images", tmp_path / "kept")
    assert report["settings"]["components"] == {"1": RULES[1], "7": RULES[7]}
    shutil.copytree(world / "kept", tmp_path / "copy")
    run = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", "."]
    elsewhere(tmp_path / "copy", *run, "--dataset_dir", str(world / "images"), "--output_dir", str(tmp_path / "monai"))
    before, ours, theirs = (labels_of(tmp_path / name / "ct0.nii.gz") for name in ("plain", "kept", "monai"))
    np.testing.assert_array_equal(ours, theirs)
    assert components(before == 1).max() > 1 == components(ours == 1).max()
    sizes = np.bincount(components(before == 1).ravel())[1:]
    assert (ours == 1).sum() == sizes.max()
    assert components(before == 7).max() == 1
    assert 0 < (before == 7).sum() * 1.2 * 1.1 * 2.5 < 60000
    assert (ours == 7).sum() == 0


WAYS = {
    "rules": lambda world, here: set_components(here, RULES, GAINS),
    "copy": lambda world, here: copy_bundle(world / "kept", here),
    "bundle": lambda world, here: make_bundle(here),
}


@pytest.mark.parametrize("write", WAYS)
def test_an_older_bundle_stays_where_the_new_one_cannot_take_its_place(write, world, tmp_path, monkeypatch):
    here = shutil.copytree(world / "plain", tmp_path / "b")
    before, plain, refused = digest_of(here), Path.replace, []

    def refuse_once(self: Path, target: Path) -> Path:
        if target == here and not refused:
            refused.append(self)
            raise PermissionError(13, "Permission denied")
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", refuse_once)
    with pytest.raises(OutputError, match="Permission denied"):
        WAYS[write](world, here)
    assert digest_of(here) == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_without_it_and_with_it_are_two_results(world, tmp_path, capfd):
    out = tmp_path / "out"
    predict(world / "kept", world / "images", out)
    assert "liver: largest component; spleen: components of at least 60000 mm3" in capfd.readouterr().err
    with_rules = labels_of(out / "ct0.nii.gz")
    (case,) = predict(world / "kept", world / "images", out, postprocessing=False)["cases"]
    assert case["status"] == "done"
    predict(world / "plain", world / "images", tmp_path / "plain")
    np.testing.assert_array_equal(labels_of(out / "ct0.nii.gz"), labels_of(tmp_path / "plain" / "ct0.nii.gz"))
    assert not np.array_equal(with_rules, labels_of(out / "ct0.nii.gz"))


def test_a_user_says_which_structures_are_in_one_piece(world, tmp_path, capfd):
    plain, images, out = world / "plain", world / "images", tmp_path / "out"
    predict(plain, images, tmp_path / "plain")
    before = labels_of(tmp_path / "plain" / "ct0.nii.gz")
    report = predict(plain, images, out, largest=("liver",))
    assert report["settings"]["components"] == {"1": {"keep": "largest"}}
    assert "post-processing by --largest: liver: largest component" in capfd.readouterr().err
    after = labels_of(out / "ct0.nii.gz")
    largest = np.bincount(components(before == 1).ravel())[1:].argmax() + 1
    np.testing.assert_array_equal(after == 1, components(before == 1) == largest)
    np.testing.assert_array_equal(after == 7, before == 7)
    report = predict(world / "kept", images, out, largest=("7",))
    assert report["settings"]["components"] == {"1": RULES[1], "7": {"keep": "largest"}}, "in place of the model's rule"
    report = predict(plain, images, out, largest=("all",))
    assert report["settings"]["components"] == {"1": {"keep": "largest"}, "7": {"keep": "largest"}}


def test_a_structure_that_the_model_does_not_find_is_refused(world, tmp_path):
    with pytest.raises(ConfigError, match=r"--largest heart: no such structure; accepted are liver, spleen, all"):
        predict(world / "plain", world / "images", tmp_path / "out", largest=("heart",))


def test_what_the_bundle_says_of_it(world, tmp_path):
    kept = world / "kept"
    assert components_of(kept) == RULES
    said = [json.loads((kept / "configs" / f"{name}.json").read_text()) for name in ("metadata", "medseg")]
    assert said[0]["required_packages_version"]["scikit-image"] == "0.22"
    assert said[1]["postprocessing"] == GAINS
    page = (kept / "docs" / "README.md").read_text()
    assert (
        "liver: largest component, validation Dice 0.8000 -> 0.8500 (2 cases); "
        "spleen: components of at least 60000 mm3.\n"
    ) in page
    assert "before the post-processing" not in page, "there are no scores"
    assert "skimage]" in page
    back = shutil.copytree(kept, tmp_path / "back")
    set_components(back, {}, [])
    for file in (world / "plain").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (back / file.relative_to(world / "plain")).read_bytes(), file


def test_a_rule_that_is_none_is_refused_with_its_place(world, tmp_path):
    damaged = shutil.copytree(world / "kept", tmp_path / "damaged")
    file = damaged / "configs" / "inference.json"
    content = json.loads(file.read_text())
    content["inferer"]["components"]["1"] = {"keep": "both"}
    file.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"components of the label 1 is \{'keep': 'both'\}; accepted are"):
        open_bundle(damaged)


def test_a_bundle_of_views_keeps_its_inferer_inside(tmp_path):
    whole = data_spec()
    for view, name in (("axial", "unet"), ("volume", "vnet")):
        make_bundle(tmp_path / view, whole.of_view(view), name)
    parts = {view: tmp_path / view for view in ("axial", "volume")}
    bundle = join_bundles(tmp_path / "all", parts, data=whole, name="tiny")
    before = (bundle / "configs" / "inference.json").read_text()
    for rules in ({1: {"keep": "largest"}}, RULES):
        set_components(bundle, rules, GAINS)
        assert components_of(bundle) == open_bundle(bundle).inferer.components == rules
    assert open_bundle(bundle).inferer.views == ("axial", "volume")
    page = (bundle / "docs" / "README.md").read_text()
    assert "--inferer#inferer#views" in page
    assert '--inferer#components "{}"' in page
    set_components(bundle, {}, [])
    assert (bundle / "configs" / "inference.json").read_text() == before


def test_what_a_killed_change_leaves_is_removed_by_the_next_run(tmp_path, monkeypatch):
    """The child ends in the middle of it, as by SIGKILL: nothing of its own is done any more."""
    bundle = make_bundle(tmp_path / "bundle")
    monkeypatch.setattr(components_module, "_edit", lambda *arguments: os._exit(9))
    child = os.fork()
    if child == 0:
        set_components(bundle, RULES, GAINS)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert open_bundle(bundle).network
