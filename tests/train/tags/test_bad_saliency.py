"""Saliency that cannot be used, or says nothing, and cases that cannot be labelled: told before hours of training."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tagged import write_tagged

from medseg.config.pipeline import NetworkSpec
from medseg.data.cache import VolumeCache
from medseg.errors import DataError, ManifestError
from medseg.manifest.labelling import is_pseudo
from medseg.manifest.manifest import Manifest, streams_of
from medseg.planning.plan import plan_data
from medseg.progress import forget_told
from medseg.workflows.data.check import check_manifest
from medseg.workflows.train import settings
from medseg.workflows.train.checks import saliency as checks
from medseg.workflows.train.checks.streams import check_all_streams, groups_of_stages
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling.outcome import refuse_nothing_learnt

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = ["data.patch=[16,16,16]", "stages.1.method.options.width=8"]
SMALL += [f"stages.{stage}.network.width=4" for stage in (0, 1)]
SMALL += [f"stages.{stage}.schedule.{setting}" for stage in (0, 1) for setting in ("iterations=2", "workers=0")]


def store(path: Path, number: int, values: np.ndarray) -> None:
    """Give a case of `write_tagged` another saliency."""
    file = path.with_name(f"case{number}_saliency.nii.gz")
    nib.save(nib.Nifti1Image(values, nib.load(path.with_name(f"case{number}.nii.gz")).affine), file)


def filled(value: float, dtype: type = np.float32) -> np.ndarray:
    """A map of 24 x 20 x 18 voxels with some of a value."""
    values = np.zeros((24, 20, 18), dtype)
    values[:2, :2, :2] = value
    return values


def edit(path: Path, change) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def label_first(path: Path, **maps: str) -> Path:
    """Give the first case its label, and these maps alone, in place of tags."""

    def change(content):
        content["training"][0] |= {"label": "case0_label.nii.gz", "maps": maps}
        content["training"][0].pop("tags")

    return edit(path, change)


@pytest.mark.parametrize("task", ["auxsegnet", "group_wsss"])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        (filled(1000, np.int16), "saliency from 0 to 1000; accepted are 0 to 1, or 0 to 255 in 8 bits"),
        (filled(-0.5), "saliency from -0.5 to 0; accepted are 0 to 1, or 0 to 255 in 8 bits"),
        (filled(2.5), "saliency up to 2.5 in floating-point numbers; accepted are 0 to 1, or 0 to 255 in 8 bits"),
        (filled(np.nan), "8 of 8640 voxels are NaN or infinite"),
    ],
)
def test_values_that_are_no_saliency_are_refused_before_the_first_stage(tmp_path, task, values, said):
    path = write_tagged(tmp_path / "data")
    store(path, 1, values)
    with pytest.raises(DataError) as caught:
        train(task, path, tmp_path / "run", overrides=SMALL[:1], device="cpu")
    assert said in str(caught.value)
    assert str(path.with_name("case1_saliency.nii.gz")) in str(caught.value)
    assert not (tmp_path / "run" / "stage0").exists()
    errors = [problem for problem in check_manifest(path).problems if problem.severity == "error"]
    assert [problem.file for problem in errors] == ["case1_saliency.nii.gz"]
    assert said in errors[0].message


def test_whole_numbers_of_two_scales_are_refused(tmp_path):
    """A map of 8 bits up to 1 is read as 0 to 1, which it cannot be where others go to 255."""
    path = write_tagged(tmp_path / "data")
    store(path, 0, filled(1, np.uint8))
    checks.check_saliency(settings.load("auxsegnet"), Manifest.load(path))  # the others are in floating-point numbers
    store(path, 1, filled(255, np.uint8))
    with pytest.raises(DataError, match=r"case0_saliency.nii.gz: saliency up to 1 in whole numbers, and up to 255 in"):
        checks.check_saliency(settings.load("auxsegnet"), Manifest.load(path))


def test_saliency_of_nothing_is_told_and_refused_where_tags_name_a_class(tmp_path, capsys):
    """Cases 0 and 1 are tagged, case 2 is a negative whose saliency is 1 everywhere."""
    forget_told()
    path = write_tagged(tmp_path / "data")
    store(path, 0, filled(0))
    store(path, 2, np.ones((24, 20, 18), np.float32))
    for _ in range(2):
        checks.check_saliency(settings.load("auxsegnet"), Manifest.load(path))
    lines = [line for line in capsys.readouterr().err.splitlines() if "everywhere" in line]
    assert lines == [
        "warning: saliency is 0 everywhere in 1 of 3 cases, 1 of them tagged with a class",
        "warning: saliency is 1 everywhere in 1 of 3 cases, which teach no background",
    ]
    store(path, 1, filled(0))
    with pytest.raises(DataError, match="saliency is 0 everywhere in all 2 cases that are tagged with a class"):
        train("auxsegnet", path, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "stage0").exists()
    checks.check_saliency(settings.load("supervised"), Manifest.load(path))  # which does not look at it


def test_tags_that_name_no_class_are_refused_unless_a_label_does(tmp_path):
    path = edit(write_tagged(tmp_path / "data"), lambda content: [case.update(tags=[]) for case in content["training"]])
    with pytest.raises(ManifestError, match="no case is tagged with any class, and tag_classifier learns classes from"):
        train("auxsegnet", path, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "stage0").exists()
    path = label_first(path, saliency="case0_saliency.nii.gz")
    check_all_streams(settings.load("auxsegnet"), Manifest.load(path))


# Cases whose label is known.


def test_a_labelled_case_is_learnt_with_its_saliency(tmp_path):
    path = label_first(write_tagged(tmp_path / "data"), saliency="case0_saliency.nii.gz")
    groups = groups_of_stages(settings.load("auxsegnet"), Manifest.load(path))
    assert {case.name: case.maps["salient"] for case in groups[1]["labeled"]} == {
        "case0": "case0_saliency.nii.gz", "case1": "made by a rule", "case2": "made by a rule"
    }  # fmt: skip
    run = train("auxsegnet", path, tmp_path / "run", overrides=SMALL, device="cpu")
    made = Manifest.load(run / "stage0" / "labels" / "manifest.json")
    labelled = {case.name: made.resolve(case.maps["salient"]) for case in streams_of(made)["labeled"]}
    assert labelled["case0"].samefile(path.with_name("case0_saliency.nii.gz"))
    assert labelled["case1"] == run.resolve() / "stage0" / "labels" / "pseudo" / "case1_salient.nii.gz"
    assert (run / "bundle" / "configs" / "metadata.json").is_file()


def test_a_labelled_case_without_saliency_is_refused_with_what_to_do(tmp_path):
    path = label_first(write_tagged(tmp_path / "data"))
    with pytest.raises(
        ManifestError, match="needs a map called 'saliency' of each labeled case; 1 have none"
    ) as caught:
        check_all_streams(settings.load("auxsegnet"), Manifest.load(path))
    assert 'add "maps": {"saliency": FILE} to each case, or list it under \'validation\'' in str(caught.value)


@pytest.mark.parametrize("name", ["salient", "saliency"])
def test_maps_of_8_bits_are_brought_to_0_to_1(tmp_path, name):
    values = filled(51, np.uint8)
    values[-1] = 255
    path = label_first(write_tagged(tmp_path / "data"), **{name: "case0_saliency.nii.gz"})
    store(path, 0, values)
    manifest = Manifest.load(path)
    data = plan_data(manifest, network=NetworkSpec(name="unet"), memory_bytes=1e9, overrides={"patch": [16, 16, 16]})
    data = data.model_copy(update={"spacing_mm": (1.0, 1.0, 1.5)})
    (volume,) = VolumeCache(tmp_path / "cache").prepare(manifest, manifest.training[:1], data, maps=[name])
    assert np.unique(volume.map(name)).tolist() == pytest.approx([0, 0.2, 1], abs=1e-3)


# Labels that teach nothing.


def test_a_label_that_ignores_every_voxel_is_kept_for_its_tags_and_its_saliency(tmp_path, capfd):
    """Case 2 shows no class and is salient everywhere: 255 everywhere, as the rule of the paper has it."""
    path = write_tagged(tmp_path / "data")
    store(path, 2, np.full((24, 20, 18), 255, np.uint8))
    run = train("auxsegnet", path, tmp_path / "run", overrides=SMALL, device="cpu")
    made = Manifest.load(run / "stage0" / "labels" / "manifest.json")
    assert [case.name for case in streams_of(made)["labeled"] if is_pseudo(case)] == ["case0", "case1", "case2"]
    assert set(np.unique(np.asarray(nib.load(made.label(made.training[2])).dataobj))) == {255}
    assert "1 of 3 pseudo-labels ignore every voxel: tags and maps alone are learnt of these" in capfd.readouterr().err


def test_what_each_case_lacks_is_said_where_no_label_has_a_structure(tmp_path):
    manifest = Manifest.load(write_tagged(tmp_path / "data"))
    notes = {
        "case0": {"left_out": "for want of tags", "saliency": 0.0, "live_maps": [], "dead_maps": [1, 2]},
        "case1": {"fused": [0, 0, 0], "ignored": 8, "voxels": 8, "saliency": 1.0, "live_maps": [1], "dead_maps": []},
        "case2": {"fused": [8, 0, 0], "ignored": 0, "voxels": 8, "saliency": 0.0, "live_maps": [], "dead_maps": []},
    }
    for name, of_case in notes.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"notes": of_case}))
    with pytest.raises(DataError) as caught:
        refuse_nothing_learnt(manifest, manifest, tmp_path, manifest.training)
    for words in (
        f"{tmp_path}: no pseudo-label has a voxel of any structure: ",
        "1 of 3 cases stay without a label, for want of tags; ",
        "1 of 3 pseudo-labels ignore every voxel: tags and maps alone are learnt of these; ",
        "1 of 3 pseudo-labels have background, and no structure; ",
        "saliency is 0 everywhere in 2 cases; ",
        "the map of ball is nowhere positive, or flat, in 1 of 2 images tagged with it",
        "the map of box is nowhere positive, or flat, in 1 of 1 images tagged with it",
    ):
        assert words in str(caught.value)
    notes["case2"]["fused"] = [7, 1, 0]
    (tmp_path / "case2.json").write_text(json.dumps({"notes": notes["case2"]}))
    refuse_nothing_learnt(manifest, manifest, tmp_path, manifest.training)


def test_a_rule_that_labels_no_case_is_told_with_the_reason(tmp_path):
    options = [*SMALL[:1], *SMALL[2:], "stages.0.then.rule.options.least_foreground=1"]
    with pytest.raises(DataError, match=r"pseudo: no pseudo-label has a voxel of any structure: 2 of 3 cases stay"):
        train("group_wsss", write_tagged(tmp_path / "data"), tmp_path / "run", overrides=options, device="cpu")
    assert not (tmp_path / "run" / "stage1").exists()
