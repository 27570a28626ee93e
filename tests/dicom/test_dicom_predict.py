"""Prediction of DICOM series, and its results as DICOM SEG and NRRD, checked with independent readers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicoms import STRAIGHT, affine_of, by_dcmqi, enhanced, header, read_all, turned, write_series
from forking import python
from models import data_spec, labels_of, make_bundle
from pages import Page
from scipy import ndimage

from medseg.cli.app import main
from medseg.consensus.io.annotations.segment_table import read_segments
from medseg.dicom.annotation import read_annotation
from medseg.dicom.scan.series import open_series
from medseg.dicom.writing.snomed import code_of
from medseg.dicom.writing.write_seg import Author, SegmentDescription, write_segmentation
from medseg.errors import ConfigError, DataError
from medseg.portable.io.read import read_volume
from medseg.workflows.predict.run import predict

SPACING = (1.2, 0.9, 2.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "abdomen" / "bundle").parent


def scan(shape=(30, 26, 14)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, shape), 3)
    return (noise * 8000 + 1000).clip(0, 3000).astype(np.uint16)


def statuses(report: dict) -> list[str]:
    return [case["status"] for case in report["cases"]]


@pytest.mark.parametrize("kind", ["straight", "oblique", "backwards", "multiframe"])
def test_a_series_predicts_like_its_voxels_in_a_file_and_seg_keeps_every_voxel(kind, model, tmp_path):
    axes = STRAIGHT if kind in ("straight", "backwards") else turned()
    place = tmp_path / "case"
    if kind == "multiframe":
        order = np.random.default_rng(2).permutation(14).tolist()
        place.mkdir()
        enhanced(place / "ct.dcm", scan(), axes=axes, spacing=SPACING, order=order)
    else:
        write_series(place, scan(), axes=axes, spacing=SPACING, backwards=kind == "backwards")
    predict(model, place, tmp_path / "out")
    (tmp_path / "files").mkdir()
    affine = affine_of(axes, SPACING)
    nib.save(nib.Nifti1Image(scan().astype(np.int16) - 1024, affine), tmp_path / "files" / "case.nii.gz")
    predict(model, tmp_path / "files", tmp_path / "plain")
    labels = labels_of(tmp_path / "out" / "case.nii.gz")
    np.testing.assert_array_equal(labels, labels_of(tmp_path / "plain" / "case.nii.gz"))
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "case.nii.gz").affine, affine, atol=1e-4)
    assert set(np.unique(labels)) == {0, 1, 7}
    predict(model, place, tmp_path / "out", format="dicom-seg")
    found = by_dcmqi(tmp_path / "out" / "case.dcm", tmp_path / "dcmqi", affine, labels.shape)
    np.testing.assert_array_equal(np.array([0, 1, 7], np.uint8)[found], labels)
    predict(model, place, tmp_path / "out", format="rtstruct")
    contours = read_annotation(tmp_path / "out" / "case.rtstruct.dcm", open_series(place).header)
    assert contours.names == ("liver", "spleen")
    np.testing.assert_array_equal(np.array([0, 1, 7], np.uint8)[contours.labels], labels)


def test_what_a_segmentation_tells(model, tmp_path):
    write_series(tmp_path / "p1", scan(), spacing=SPACING)
    report = predict(model, tmp_path / "p1", tmp_path / "out", format="dicom-seg")
    assert report["cases"][0]["result"] == "p1.dcm"
    seg, images = pydicom.dcmread(tmp_path / "out" / "p1.dcm"), read_all(tmp_path / "p1")
    assert (seg.Modality, seg.SegmentationType, seg.SeriesDescription) == ("SEG", "BINARY", "medseg abdomen")
    assert seg.PatientName == "Doe^Jane"
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[name].value == images[0][name].value
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == images[0].SeriesInstanceUID
    uids = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert uids == {image.SOPInstanceUID for image in images}
    positions = {image.SOPInstanceUID: list(image.ImagePositionPatient) for image in images}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == positions[source]
    liver, spleen = seg.SegmentSequence
    assert [s.SegmentLabel for s in (liver, spleen)] == ["liver", "spleen"]
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert liver.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert liver.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "medseg abdomen"
    assert "image=" in algorithm.AlgorithmParameters
    assert liver.TrackingID == "medseg liver"
    assert liver.TrackingUID != spleen.TrackingUID


def test_finished_cases_are_known_in_every_format(model, tmp_path):
    write_series(tmp_path / "in" / "a", scan(), spacing=SPACING)
    write_series(tmp_path / "in" / "b" / "deeper", scan()[:, ::-1], spacing=SPACING)
    for kind in ("nrrd", "dicom-seg", "rtstruct"):
        assert statuses(predict(model, tmp_path / "in", tmp_path / "out", format=kind)) == ["done"] * 2
        assert statuses(predict(model, tmp_path / "in", tmp_path / "out", format=kind)) == ["skipped"] * 2
    write_series(tmp_path / "in" / "a", scan()[::-1], spacing=SPACING)
    assert statuses(predict(model, tmp_path / "in", tmp_path / "out", format="nrrd")) == ["done", "skipped"]
    nrrd = tmp_path / "out" / "a.seg.nrrd"
    assert [(s.value, s.name) for s in read_segments(nrrd)] == [(1, "liver"), (7, "spleen")]
    predict(model, tmp_path / "in" / "a", tmp_path / "plain")
    array, found = read_volume(nrrd)
    np.testing.assert_array_equal(array[0], labels_of(tmp_path / "plain" / "a.nii.gz"))
    np.testing.assert_allclose(found.affine, affine_of(STRAIGHT, SPACING), atol=1e-5)


def test_one_bad_series_of_several_does_not_stop_the_others(model, tmp_path):
    write_series(tmp_path / "in" / "good", scan(), spacing=SPACING)
    write_series(tmp_path / "in" / "gap", scan(), spacing=SPACING, change=lambda data, z: z != 5)
    cut = write_series(tmp_path / "in" / "damaged", scan(), spacing=SPACING)
    for path in cut:
        path.write_bytes(path.read_bytes()[:500])
    report = predict(model, tmp_path / "in", tmp_path / "out")
    assert statuses(report) == ["failed", "failed", "done"]
    assert "is a damaged DICOM file" in report["failed"][0]["error"]
    assert "1 slice is missing" in report["failed"][1]["error"]
    slices = {path.name: path.read_bytes() for path in (tmp_path / "in" / "good").iterdir()}
    (tmp_path / "in" / "good" / "IM0003.dcm").rename(tmp_path / "in" / "good" / "good.dcm")
    report = predict(model, tmp_path / "in", tmp_path / "in" / "good", format="dicom-seg")
    assert "the result good.dcm would overwrite a slice" in report["failed"][2]["error"]
    assert (tmp_path / "in" / "good" / "good.dcm").read_bytes() == slices["IM0003.dcm"]


def test_a_series_spread_over_folders_is_one_case(model, tmp_path):
    for number, path in enumerate(write_series(tmp_path / "all", scan(), spacing=SPACING)):
        folder = tmp_path / "in" / f"disk{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    report = predict(model, tmp_path / "in", tmp_path / "out")
    assert [case["case"] for case in report["cases"]] == ["in"]
    assert labels_of(tmp_path / "out" / "in.nii.gz").shape == scan().shape


def test_empty_results_colours_sides_and_anonymous_images(tmp_path):
    def anonymous(data, z):
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                     "StudyDate", "StudyTime", "FrameOfReferenceUID"):  # fmt: skip
            delattr(data, name)
        data.PatientSex = "U"  # what many archives write, and the standard does not know

    write_series(tmp_path / "in", scan((9, 8, 4)), change=anonymous)
    series = open_series(tmp_path / "in")
    marks = [
        SegmentDescription("kidney_left", (1, 0, 0)),
        SegmentDescription("liver tumour"),
        SegmentDescription("something else"),
    ]
    for name, labels in (("empty", np.zeros((9, 8, 4), np.uint8)), ("full", np.full((9, 8, 4), 2, np.uint8))):
        path = tmp_path / f"{name}.dcm"
        write_segmentation(path, labels, series, marks, Author("medseg", "medseg"))
        found = by_dcmqi(path, tmp_path / name, series.header.affine, labels.shape)
        np.testing.assert_array_equal(found, labels)
        written = pydicom.dcmread(path)
        assert written.PatientSex == ""
        assert written.FrameOfReferenceUID
        kidney, tumour, other = written.SegmentSequence
        kind = kidney.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeMeaning, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning) == ("Kidney", "Left")
        assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Morphologically Abnormal Structure"
        assert tumour.AnatomicRegionSequence[0].CodeMeaning == "Liver"
        assert other.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
        assert "RecommendedDisplayCIELabValue" in kidney


def test_names_in_any_script_survive(tmp_path):
    def latin(data, z):
        data.SpecificCharacterSet, data.PatientName = "ISO_IR 100", "Müller^Jürgen"

    write_series(tmp_path / "in", scan((9, 8, 4)), change=latin)
    names, labels = ["肝脏", "a\\b " + "c" * 80], np.full((9, 8, 4), 2, np.uint8)
    series = open_series(tmp_path / "in")
    write_segmentation(tmp_path / "a.dcm", labels, series, [SegmentDescription(n) for n in names], Author("é", "é"))
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["肝脏", "a/b " + "c" * 60]
    assert (seg.PatientName, seg.SeriesDescription) == ("Müller^Jürgen", "é")


@pytest.mark.parametrize(
    ("name", "meaning", "side"),
    [("Left Atrium", "Left atrium", None), ("rightAdrenalGland", "Adrenal gland", "Right"),
     ("IVC", "Inferior vena cava", None), ("lungs", "Lung", None), ("label 3", "Tissue", None),
     ("tumor", "Neoplasm", None), ("l_kidney", "Kidney", "Left")],
)  # fmt: skip
def test_codes_of_names(name, meaning, side):
    coded = code_of(name)
    assert coded.kind.meaning == meaning
    assert (coded.side.meaning if coded.side else None) == side
    assert coded.known == (name != "label 3")


def line_of(capfd, *arguments) -> str:
    """The one line that a command ends with."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    said = capfd.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1, said
    return said


def test_mistakes_are_one_line_and_exit_code_2(model, capfd, tmp_path, monkeypatch):
    write_series(tmp_path / "two" / "a", scan((9, 8, 4)))
    write_series(tmp_path / "two" / "b", scan((9, 8, 5)))
    write_series(tmp_path / "gap", scan((9, 8, 6)), change=lambda data, z: z != 3)
    nib.save(nib.Nifti1Image(scan(), np.eye(4)), tmp_path / "x.nii.gz")
    out = ("-o", tmp_path / "out", "-m", model)
    assert "accepted are auto, nifti, png, nrrd, dicom-seg" in line_of(
        capfd, "predict", "-i", "gap", *out, "--format", "stl"
    )
    assert f"{tmp_path / 'gap'}: 1 slice is missing" in line_of(capfd, "predict", "-i", tmp_path / "gap", *out)
    told = line_of(capfd, "predict", "-i", tmp_path / "two", *out, "--series", "1.2")
    assert "has no image series 1.2; it has" in told
    told = line_of(capfd, "predict", "-i", tmp_path / "x.nii.gz", *out, "--format", "dicom-seg")
    assert f"{tmp_path / 'x.nii.gz'} is no DICOM" in told
    assert "needs DICOM" in line_of(capfd, "predict", "-i", tmp_path / "x.nii.gz", *out, "--series", "1.2")
    monkeypatch.setattr("medseg.dicom.availability.find_spec", lambda name: None)
    assert "pip install medseg[dicom]" in line_of(capfd, "predict", "-i", tmp_path / "gap", *out)


def test_one_of_several_series_by_its_uid(model, tmp_path):
    write_series(tmp_path / "in" / "a", scan((9, 8, 4)))
    write_series(tmp_path / "in" / "b", scan((9, 8, 5)))
    uid = read_all(tmp_path / "in" / "b")[0].SeriesInstanceUID
    predict(model, tmp_path / "in", tmp_path / "out", series=uid)
    assert labels_of(tmp_path / "out" / "in.nii.gz").shape == (9, 8, 5)


def test_models_of_several_channels_and_folders_without_images_are_refused(tmp_path):
    both = make_bundle(tmp_path / "both", data_spec(modality=("T1", "T2"), intensity={"kind": "zscore"}))
    write_series(tmp_path / "in", scan((9, 8, 4)))
    with pytest.raises(DataError, match="one series for a case; the model takes 2 channels"):
        predict(both, tmp_path / "in", tmp_path / "out")
    (tmp_path / "report").mkdir()
    report = header("1.2.3", 0, "SR")
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.save_as(tmp_path / "report" / "a.dcm", enforce_file_format=True)
    single = make_bundle(tmp_path / "single")
    with pytest.raises(DataError, match="holds DICOM files but no images: series 1 of SR"):
        predict(single, tmp_path / "report", tmp_path / "out")
    nib.save(nib.Nifti1Image(scan((9, 8, 4)), np.eye(4)), tmp_path / "report" / "x.nii.gz")
    with pytest.raises(DataError, match=r"holds DICOM files and 1 volumes such as x\.nii\.gz; say which"):
        predict(single, tmp_path / "report", tmp_path / "out")
    with pytest.raises(ConfigError, match="folder of the images"):
        predict(single, tmp_path / "in", tmp_path / "in")


def test_the_command(model, tmp_path):
    write_series(tmp_path / "p1", scan(), spacing=SPACING)
    command = [python(), "-m", "medseg", "predict", "-m", str(model), "-i", "p1", "-o", "out"]
    run = subprocess.run([*command, "--format", "dicom-seg"], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0
    assert run.stderr.splitlines()[-1] == "1 predicted, 0 already there, 0 failed: out"
    assert pydicom.dcmread(tmp_path / "out" / "p1.dcm").SeriesDescription == "medseg abdomen"


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
def test_labels_are_kept_where_dicom_fails_after_the_network_has_run(kind, model, tmp_path, monkeypatch, capfd):
    write_series(tmp_path / "p1", scan(), spacing=SPACING)
    name = {"dicom-seg": "write_segmentation", "rtstruct": "write_rtstruct"}[kind]

    def fail(*_):
        raise ValueError("a sequence of odd length")

    monkeypatch.setattr(f"medseg.dicom.writing.write_labels.{name}", fail)
    report = predict(model, tmp_path / "p1", tmp_path / "out", format=kind)
    told = f"no {kind} can be written (a sequence of odd length); its labels are in p1.nii.gz"
    assert told in report["failed"][0]["error"]
    assert told in capfd.readouterr().err
    assert (report["cases"][0]["status"], report["cases"][0]["result"]) == ("done", "p1.nii.gz")
    predict(model, tmp_path / "p1", tmp_path / "plain")
    kept = labels_of(tmp_path / "out" / "p1.nii.gz")
    np.testing.assert_array_equal(kept, labels_of(tmp_path / "plain" / "p1.nii.gz"))
    with pytest.raises(DataError, match="a sequence of odd length"):
        predict(model, tmp_path / "p1", tmp_path / "strict", format=kind, strict=True)


@pytest.mark.parametrize("kind", ["nifti", "nrrd", "dicom-seg", "rtstruct"])
def test_the_page_shows_series_whatever_the_format_of_the_result(kind, model, tmp_path):
    write_series(tmp_path / "p1", scan(), spacing=SPACING)
    predict(model, tmp_path / "p1", tmp_path / "out", format=kind)
    page = Page((tmp_path / "out" / "predict_report.html").read_text())
    assert [link[:14] for link in page.links] == ["data:image/png"]
