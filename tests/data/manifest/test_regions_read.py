"""Regions, classes that overlap: what manifests and nnU-Net's folders say of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest
from brats_like import CHANNELS, REGIONS, write_brats_like
from tiny_sets import called

from medseg.config.pipeline import NetworkSpec
from medseg.data.preprocess import Job, prepare
from medseg.errors import ConfigError, ManifestError
from medseg.manifest.manifest import Manifest, schema
from medseg.planning.plan import plan_data
from medseg.workflows.consensus.collect_studies import collect_from_manifest
from medseg.workflows.data.check import check_manifest
from medseg.workflows.train.facts.measure import StructureSizes

CASE = {"image": "a.nii.gz", "label": "a_label.nii.gz"}
ORDER = [1, 2, 3]


def built(**changes) -> Manifest:
    content = {"labels": REGIONS, "regions_class_order": ORDER, "training": [CASE], **changes}
    return Manifest.build(content, Path("m.json"))


def test_nnunets_form_and_the_form_that_is_kept_say_the_same(tmp_path):
    manifest = built()
    assert manifest.labels == {0: "background", 1: "whole tumor", 2: "tumor core", 3: "enhancing tumor"}
    assert manifest.members == {1: (1, 2, 3), 2: (2, 3), 3: (3,)}
    assert manifest.value_names == {1: "rest of whole tumor", 2: "rest of tumor core", 3: "enhancing tumor"}
    manifest.save(tmp_path / "kept.json")
    again = Manifest.load(tmp_path / "kept.json")
    assert (again.labels, again.regions) == (manifest.labels, manifest.regions)
    jsonschema.validate(json.loads((tmp_path / "kept.json").read_text()), schema())


def test_without_regions_each_class_has_its_own_value():
    manifest = built(labels={"background": 0, "liver": 1, "spleen": 7})
    assert manifest.members == {1: (1,), 7: (7,)}
    assert manifest.value_names == {1: "liver", 7: "spleen"}
    assert "regions" not in manifest.model_dump(mode="json"), "records of earlier runs stay what they were"


def test_the_order_of_painting_may_differ_from_that_of_the_values():
    """2 is in both and is left to c, the last; a keeps 1, and b 3."""
    manifest = built(labels={"background": 0, "a": [1, 2], "b": [2, 3], "c": [2]}, regions_class_order=[1, 3, 2])
    assert [region.name for region in manifest.regions] == ["a", "b", "c"]
    assert manifest.labels == {0: "background", 1: "a", 2: "c", 3: "b"}
    assert manifest.members == {1: (1, 2), 2: (2,), 3: (2, 3)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"regions_class_order": None}, "regions_class_order: is missing; accepted is a list of 3 values"),
        ({"regions_class_order": [1, 2]}, "regions_class_order: is [1, 2]; accepted is a list of 3 values"),
        ({"regions_class_order": [1, 2, 2]}, "is [1, 2, 2]; accepted are different whole numbers"),
        ({"regions_class_order": [1, 2, "3"]}, "is [1, 2, '3']; accepted are different whole numbers"),
        ({"regions_class_order": [3, 2, 1]}, "the value 1 cannot be written back: it belongs to whole tumor, of which"),
        ({"regions_class_order": [2, 1, 3]}, "the value 1 cannot be written back"),
        ({"regions_class_order": [1, 2, 4]}, "4 is written for 'enhancing tumor', and no region holds it"),
        ({"labels": {**REGIONS, "enhancing tumor": [0, 3]}}, "'enhancing tumor' holds 0; accepted are values of"),
        ({"labels": {**REGIONS, "enhancing tumor": [3, 255]}}, "'enhancing tumor' holds 255; accepted are values of"),
        ({"labels": {**REGIONS, "enhancing tumor": []}}, "regions[2].values"),
        ({"labels": {**REGIONS, "enhancing tumor": ["x"]}}, "regions[2].values[0]: Input should be a valid integer"),
        ({"labels": {"0": "background", "1": "a", "2": "b"}, "regions": [{"name": "a", "values": [1]}]}, "has a;"),
        ({"background": None}, "what is in no region is background, and background is null"),
    ],
)
def test_regions_that_cannot_be_are_refused(changes, told):
    with pytest.raises(ManifestError) as caught:
        built(**changes)
    assert str(caught.value).startswith("m.json: ")
    assert told in str(caught.value)


def test_a_raw_folder_of_nnunet_is_read_and_checked(tmp_path, capfd):
    write_brats_like(tmp_path / "raw")
    init = ("data", "init", tmp_path / "raw", "-o", tmp_path / "m.json")
    assert called(capfd, *init)[0] == 0
    manifest = Manifest.load(tmp_path / "m.json")
    assert manifest.members == {1: (1, 2, 3), 2: (2, 3), 3: (3,)}
    assert (len(manifest.training), len(manifest.test), manifest.channels) == (3, 1, 4)
    assert called(capfd, "data", "check", tmp_path / "m.json")[0] == 0
    described = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    described["labels"]["ignore"] = 4
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(described))
    assert called(capfd, *init)[0] == 0
    assert Manifest.load(tmp_path / "m.json").ignore_index == 4
    del described["regions_class_order"]
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(described))
    code, told = called(capfd, *init)
    assert (code, "dataset.json: regions_class_order: is missing" in told) == (2, True), told


def test_a_consensus_names_values_as_what_they_are(tmp_path):
    annotations = [{"rater": rater, "label": f"{rater}.nii.gz"} for rater in ("ann", "bob")]
    (item,) = collect_from_manifest(built(training=[{"image": "a.nii.gz", "annotations": annotations}]), None)
    assert item.reading["labels"] == {
        0: "background",
        1: "rest of whole tumor",
        2: "rest of tumor core",
        3: "enhancing tumor",
    }
    annotations[0]["classes"] = ["tumor core"]
    with pytest.raises(ManifestError, match="rater 'ann' looked for some classes only, and the classes are regions"):
        collect_from_manifest(built(training=[{"image": "a.nii.gz", "annotations": annotations}]), None)


def one_case(folder: Path, **changes) -> Manifest:
    """The manifest of a folder of one case."""
    write_brats_like(folder, labelled=1, test=0)
    case = {"image": [f"imagesTr/case0_{channel:04d}.nii.gz" for channel in range(4)], **changes}
    case["label"] = "labelsTr/case0.nii.gz"
    content = {"labels": REGIONS, "regions_class_order": ORDER, "modality": list(CHANNELS), "training": [case]}
    (folder / "m.json").write_text(json.dumps(content))
    return Manifest.load(folder / "m.json")


def test_a_class_is_there_if_any_of_its_values_is(tmp_path):
    manifest = one_case(tmp_path, tags=["tumor core"])
    path = tmp_path / "labelsTr" / "case0.nii.gz"
    label = nib.load(path)
    values = np.asarray(label.dataobj)
    nib.save(nib.Nifti1Image(np.where(values == 1, 2, values), label.affine), path)
    told = [problem.message for problem in check_manifest(manifest.path).problems]
    assert any("whole tumor, enhancing tumor: in the label only" in line for line in told), told
    assert not any("it cannot be learnt" in line for line in told), "2 is in the whole tumour, too"


def test_sizes_are_those_of_unions(tmp_path):
    """Boxes of 12 x 10 x 8, 7 x 6 x 5 and 4 x 3 x 3 voxels of 1.5 mm3, one inside the other."""
    manifest = one_case(tmp_path)
    sizes = StructureSizes(manifest, "ml")
    sizes.add(manifest.training[0])
    assert {value: found.size.median for value, found in sizes.facts().items()} == {1: 1.44, 2: 0.315, 3: 0.054}


def test_the_plan_has_regions_and_no_channel_for_the_background(tmp_path):
    spec = plan_data(one_case(tmp_path), network=NetworkSpec(name="unet"), memory_bytes=1e9)
    assert (spec.classes, spec.output_values, spec.paint_order) == (4, (1, 2, 3), (1, 2, 3))
    assert spec.region_members == ((1, 2, 3), (2, 3), (3,))
    with pytest.raises(ConfigError, match=r"data\.regions is given, and not that of the manifest"):
        plan_data(one_case(tmp_path), network=NetworkSpec(name="unet"), memory_bytes=1e9, overrides={"regions": []})


@pytest.mark.parametrize(
    ("told", "kept"), [("tumor core", [0, 2, 3]), ("whole tumor", [0, 1, 2, 3]), ("enhancing tumor", [0, 3])]
)
def test_a_label_of_some_regions_keeps_their_values_only(told, kept, tmp_path):
    """A label that tells the core knows 2 and 3; what is 1 in it is background."""
    manifest = one_case(tmp_path, classes=[told])
    spec = plan_data(manifest, network=NetworkSpec(name="unet"), memory_bytes=1e9)
    (case,) = manifest.training
    job = Job("case0", manifest.images(case), manifest.label(case), spec, covered=manifest.covered(case))
    found = prepare(job).label
    assert found is not None
    values = np.asarray(nib.load(tmp_path / "labelsTr" / "case0.nii.gz").dataobj)
    expected = np.where(np.isin(values, kept), values, 0)
    assert np.bincount(found.ravel()).tolist() == np.bincount(expected.ravel()).tolist()
