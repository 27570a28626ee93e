"""DICOM SEG of series with odd headers: other character sets, missing tags, colours that no screen has."""

from __future__ import annotations

import json
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicoms import write_contours, write_series
from models import labels_of, make_bundle
from raters import ball, fields_of, image_of, save, seg_nrrd

from medseg.cli.app import main
from medseg.consensus.io.annotations.segment_table import read_segments
from medseg.dicom.annotation import read_annotation
from medseg.dicom.scan.series import open_series
from medseg.dicom.writing.write_seg import Author, SegmentDescription, write_segmentation
from medseg.errors import ConfigError
from medseg.workflows.consensus.options import ConsensusOptions

AUTHOR = Author("a person", "by hand")
THICKNESS = 2.5
DRAWN = slice(4, 8)  # slices of the ball, which are all that a SEG stores


def series(folder: Path, change=lambda data, z: None) -> Path:
    write_series(folder, (image_of(ball()) + 1024).astype(np.uint16), spacing=(1, 1, THICKNESS), change=change)
    return folder


def seg_of(folder: Path, *names: str) -> pydicom.Dataset:
    """Written by us, read back by pydicom."""
    path = folder.with_suffix(".dcm")
    write_segmentation(path, ball(), open_series(folder), [SegmentDescription(n) for n in names], AUTHOR)
    return pydicom.dcmread(path)


def code_of(command: list[str]) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        main(command)
    return int(caught.value.code or 0)


CHARACTER_SETS = [  # as the images say, the patient, as the SEG says
    (None, "Doe^Jane", None),
    ("ISO_IR 100", "Müller^Jörg", "ISO_IR 100"),
    ("", "Doe^Jane", "ISO_IR 192"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "ISO_IR 192"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "ISO_IR 192"),
    ("ISO_IR 6", "Doe^Jane", "ISO_IR 192"),
    ("ISO-IR 100", "Müller^Jörg", "ISO_IR 192"),
    ("ISO_IR_192", "Müller^Jörg", "ISO_IR 192"),
    ("UNHEARD OF", "Doe^Jane", "ISO_IR 192"),
]


@pytest.mark.filterwarnings("ignore")  # pydicom's, of these very sets, when it writes and reads the test's files
@pytest.mark.parametrize(("found", "patient", "kept"), CHARACTER_SETS)
def test_every_character_set_keeps_the_patient(found, patient, kept, tmp_path):
    def change(data, z):
        data.PatientName = patient
        if found is not None:
            data.SpecificCharacterSet = found

    seg = seg_of(series(tmp_path / "ct", change), "liver")
    assert seg.get("SpecificCharacterSet") == kept
    assert str(seg.PatientName) == patient
    encoded = patient.encode("latin-1" if kept == "ISO_IR 100" else "utf-8")
    assert encoded in (tmp_path / "ct.dcm").read_bytes()


def test_a_structure_in_other_letters_leaves_the_patient_as_it_is(tmp_path):
    def change(data, z):
        data.PatientName, data.SpecificCharacterSet = "Müller^Jörg", "ISO_IR 100"

    seg = seg_of(series(tmp_path / "ct", change), "печень")
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert str(seg.PatientName) == "Müller^Jörg"
    assert seg.SegmentSequence[0].SegmentLabel == "печень"


def test_what_images_lack_is_put_in_where_it_is_known(tmp_path):
    def change(data, z):
        for name in ("SliceThickness", "StudyInstanceUID", "FrameOfReferenceUID"):
            delattr(data, name)

    folder = series(tmp_path / "ct", change)
    names = []
    for path in sorted(folder.iterdir()):  # of which image it is, the head of the file alone says
        data = pydicom.dcmread(path)
        names.append(str(data.SOPInstanceUID))
        del data.SOPInstanceUID
        data.save_as(path, enforce_file_format=False)
    seg = seg_of(folder, "liver")
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == THICKNESS
    referenced = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert sorted(str(item.ReferencedSOPInstanceUID) for item in referenced) == sorted(names)
    assert seg_of(folder, "liver").StudyInstanceUID == seg.StudyInstanceUID
    found = read_annotation(folder.with_suffix(".dcm"), open_series(folder).header)
    np.testing.assert_array_equal(found.labels, ball()[:, :, DRAWN])


def nameless(folder: Path) -> Path:
    """A series whose files say nowhere which images they are."""
    for path in sorted(series(folder).iterdir()):
        data = pydicom.dcmread(path)
        del data.SOPInstanceUID, data.file_meta.MediaStorageSOPInstanceUID
        data.save_as(path, enforce_file_format=False)
    return folder


def test_where_no_seg_can_be_written_the_labels_are_kept_as_nifti(tmp_path, capsys):
    model = make_bundle(tmp_path / "abdomen" / "bundle").parent
    nameless(tmp_path / "in" / "p1")
    series(tmp_path / "in" / "p2")
    command = ["predict", "-m", str(model), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert code_of([*command, "--format", "dicom-seg"]) == 1
    told = capsys.readouterr().err
    assert "/p1/IM0008.dcm: has no SOPInstanceUID" in told
    assert "its labels are in p1.nii.gz" in told
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["p1.nii.gz", "p2.dcm", "predict_report.html", "predict_report.json"]
    report = json.loads((tmp_path / "out" / "predict_report.json").read_text())
    assert [(case["result"], case["status"]) for case in report["cases"]] == [("p1.nii.gz", "done"), ("p2.dcm", "done")]
    assert [failure["case"] for failure in report["failed"]] == ["p1"]
    assert code_of([*command, "--format", "dicom-seg"]) == 1
    report = json.loads((tmp_path / "out" / "predict_report.json").read_text())
    assert [case["status"] for case in report["cases"]] == ["skipped", "skipped"]


NAMES_OF_FORMATS = {
    "nifti": "consensus.nii.gz",
    "nrrd": "consensus.seg.nrrd",
    "dicom-seg": "consensus.dcm",
    "rtstruct": "consensus.rtstruct.dcm",
}


def test_the_format_of_a_consensus_is_chosen(tmp_path, capsys):
    folder = series(tmp_path / "ct")
    affine = open_series(folder).header.affine
    raters = [str(save(tmp_path / f"{name}.nii.gz", ball(), affine)) for name in ("anna", "bob", "cleo")]
    command = ["consensus", "-i", str(folder), *[word for rater in raters for word in ("-a", rater)]]
    for kind, name in NAMES_OF_FORMATS.items():
        assert code_of([*command, "-o", str(tmp_path / kind), "--format", kind, "--no-report"]) == 0
        assert (tmp_path / kind / name).is_file()
        assert not [path for path in (tmp_path / kind).glob("consensus.*") if path.name != name]
    with pytest.raises(ConfigError, match="--format stl: accepted are nifti, nrrd, dicom-seg"):
        ConsensusOptions(output=tmp_path, annotation=(tmp_path,), format="stl")
    without_image = ["consensus", "-a", raters[0], "-a", raters[1], "-o", str(tmp_path / "x")]
    for kind in ("dicom-seg", "rtstruct"):
        assert code_of([*without_image, "--format", kind]) == 2
        told = capsys.readouterr().err
        assert f"--format {kind} refers to" in told
        assert "this is no DICOM" in told


def test_a_consensus_that_no_seg_can_hold_is_refused_before_it_is_made(tmp_path, capsys):
    folder = nameless(tmp_path / "ct")
    rater = str(save(tmp_path / "anna.nii.gz", ball(), open_series(folder).header.affine))
    command = ["consensus", "-i", str(folder), "-a", rater, "-a", rater, "--no-report", "-o", str(tmp_path / "out")]
    assert code_of(command) == 2
    told = capsys.readouterr().err
    assert "has no SOPInstanceUID" in told
    assert "--format nifti" in told
    assert not (tmp_path / "out" / "raters.csv").exists()
    assert code_of([*command, "--format", "nifti"]) == 0


COLORS = [  # CIELab as stored, and as a screen shows it
    ([65535, 65535, 65535], (1, 70 / 255, 0)),
    ([1, 2], None),
    ([1, 2, 3, 4], None),
    (5, None),
    ([], None),
]


@pytest.mark.parametrize(("stored", "shown"), COLORS)
def test_a_color_never_stops_a_segment(stored, shown, tmp_path):
    folder = series(tmp_path / "ct")
    seg = seg_of(folder, "liver")
    seg.SegmentSequence[0].RecommendedDisplayCIELabValue = stored
    seg.save_as(tmp_path / "other.dcm")
    found = read_annotation(tmp_path / "other.dcm", open_series(folder).header)
    np.testing.assert_array_equal(found.labels, ball()[:, :, DRAWN])
    assert found.colors == (shown,)


def test_a_color_never_stops_a_structure_of_other_formats(tmp_path):
    folder = series(tmp_path / "ct")
    grid = open_series(folder).header
    write_contours(tmp_path / "rt.dcm", {"liver": ball() == 1}, grid.affine)
    content = (tmp_path / "rt.dcm").read_bytes()
    assert b"255\\0\\51" in content
    (tmp_path / "rt.dcm").write_bytes(content.replace(b"255\\0\\51", b"red\\n\\51"))
    found = read_annotation(tmp_path / "rt.dcm", grid)
    np.testing.assert_array_equal(found.labels, ball())
    assert found.colors == (None,)
    for color in ("1.5 0 0", "red", "0.1 0.2", "nan 0 0"):
        segments = read_segments(seg_nrrd(tmp_path / "s.seg.nrrd", ball()[None], fields_of(("liver", 1, 0, color))))
        assert [(segment.name, segment.color) for segment in segments] == [("liver", None)]


STOPS = {  # what pydicom may raise while it writes -> what is told of it
    "memory": (MemoryError(), "cannot be written (there is too little memory)"),
    "disk": (OSError(27, "File too large"), "cannot be written (File too large)"),
    "header": (ValueError("an odd value"), "no dicom-seg can be written (an odd value)"),
}


@pytest.fixture(params=STOPS)
def stopped(request, monkeypatch) -> str:
    """Every SEG stops while it is written; how that is told."""
    error, told = STOPS[request.param]

    def save_as(self, *arguments, **options):
        raise error

    monkeypatch.setattr(hd.seg.Segmentation, "save_as", save_as)
    return told


def test_a_prediction_is_kept_whatever_stops_its_seg(stopped, tmp_path, capsys):
    model = make_bundle(tmp_path / "abdomen" / "bundle").parent
    command = ["predict", "-m", str(model), "-i", str(series(tmp_path / "p1")), "--no-report", "-o"]
    assert code_of([*command, str(tmp_path / "plain"), "--format", "nifti"]) == 0
    capsys.readouterr()
    assert code_of([*command, str(tmp_path / "out"), "--format", "dicom-seg"]) == 1
    assert f"{stopped}; its labels are in p1.nii.gz" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p1.nii.gz", "predict_report.json"]
    kept, wanted = (labels_of(tmp_path / folder / "p1.nii.gz") for folder in ("out", "plain"))
    np.testing.assert_array_equal(kept, wanted)
    assert np.unique(kept).size > 1


def test_a_consensus_is_kept_whatever_stops_its_seg(stopped, tmp_path, capsys):
    folder = series(tmp_path / "ct")
    affine = open_series(folder).header.affine
    raters = [str(save(tmp_path / f"{name}.nii.gz", ball(), affine)) for name in ("anna", "bob", "cleo")]
    command = ["consensus", "-i", str(folder), *[word for rater in raters for word in ("-a", rater)], "--no-report"]
    assert code_of([*command, "-o", str(tmp_path / "out"), "--format", "dicom-seg"]) == 0
    assert f"{stopped}; the consensus is in consensus.nii.gz" in capsys.readouterr().err
    np.testing.assert_array_equal(labels_of(tmp_path / "out" / "consensus.nii.gz"), ball())
    assert not (tmp_path / "out" / "consensus.dcm").exists()
