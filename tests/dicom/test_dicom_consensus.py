"""Raters' annotations as DICOM SEG and RTSTRUCT: read onto the series, fused, and written as DICOM SEG."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicoms import STRAIGHT, affine_of, by_dcmqi, contour, enhanced, turned, write_contours, write_series
from forking import python
from pydicom.data import get_testdata_file
from raters import ball, fields_of, image_of, save, seg_nrrd
from skimage.draw import polygon

from medseg.cli.app import main
from medseg.consensus.io.annotations.segment_table import read_segments
from medseg.consensus.io.read_study import read_study
from medseg.consensus.io.write_results import write_labels
from medseg.dicom.annotation import read_annotation
from medseg.dicom.scan.series import open_series
from medseg.dicom.writing.write_seg import Author, SegmentDescription, write_segmentation
from medseg.errors import ConfigError, DataError
from medseg.portable.io.header import Header
from medseg.portable.io.read import read_volume

SHAPE = (24, 20, 12)
AUTHOR = Author("a person", "by hand")


def drawings() -> dict[str, np.ndarray]:
    return {"anna": ball(), "bob": ball(radius=6.5), "cleo": ball(shift=(0.5, 0, 0))}


def write_case(folder: Path, axes=STRAIGHT, **given) -> Path:
    stored = (image_of(ball()) + 1024).astype(np.uint16)
    write_series(folder, stored, axes=axes, **given)
    return folder


def seg(path: Path, labels: np.ndarray, series: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_segmentation(path, labels, open_series(series), [SegmentDescription(n, (0, 0.5, 1)) for n in names], AUTHOR)
    return path


def refusal(image, annotations, **reading) -> str:
    with pytest.raises(DataError) as caught:
        read_study(image, annotations, **reading)
    return str(caught.value)


@pytest.mark.parametrize("axes", [STRAIGHT, turned(), -STRAIGHT])
def test_segmentations_lie_on_the_series_voxel_by_voxel(axes, tmp_path):
    series = write_case(tmp_path / "ct", axes, backwards=True)
    labels = ball() + ball(radius=2)  # of two structures, and empty at both ends
    labels[:, :, 5] = 0  # and in the middle
    study, form = read_study(series, [seg(tmp_path / "anna.dcm", labels, series, "liver", "tumour")])
    np.testing.assert_array_equal(study.raters[0].labels, labels)
    assert study.classes == ("background", "liver", "tumour")
    assert study.raters[0].name == "anna"
    assert form.segments[0].color == pytest.approx((0, 0.5, 1), abs=0.01)
    assert not form.notes
    np.testing.assert_array_equal(study.image[0], image_of(ball()))


@pytest.mark.parametrize("slices", [[5], [2, 6], [1, 4, 10]])
def test_segmentations_of_few_slices_that_do_not_state_their_distance(slices, tmp_path):
    series, labels = write_case(tmp_path / "ct", turned()), np.zeros(SHAPE, np.uint8)
    labels[3:9, 4:8, slices] = 1
    data = pydicom.dcmread(path := seg(tmp_path / "a.dcm", labels, series, "liver"))
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        if name in measures:
            delattr(measures, name)
    data.save_as(path)
    study, _ = read_study(series, [path])
    np.testing.assert_array_equal(study.raters[0].labels, labels)


def test_a_segmentation_that_dcmqi_wrote(tmp_path):
    series = write_case(tmp_path / "ct", turned())
    truth = ball()
    mask = save(tmp_path / "mask.nrrd", truth, affine_of(turned()))
    code = {"CodeValue": "10200004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Liver"}
    kind = {"CodeValue": "123037004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Anatomical Structure"}
    segment = {"labelID": 1, "SegmentLabel": "liver", "SegmentAlgorithmType": "MANUAL",
               "SegmentedPropertyCategoryCodeSequence": kind, "SegmentedPropertyTypeCodeSequence": code}  # fmt: skip
    about = {"ContentCreatorName": "Reader1", "SeriesDescription": "by dcmqi", "segmentAttributes": [[segment]],
             "SeriesNumber": "3", "InstanceNumber": "1", "ClinicalTrialSeriesID": "s", "ClinicalTrialTimePointID": "1",
             "ClinicalTrialCoordinatingCenterName": "c"}  # fmt: skip
    (tmp_path / "about.json").write_text(json.dumps(about))
    tool = Path(sys.executable).with_name("itkimage2segimage")
    if not tool.exists():
        pytest.skip("dcmqi is not installed for this platform")
    command = [tool, "--inputDICOMDirectory", series, "--inputImageList", mask, "--inputMetadata",
               tmp_path / "about.json", "--outputDICOM", tmp_path / "theirs.dcm"]  # fmt: skip
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    study, _ = read_study(series, [tmp_path / "theirs.dcm"])
    np.testing.assert_array_equal(study.raters[0].labels, truth)
    assert study.classes == ("background", "liver")


@pytest.mark.parametrize(
    "name", ["MR_small_bigendian.dcm", "MR_small_RLE.dcm", "CT_small.dcm", "dicomdirtests/98892001/CT5N"]
)  # fmt: skip
def test_images_of_scanners_come_back_with_what_was_drawn_on_them(name, tmp_path):
    place = Path(get_testdata_file("MR_small.dcm")).parent / name
    labels = np.zeros(open_series(place).header.shape, np.uint8)
    labels[3:9, 2:14] = 1
    study, _ = read_study(place, [seg(tmp_path / "a.dcm", labels, place, "liver")])
    np.testing.assert_array_equal(study.raters[0].labels, labels)


def test_contours_of_a_planning_system_are_read(tmp_path):
    path = Path(get_testdata_file("rtstruct.dcm"))  # without a preamble
    affine = np.diag([-1.0, -1, 1, 1])
    affine[:3, 3] = [200, 200, -200]
    grid = Header(tmp_path, (400, 400, 400), 1, affine, (1, 1, 1), np.dtype(np.int16))
    data = pydicom.dcmread(path, force=True)
    names = [item.ROIName for item in data.StructureSetROISequence]
    found = read_annotation(path, grid, only=names[:1])
    assert found.names == (names[0],)
    heights = {float(c.ContourData[2]) for c in data.ROIContourSequence[0].ContourSequence}
    assert {z - 200.0 for z in np.flatnonzero(found.labels.any((0, 1)))} == heights


def test_overlapping_segments_fractions_and_a_choice(tmp_path):
    import highdicom as hd

    series = write_case(tmp_path / "ct")
    stacked = np.stack([ball(), ball(radius=2)], -1).transpose(2, 1, 0, 3)
    first = pydicom.dcmread(seg(tmp_path / "x.dcm", ball(), series, "liver", "tumour"))
    images = [pydicom.dcmread(path) for path in open_series(series).files]
    how = {"source_images": images, "segment_descriptions": hd.seg.segread(tmp_path / "x.dcm").SegmentSequence,
           "series_instance_uid": "1.2.3", "series_number": 1, "sop_instance_uid": "1.2.3.4", "instance_number": 1,
           "manufacturer": "x", "manufacturer_model_name": "x", "software_versions": "1",
           "device_serial_number": "1"}  # fmt: skip
    assert first.SegmentsOverlap == "NO"
    hd.seg.Segmentation(pixel_array=stacked, segmentation_type="BINARY", **how).save_as(tmp_path / "over.dcm")
    study, form = read_study(series, [tmp_path / "over.dcm"])
    np.testing.assert_array_equal(study.raters[0].labels, ball() + ball(radius=2))
    assert any("'liver' encloses 'tumour', which counts there" in note for note in form.notes)
    study, form = read_study(series, [tmp_path / "over.dcm"], labels={1: "Liver"})
    np.testing.assert_array_equal(study.raters[0].labels, ball())
    assert any("left out: tumour" in note for note in form.notes)
    assert "no structure called spleen; it has liver, tumour" in refusal(
        series, [tmp_path / "over.dcm"], labels={1: "spleen"}
    )
    shares = np.where(stacked > 0, [0.6, 0.3], 0.0)
    hd.seg.Segmentation(pixel_array=shares, segmentation_type="FRACTIONAL", **how).save_as(tmp_path / "part.dcm")
    study, form = read_study(series, [tmp_path / "part.dcm"])
    np.testing.assert_array_equal(study.raters[0].labels, ball())
    assert any("fractions" in note for note in form.notes)
    hd.seg.Segmentation(pixel_array=(ball() + ball(radius=2)).transpose(2, 1, 0), segmentation_type="LABELMAP",
                        **how).save_as(tmp_path / "map.dcm")  # fmt: skip
    study, form = read_study(series, [tmp_path / "map.dcm"])
    np.testing.assert_array_equal(study.raters[0].labels, ball() + ball(radius=2))


@pytest.mark.parametrize("axes", [STRAIGHT, turned()])
def test_contours_of_masks_give_the_masks_back(axes, tmp_path):
    series = write_case(tmp_path / "ct", axes)
    rng = np.random.default_rng(0)
    holes = ball(radius=6.5) * (1 - ball(radius=3))
    ragged = ((rng.random(SHAPE) < 0.4) * (holes == 0)).astype(np.uint8)
    path = write_contours(tmp_path / "anna.dcm", {"shell": holes, "dust": ragged}, affine_of(axes))
    study, form = read_study(series, [path])
    np.testing.assert_array_equal(study.raters[0].labels, holes + 2 * ragged)
    assert study.classes == ("background", "shell", "dust")
    assert form.segments[0].color == (1, 0, 0.2)


def test_a_polygon_holds_the_voxels_whose_centres_lie_in_it(tmp_path):
    series = open_series(write_case(tmp_path / "ct", turned()))
    path = write_contours(tmp_path / "a.dcm", {"x": np.zeros(SHAPE, np.uint8)}, affine_of(turned()))
    data = pydicom.dcmread(path)
    star = np.array([[3.3, 2.2], [19.7, 6.1], [8.4, 16.6], [14.9, 1.3]])
    data.ROIContourSequence[0].ContourSequence = [contour(np.c_[star, np.full(4, 7)], affine_of(turned()))]
    data.save_as(path)
    labels = read_annotation(path, series.header).labels
    wanted = np.zeros(SHAPE, np.uint8)
    for x in range(SHAPE[0]):  # crossings of a ray from each centre
        for y in range(SHAPE[1]):
            ends = zip(star, np.roll(star, -1, 0), strict=True)
            wanted[x, y, 7] = sum(
                (a[1] > y) != (b[1] > y) and x < a[0] + (y - a[1]) * (b[0] - a[0]) / (b[1] - a[1]) for a, b in ends
            ) % 2  # fmt: skip
    np.testing.assert_array_equal(labels, wanted)
    assert labels.sum() == len(polygon(*star.T)[0]) > 30


def test_contours_that_do_not_fit_are_refused_in_words(tmp_path):
    affine = affine_of()
    series = write_case(tmp_path / "ct")
    square = np.array([[3.0, 3], [9, 3], [9, 9], [3, 9]])

    def drawn(name: str, *contours) -> Path:
        path = write_contours(tmp_path / f"{name}.dcm", {"liver": np.zeros(SHAPE, np.uint8)}, affine)
        data = pydicom.dcmread(path)
        data.ROIContourSequence[0].ContourSequence = list(contours)
        data.save_as(path)
        return path

    def at(z, kind="CLOSED_PLANAR"):
        return contour(np.c_[square, np.full(4, float(z))], affine, kind)

    between = refusal(series, [drawn("between", at(3), at(4.4))])
    assert "contour 2 of 'liver' lies between slices of" in between
    assert "1 mm off the nearest; slices are 2.5 mm apart; give the series that it annotates" in between
    assert "lies outside" in refusal(series, [drawn("outside", at(13))])
    upright = contour(np.c_[np.full(4, 5.0), square], affine)
    assert "does not lie on a slice of" in refusal(series, [drawn("mixed", at(3), upright)])
    other = write_contours(tmp_path / "other.dcm", {"liver": ball()}, affine, frame="1.2.3.4")
    assert "annotates another image: its frame of reference is 1.2.3.4" in refusal(series, [other])
    study, form = read_study(series, [drawn("gaps", at(3), at(6), at(4, "POINT"))])
    assert set(np.flatnonzero(study.raters[0].labels.any((0, 1)))) == {3, 6}
    notes = " ".join(form.notes)
    assert "1 contours of the type POINT: left out" in notes
    assert "has contours on 2 of the 4 slices" in notes
    study, form = read_study(series, [drawn("none"), drawn("some", at(3))])
    assert not study.raters[0].labels.any()
    assert any("'liver' has no closed contours" in note for note in form.notes)


def test_files_that_are_no_annotations_are_refused(tmp_path):
    series = write_case(tmp_path / "ct")
    slice_file = next(series.glob("*.dcm"))
    drawn = seg(tmp_path / "a.dcm", ball(), series, "liver")
    assert "of the modality CT; accepted as annotations are SEG and RTSTRUCT" in refusal(series, [slice_file])
    assert "give the series as --image FOLDER" in refusal(None, [drawn])
    (tmp_path / "b.dcm").write_bytes(drawn.read_bytes()[:3000])
    assert f"{tmp_path / 'b.dcm'}: " in refusal(series, [tmp_path / "b.dcm"])
    other = write_case(tmp_path / "other", origin=(0, 0, 0))
    assert "has voxels between those of" in refusal(other, [drawn])
    wider = write_case(tmp_path / "wider", spacing=(0.8, 1.3, 2.5))
    assert "has a spacing of 0.7x1.3x2.5 mm" in refusal(wider, [drawn])
    small = tmp_path / "small"
    write_series(small, np.zeros((10, 20, 12), np.uint16) + 1)
    assert "labelled voxels outside" in refusal(small, [drawn])


def test_cropped_segmentations_of_slicer_need_no_resampling(tmp_path):
    series = write_case(tmp_path / "ct", turned())
    affine = affine_of(turned())
    affine[:3, 3] = (affine @ [4, 3, 2, 1])[:3]
    path = seg_nrrd(
        tmp_path / "a.seg.nrrd", ball()[None, 4:20, 3:17, 2:11], fields_of(("liver", 1, 0, "1 0 0")), affine
    )
    study, form = read_study(series, [path])
    np.testing.assert_array_equal(study.raters[0].labels, ball())
    assert form.suffix == ".dcm"


def fused(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["consensus", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_the_command_from_dicom_to_dicom(tmp_path):
    enhanced(tmp_path / "ct.dcm", (image_of(ball()) + 1024).astype(np.uint16), order=list(range(11, -1, -1)))
    a, b, c = drawings().values()
    paths = [
        seg(tmp_path / "anna.dcm", a, tmp_path / "ct.dcm", "liver"),
        write_contours(tmp_path / "bob.dcm", {"liver": b}, affine_of()),
        seg_nrrd(tmp_path / "cleo.seg.nrrd", c[None], fields_of(("liver", 1, 0, "1 0 0")), affine_of()),
    ]
    given = [part for path in paths for part in ("-a", str(path))]
    command = [python(), "-m", "medseg", "consensus", "-i", "ct.dcm", *given, "-o", "out", "-m", "majority"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    majority = ((a + b + c) >= 2).astype(np.uint8)
    found = by_dcmqi(tmp_path / "out" / "consensus.dcm", tmp_path / "dcmqi", affine_of(), SHAPE)
    np.testing.assert_array_equal(found, majority)
    segment = pydicom.dcmread(tmp_path / "out" / "consensus.dcm").SegmentSequence[0]
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("liver", "AUTOMATIC")
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "medseg consensus majority"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["inputs"]["annotations"]) == ["anna", "bob", "cleo"]
    assert (tmp_path / "out" / "confidence.nii.gz").is_file()
    assert fused("-i", tmp_path / "ct.dcm", *given, "-o", tmp_path / "out", "-m", "majority", "--no-report") == 0


def test_many_series_with_a_folder_per_rater(tmp_path, capfd):
    for case in ("p1", "p2"):
        write_case(tmp_path / "ct" / case)
        for name, labels in drawings().items():
            seg(tmp_path / name / f"{case}.dcm", labels, tmp_path / "ct" / case, "liver")
    given = [part for name in drawings() for part in ("-a", tmp_path / name)]
    how = ("-o", tmp_path / "out", "-m", "majority", "--no-report", "--jobs", "1")
    assert fused("-i", tmp_path / "ct", *given, *how) == 0
    assert "2 fused" in capfd.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").glob("*/consensus.dcm")) == ["consensus.dcm"] * 2
    assert fused("-i", tmp_path / "ct", *given, *how) == 0
    assert "2 already there" in capfd.readouterr().err
    assert fused("-i", tmp_path / "ct" / "p1", *given[:2], *how, "--series", "1.2.3") == 2
    assert capfd.readouterr().err.startswith(f"error: {tmp_path / 'ct' / 'p1'}: has no image series 1.2.3")


def test_folders_of_one_study_other_images_and_other_grids(tmp_path):
    series = write_case(tmp_path / "ct", turned())
    drawn = seg(tmp_path / "anna" / "ct.dcm", ball(), series, "liver")
    study, form = read_study(series, [tmp_path / "anna"])
    np.testing.assert_array_equal(study.raters[0].labels, ball())
    image = save(tmp_path / "ct.nii.gz", image_of(ball()), affine_of(turned()))
    study, form = read_study(image, [drawn])
    np.testing.assert_array_equal(study.raters[0].labels, ball())
    out = write_labels(tmp_path, "consensus", study.raters[0].labels, form)
    assert out.name == "consensus.seg.nrrd"
    assert [s.name for s in read_segments(out)] == ["liver"]
    finer = save(tmp_path / "fine.nii.gz", np.zeros((48, 40, 12), np.int16), affine_of(turned(), (0.35, 0.65, 2.5)))
    assert "--resample brings it over" in refusal(finer, [drawn])
    study, _ = read_study(finer, [drawn], resample="nearest")
    assert study.raters[0].labels.sum() == pytest.approx(4 * ball().sum(), rel=0.1)
    with pytest.raises(ConfigError, match="one series for an image; 2 channels are given"):
        read_study([series, series], [drawn])
    with pytest.raises(ConfigError, match=r"--series 1\.2\.3 needs an image"):
        read_study(image, [drawn], series="1.2.3")


def test_undecided_voxels_are_a_segment_and_finished_studies_are_known(tmp_path, capfd):
    series = write_case(tmp_path / "ct")
    one, other = (
        seg(tmp_path / f"{n}.dcm", ball(shift=s), series, "liver") for n, s in (("a", (0, 0, 0)), ("b", (2, 0, 0)))
    )
    out = series / "out"
    given = ("-i", series, "-a", one, "-a", other, "-o", out, "-m", "majority", "--tie", "undecided", "--no-report")
    assert fused(*given) == 0
    assert "is done" in capfd.readouterr().err
    assert fused(*given) == 0  # although the results lie in the folder of the series
    assert "is there already" in capfd.readouterr().err
    found = by_dcmqi(out / "consensus.dcm", tmp_path / "dcmqi", affine_of(), SHAPE)
    a, b = ball(), ball(shift=(2, 0, 0))
    np.testing.assert_array_equal(found, a * b + 2 * (a != b))


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
def test_the_consensus_is_kept_where_dicom_fails_after_it_was_made(kind, tmp_path, monkeypatch, capfd):
    series = write_case(tmp_path / "ct")
    drawn = [seg(tmp_path / f"{name}.dcm", labels, series, "liver") for name, labels in drawings().items()]
    given = [part for path in drawn for part in ("-a", path)]
    how = ("-i", series, *given, "-o", tmp_path / "out", "-m", "majority", "--no-report", "--format", kind)
    name = {"dicom-seg": "write_segmentation", "rtstruct": "write_rtstruct"}[kind]

    def fail(*_):
        raise ValueError("a sequence of odd length")

    with monkeypatch.context() as patch:
        patch.setattr(f"medseg.dicom.writing.write_labels.{name}", fail)
        assert fused(*how) == 0
    told = f"no {kind} can be written (a sequence of odd length); the consensus is in consensus.nii.gz"
    assert told in capfd.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told in report["warnings"][-1]
    majority = (sum(drawings().values()) >= 2).astype(np.uint8)
    np.testing.assert_array_equal(read_volume(tmp_path / "out" / "consensus.nii.gz")[0][0], majority)
    assert fused(*how) == 0, "tried again, since it is not what was asked for"
    wanted = {"dicom-seg": "consensus.dcm", "rtstruct": "consensus.rtstruct.dcm"}[kind]
    assert [path.name for path in (tmp_path / "out").glob("consensus.*")] == [wanted]
