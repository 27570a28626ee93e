"""Damaged DICOM: a mutated file is read or refused in one line, and never ends in anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicoms import affine_of, enhanced, voxels, write_contours, write_series
from raters import ball

from medseg.dicom.annotation import read_annotation
from medseg.dicom.scan.series import open_series
from medseg.dicom.writing.write_seg import Author, SegmentDescription, write_segmentation
from medseg.errors import DataError

SHAPE = (8, 7, 4)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut somewhere, or with some bytes changed, mostly in the header."""
    changed = bytearray(content)
    if rng.random() < 0.25:
        return bytes(changed[: rng.integers(0, len(changed))])
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(128, min(len(changed), 1600)) if rng.random() < 0.7 else rng.integers(0, len(changed)))
        changed[at] = int(rng.choice([0, 255, ord("9"), ord("-"), changed[at] ^ 1 << int(rng.integers(0, 8))]))
    return bytes(changed)


@pytest.mark.parametrize("kind", ["slice", "enhanced", "seg", "rtstruct"])
def test_mutations(kind, tmp_path):
    rng = np.random.default_rng(7)
    paths = write_series(tmp_path / "ct", voxels(SHAPE))
    series = open_series(tmp_path / "ct")
    labels = ball(SHAPE, 3)
    files = {"slice": paths[1], **{name: tmp_path / f"{name}.dcm" for name in ("enhanced", "seg", "rtstruct")}}
    enhanced(files["enhanced"], voxels(SHAPE))
    write_segmentation(files["seg"], labels, series, [SegmentDescription("liver")], Author("a", "b"))
    write_contours(files["rtstruct"], {"liver": labels}, affine_of())
    place: Path = tmp_path / "ct" if kind == "slice" else files[kind]
    good, refused = files[kind].read_bytes(), list[str]()
    for _ in range(40):
        files[kind].write_bytes(mutated(good, rng))
        try:
            if kind in ("slice", "enhanced"):
                open_series(place).voxels()
            else:
                read_annotation(place, series.header, series.frame_of_reference)
        except DataError as error:
            refused.append(str(error))
    assert 0 < len(refused) < 40
    assert all(str(tmp_path) in line and "\n" not in line for line in refused)


def test_what_is_called_dicom_and_is_none_is_not_passed_over(tmp_path):
    paths = write_series(tmp_path, voxels(SHAPE))
    paths[-1].write_bytes(b"")
    with pytest.raises(DataError, match=r"is called .dcm and has no header of DICOM \(0 bytes\); copy it again"):
        open_series(tmp_path)


def last_of(paths: list[Path]) -> Path:
    """The slice farthest along z."""
    return max(paths, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


@pytest.mark.parametrize("ending", [".dcm", "", ".ima"])
def test_a_last_slice_cut_anywhere_is_missed(ending, tmp_path):
    """Four slices, of which the last one is cut: a volume of three must never come of it without a word."""
    paths = write_series(tmp_path, voxels(SHAPE))
    for path in paths:
        path.rename(path.with_suffix(ending))
    last = last_of([path.with_suffix(ending) for path in paths])
    good = last.read_bytes()
    for end in [0, 1, 131, 132, 140, *range(150, len(good), 37)]:
        last.write_bytes(good[:end])
        with pytest.raises(DataError, match=last.name):
            open_series(tmp_path).voxels()


@pytest.mark.parametrize("name", ["SeriesInstanceUID", "Modality", "SOPClassUID"])
def test_a_slice_that_lost_what_says_where_it_belongs(name, tmp_path):
    paths = write_series(tmp_path, voxels(SHAPE))
    last = last_of(paths)
    data = pydicom.dcmread(last)
    setattr(data, name, "")
    if name == "SOPClassUID":
        data.file_meta.MediaStorageSOPClassUID = "1.2.3.4.5"
    data.save_as(last, enforce_file_format=False)
    with pytest.raises(DataError, match=r"is a damaged DICOM file"):
        open_series(tmp_path)


def test_notes_beside_slices_are_no_slices(tmp_path):
    write_series(tmp_path, voxels(SHAPE))
    (tmp_path / "README").write_text("scanned twice")
    (tmp_path / "IM0001.txt").write_text("notes")
    assert open_series(tmp_path).header.shape == SHAPE


def test_mosaics_and_radiographs_are_told_what_they_are(tmp_path):
    def mosaic(data, z):
        data.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
        data.Modality = "MR"

    def radiograph(data, z):
        data.Modality = "DX"
        del data.ImagePositionPatient, data.ImageOrientationPatient

    for count in (1, 2):
        write_series(tmp_path / f"mosaic{count}", voxels((8, 7, count)), change=mosaic)
        with pytest.raises(DataError, match=r"is a mosaic: the slices of a volume side by side .* dcm2niix"):
            open_series(tmp_path / f"mosaic{count}")
    write_series(tmp_path / "dx", voxels((8, 7, 1)), change=radiograph)
    with pytest.raises(DataError, match=r"is a radiograph \(DX\), a picture without a place in space; .* as PNG"):
        open_series(tmp_path / "dx")


def test_ultrasound_and_photographs_are_told_what_they_are(tmp_path):
    for kind in ("US", "XC", "OP"):

        def change(data, z, kind=kind):
            data.Modality = kind
            del data.ImagePositionPatient, data.ImageOrientationPatient

        write_series(tmp_path / kind, voxels((8, 7, 1)), change=change)
        with pytest.raises(DataError, match=rf"is a photograph or ultrasound image \({kind}\), .* as PNG"):
            open_series(tmp_path / kind)
