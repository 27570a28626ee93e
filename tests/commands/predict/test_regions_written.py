"""Results of models of regions in every format, averaged over models, exported, and what cannot show them."""

from __future__ import annotations

import json
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import onnx
import pydicom
import pytest
from dicoms import write_series
from models import data_spec, labels_of, make_bundle, make_image
from pages import Page
from scipy import ndimage
from tiny_sets import called

from medseg.bundle.bundle import open_bundle
from medseg.bundle.training_facts import Spread, StructureFacts, TrainingFacts
from medseg.config.pipeline import DataSpec
from medseg.consensus.io.annotations.segment_table import read_segments
from medseg.dicom.annotation import read_annotation
from medseg.dicom.scan.series import open_series
from medseg.errors import BundleError
from medseg.manifest.regions import Region
from medseg.portable.io.header import Header
from medseg.portable.io.read import read_volume
from medseg.workflows.export import run as export
from medseg.workflows.predict.in_memory import predict as predict_in_memory
from medseg.workflows.predict.plausibility.volumes import volume_findings
from medseg.workflows.predict.run import predict

REGIONS = (
    Region(name="whole", values=(2, 5, 7)),
    Region(name="core", values=(2, 7)),
    Region(name="enhancing", values=(7,)),
)
"""Painted in this order, which is not that of the values: 5, then 2, then 7."""
MEMBERS = {"whole": [2, 5, 7], "core": [2, 7], "enhancing": [7]}
NO_AXIS_TURNED = np.diag([1.5, 1.5, 2.0, 1.0])


def regions(**changes) -> DataSpec:
    labels = {0: "background", 5: "whole", 2: "core", 7: "enhancing"}
    return data_spec(labels=labels, regions=REGIONS, **changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Two models of the same regions, an image as a file and as a series, and what each model makes of the file."""
    folder = tmp_path_factory.mktemp("written")
    for name in ("unet", "vnet"):
        make_bundle(folder / name, regions(), name, independent=True)
        if name == "unet":
            make_image(folder / "images" / "ct.nii.gz", shape=(20, 18, 16), affine=NO_AXIS_TURNED)
        predict(folder / name, folder / "images", folder / "alone" / name, probabilities=True, report=False)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (24, 22, 10)), 3)
    write_series(folder / "series", (noise * 8000 + 1000).clip(0, 3000).astype(np.uint16), spacing=(1.5, 1.5, 2.0))
    predict(folder / "unet", folder / "series", folder / "plain", report=False)
    return folder


def test_every_region_is_somewhere(world):
    """So that the comparisons below are of something."""
    for labels in (labels_of(world / "alone/unet/ct.nii.gz"), labels_of(world / "plain/series.nii.gz")):
        assert set(np.unique(labels)) >= {2, 7}


def stored(folder: Path) -> np.ndarray:
    """Probabilities `(X, Y, Z, K)` of core, whole and enhancing in steps of 1/255."""
    return np.rint(nib.load(folder / "probabilities" / "ct.nii.gz").get_fdata() * 255).astype(int)


def painted(present: np.ndarray) -> np.ndarray:
    """Label values of `(X, Y, Z, K)`: channels are in the order of the values 2, 5 and 7."""
    labels = np.zeros(present.shape[:3], np.uint8)
    for channel, value in ((1, 5), (0, 2), (2, 7)):
        labels[present[..., channel]] = value
    return labels


def test_the_mean_of_the_probabilities_of_models_decides(world, tmp_path):
    models = [world / "unet", world / "vnet"]
    predict(models, world / "images", tmp_path, probabilities=True, report=False)
    total = sum(stored(world / "alone" / name) for name in ("unet", "vnet"))
    found = labels_of(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(found, painted(total > 255))
    np.testing.assert_array_equal(found, painted(stored(tmp_path) >= 128))
    assert np.abs(stored(tmp_path) - total / 2).max() <= 0.5
    for name in ("unet", "vnet"):
        np.testing.assert_array_equal(
            labels_of(world / "alone" / name / "ct.nii.gz"), painted(stored(world / "alone" / name) >= 128)
        )


def test_models_of_other_regions_are_not_averaged(world, tmp_path):
    make_bundle(tmp_path / "plain", data_spec(labels={0: "background", 5: "whole", 2: "core", 7: "enhancing"}))
    with pytest.raises(BundleError, match=r"finds 0 background, 2 core, .*unet whole \(2, 5, 7\), core \(2, 7\), enh"):
        predict([world / "unet", tmp_path / "plain"], world / "images", tmp_path / "out")


def test_images_in_memory_have_the_labels_of_files(world):
    found = predict_in_memory(str(world / "unet"), nib.load(world / "images" / "ct.nii.gz"))
    np.testing.assert_array_equal(np.asarray(found.dataobj), labels_of(world / "alone/unet/ct.nii.gz"))


def test_segments_of_dicom_overlap_as_the_regions_do(world, tmp_path):
    labels = labels_of(world / "plain/series.nii.gz")
    predict(world / "unet", world / "series", tmp_path, format="dicom-seg")
    seg = hd.seg.Segmentation.from_dataset(pydicom.dcmread(tmp_path / "series.dcm"))
    assert [seg.get_segment_description(n).segment_label for n in (1, 2, 3)] == list(MEMBERS)
    for number, values in enumerate(MEMBERS.values(), start=1):
        mask = seg.get_volume(segment_numbers=[number], combine_segments=False).array[..., 0]
        assert int(mask.sum()) == int(np.isin(labels, values).sum()) > 0
    page = Page((tmp_path / "predict_report.html").read_text())
    assert [link[:14] for link in page.links] == ["data:image/png"]


def test_contours_are_those_of_unions(world, tmp_path):
    labels = labels_of(world / "plain/series.nii.gz")
    predict(world / "unet", world / "series", tmp_path, format="rtstruct", report=False)
    for name, values in MEMBERS.items():
        grid = open_series(world / "series").header
        found = read_annotation(tmp_path / "series.rtstruct.dcm", grid, only=[name])
        assert int(found.labels.sum()) == int(np.isin(labels, values).sum()) > 0


def test_a_format_of_one_name_a_value_says_what_the_value_is(world, tmp_path):
    predict(world / "unet", world / "images", tmp_path, format="nrrd", report=False)
    array, _ = read_volume(tmp_path / "ct.seg.nrrd")
    found = {segment.name: int((array == segment.value).sum()) for segment in read_segments(tmp_path / "ct.seg.nrrd")}
    labels = labels_of(world / "alone/unet/ct.nii.gz")
    values = {"rest of whole": 5, "rest of core": 2, "enhancing": 7}
    assert found == {name: int((labels == value).sum()) for name, value in values.items()}


def test_an_export_tells_how_labels_are_painted(world):
    model, bundle = onnx.ModelProto(), open_bundle(world / "unet")
    export._describe(model, bundle, export._chosen_part(bundle, None))
    told = {entry.key: entry.value for entry in model.metadata_props}
    channels = [(each["channel"], each["value"], each["name"]) for each in json.loads(told["classes"])]
    assert channels == [(0, 2, "core"), (1, 5, "whole"), (2, 7, "enhancing")]
    assert [each["name"] for each in json.loads(told["regions"])] == ["whole", "core", "enhancing"]
    assert told["probabilities"] == "sigmoid"


def test_the_label_server_refuses_regions(world, tmp_path, capfd):
    (tmp_path / "studies").mkdir()
    places = ("--studies", tmp_path / "studies", "--work", tmp_path / "work")
    code, told = called(capfd, "serve", "--models", world / "unet", *places)
    assert code == 2
    assert "unet has regions, which overlap, and clients of the server show one class a voxel" in told


def test_sizes_that_are_compared_with_training_are_those_of_unions():
    """The whole of 3 ml is in all training labels; in the result it has 4 voxels of 1 ml, none of its own value."""
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[2:4, 2:4, 3] = 7
    counts = np.bincount(labels.ravel(), minlength=256)
    size = Spread(smallest=3.0, median=3.0, largest=3.0)
    known = {value: StructureFacts(cases=4, absent=0, subjects=4, size=size) for value in (2, 5)}
    known[7] = StructureFacts(cases=4, absent=0, subjects=4, size=Spread(smallest=0.2, median=0.3, largest=0.4))
    facts = TrainingFacts(date="2026-01-01", versions={}, cases={}, structures=known)
    header = Header(Path("a.nii.gz"), labels.shape, 1, np.diag([10.0, 10, 10, 1]), (10.0, 10.0, 10.0), labels.dtype)
    found = volume_findings(labels, counts, header, regions(smallest_mm=(60.0, 60.0, 60.0)), facts)
    assert [(each.kind, each.of) for each in found] == [("volume", "enhancing")]


def test_the_bundle_opens_as_it_was_written(world):
    bundle = open_bundle(world / "unet")
    assert bundle.data == regions()
    assert bundle.data.paint_order == (2, 1, 3)
