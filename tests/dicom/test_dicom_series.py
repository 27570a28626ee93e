"""DICOM series to volumes: the right series, the right order, the right numbers, or clear words."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicoms import STRAIGHT, affine_of, enhanced, turned, voxels, write_series
from pydicom.data import get_testdata_file
from pydicom.uid import JPEGLSLossless, RLELossless

from medseg.dicom.availability import check_dicom_installed
from medseg.dicom.scan.find_series import find_series
from medseg.dicom.scan.series import open_series
from medseg.errors import ConfigError, DataError


def refusal(folder: Path, uid: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        open_series(folder, uid).voxels()
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line or str(folder.parent) in line
    return line


def changed(folder: Path, **given) -> Path:
    write_series(folder, voxels(), **given)
    return folder


@pytest.mark.parametrize("axes", [STRAIGHT, turned(), turned((0, 0, 180)), -STRAIGHT[::-1]])
@pytest.mark.parametrize("backwards", [False, True])
def test_voxels_and_grid_whatever_the_files_are_called(axes, backwards, tmp_path):
    stored = voxels()
    paths = write_series(tmp_path / "a" / "b", stored, axes=axes, backwards=backwards)
    (tmp_path / "a" / "readme.txt").write_text("no image")
    (tmp_path / "a" / "b" / ".hidden").write_bytes(bytes(200))
    series = open_series(tmp_path)
    np.testing.assert_array_equal(series.voxels()[0], stored.astype(int) - 1024)
    np.testing.assert_allclose(series.header.affine, affine_of(axes), atol=1e-6)
    assert series.header.shape == stored.shape
    assert sorted(series.files) == sorted(paths)
    assert not series.header.warnings


def test_simpleitk_reads_the_same(tmp_path):
    write_series(tmp_path, voxels(), axes=turned())
    series = open_series(tmp_path)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, series.voxels()[0])
    corner = np.diag([-1, -1, 1]) @ np.array(image.TransformIndexToPhysicalPoint((11, 8, 5)))
    np.testing.assert_allclose(corner, (series.header.affine @ [11, 8, 5, 1])[:3], atol=1e-6)


def test_each_slice_has_its_own_scale(tmp_path):
    def scales(data, z):
        data.RescaleSlope, data.RescaleIntercept = 0.5 + z, -3.25

    write_series(tmp_path, voxels(), change=scales)
    found = open_series(tmp_path).voxels()[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, voxels() * (0.5 + np.arange(6)) - 3.25, rtol=1e-6)


def test_signed_numbers_without_a_scale(tmp_path):
    signed = (voxels().astype(int) - 1500).astype(np.int16)

    def plain(data, z):
        del data.RescaleSlope, data.RescaleIntercept

    write_series(tmp_path, signed, change=plain)
    series = open_series(tmp_path)
    assert series.header.dtype == np.int16
    np.testing.assert_array_equal(series.voxels()[0], signed)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_series(syntax, tmp_path):
    write_series(tmp_path, voxels(), change=lambda data, z: data.compress(syntax, generate_instance_uid=False))
    np.testing.assert_array_equal(open_series(tmp_path).voxels()[0], voxels().astype(int) - 1024)


def test_jpeg_lossless_is_left_to_gdcm(tmp_path):
    write_series(tmp_path / "plain", voxels((16, 16, 1)))
    (plain,) = (tmp_path / "plain").iterdir()
    image = sitk.Cast(sitk.ReadImage(str(plain)), sitk.sitkInt16)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "packed" / "a.dcm"))
    (tmp_path / "packed").mkdir()
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.SetKeepOriginalImageUID(True)
    writer.Execute(image)
    packed = pydicom.dcmread(tmp_path / "packed" / "a.dcm")
    assert packed.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    found = open_series(tmp_path / "packed").voxels()[0]
    np.testing.assert_array_equal(found, voxels((16, 16, 1)).astype(int) - 1024)


def test_enhanced_multiframe(tmp_path):
    stored = voxels()
    path = enhanced(tmp_path / "ct.dcm", stored, axes=turned(), order=[4, 0, 2, 1, 5, 3])
    for place in (tmp_path, path):
        series = open_series(place)
        np.testing.assert_array_equal(series.voxels()[0], stored.astype(int) - 1024)
        np.testing.assert_allclose(series.header.affine, affine_of(turned()), atol=1e-6)


def test_a_series_is_chosen_and_choices_are_listed(tmp_path):
    write_series(tmp_path / "thin", voxels((12, 9, 6)))

    def scout(data, z):
        data.ImageType, data.SeriesDescription = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "Scout"

    write_series(tmp_path / "scout", voxels((12, 9, 2)), change=scout)
    series = open_series(tmp_path)
    assert series.header.shape == (12, 9, 6)
    assert any("'Scout' CT 2 slices" in note for note in series.header.warnings)
    write_series(tmp_path / "thick", voxels((12, 9, 3)))
    line = refusal(tmp_path)
    for words in ("3 image series", "'Axial' CT 6 slices", "'Axial' CT 3 slices", "--series UID"):
        assert words in line
    uids = {found.images: found.uid for found in find_series(tmp_path)}
    assert open_series(tmp_path, uids[3]).header.shape == (12, 9, 3)
    assert "has no image series 1.2.3" in refusal(tmp_path, "1.2.3")


def test_what_is_no_image_is_named(tmp_path):
    for name in ("rtplan.dcm", "rtdose.dcm"):
        shutil.copy(get_testdata_file(name), tmp_path)
    assert "no images: series 1 of RTDOSE, 1 of RTPLAN" in refusal(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "holds no DICOM file" in refusal(tmp_path / "empty")
    assert "no such file" in refusal(tmp_path / "nowhere")


def leave_out(*numbers):
    return lambda data, z: z not in numbers


def test_missing_slices_are_named(tmp_path):
    line = refusal(changed(tmp_path / "a", change=leave_out(2, 3)))
    assert "2 slices are missing: 2 between z = -37.5 mm (IM" in line
    assert "and -30 mm (IM" in line
    assert "1 slice is missing" in refusal(changed(tmp_path / "b", change=leave_out(4)))
    assert "the slice axis" in refusal(changed(tmp_path / "c", change=leave_out(4), axes=turned()))


def test_uneven_spacing_is_refused_and_rounding_is_not(tmp_path):
    def thicker_below(data, z):
        data.ImagePositionPatient[2] -= 0.8 * max(0, 3 - z)

    assert "2.5 to 3.3 mm apart" in refusal(changed(tmp_path / "a", change=thicker_below))

    def rounded(data, z):
        data.ImagePositionPatient[2] = round(float(data.ImagePositionPatient[2]) + 0.04 * (-1) ** z, 1)

    assert open_series(changed(tmp_path / "b", change=rounded)).header.spacing_mm[2] == pytest.approx(2.5, abs=0.03)


def test_a_tilted_gantry_is_called_so(tmp_path):
    def tilt(data, z):
        data.ImagePositionPatient[1] += z * 2.5 * np.tan(np.deg2rad(12))

    assert "tilted gantry" in (line := refusal(changed(tmp_path / "a", change=tilt)))
    assert "12 degrees" in line

    def stagger(data, z):
        data.ImagePositionPatient[0] += 0.5 * (z % 2) * (z < 5)

    assert "shifted sideways by up to" in refusal(changed(tmp_path / "b", change=stagger))


def test_copies_are_left_out_and_several_moments_are_refused(tmp_path):
    first, *_ = write_series(tmp_path / "a", voxels())
    shutil.copy(first, tmp_path / "a" / "again.dcm")
    series = open_series(tmp_path / "a")
    np.testing.assert_array_equal(series.voxels()[0], voxels().astype(int) - 1024)
    assert "1 files are copies of others" in series.header.warnings[0]

    def two_echoes(data, z):
        data.EchoTime = 10 + 20 * (z % 2)
        data.ImagePositionPatient[2] = -40 + 2.5 * (z // 2)

    line = refusal(changed(tmp_path / "b", change=two_echoes))
    assert "6 images at 3 positions (EchoTime 10" in line


def test_mixed_slices_are_refused(tmp_path):
    def turn_one(data, z):
        if z == 3:
            data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    def wider(data, z):
        data.PixelSpacing = [1.3, 0.7 + 0.1 * (z == 3)]

    def crop(data, z):
        if z == 3:
            data.Rows, data.PixelData = 8, data.PixelData[: 8 * 12 * 2]

    for name, change, words in (
        ("a", turn_one, "mixes orientations: 1 of 6 slices do"), ("b", wider, "mixes pixel spacings"),
        ("c", crop, "mixes slices of"),
    ):  # fmt: skip
        assert words in refusal(changed(tmp_path / name, change=change))


def test_damaged_files_are_named(tmp_path):
    paths = write_series(tmp_path / "a", voxels())
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[:-50])
    assert f"{paths[2]}: its pixels cannot be read" in refusal(tmp_path / "a")
    paths[2].write_bytes(content[:400])
    assert f"{paths[2]}: " in refusal(tmp_path / "a")

    def nowhere(data, z):
        del data.ImagePositionPatient

    assert "has no ImagePositionPatient" in refusal(changed(tmp_path / "b", change=nowhere))

    def unknown(data, z):
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
        data.PixelData = pydicom.encaps.encapsulate([b"\x00" * 10])
        data["PixelData"].VR = "OB"

    line = refusal(changed(tmp_path / "c", change=unknown))
    assert "High-Throughput JPEG 2000" in line
    assert "cannot be decoded here; decompress it first" in line


@pytest.mark.parametrize(
    ("name", "shape"),
    [("CT_small.dcm", (128, 128, 1)), ("MR_small_RLE.dcm", (64, 64, 1)), ("MR_small_bigendian.dcm", (64, 64, 1)),
     ("MR_small_implicit.dcm", (64, 64, 1)), ("MR_small_jp2klossless.dcm", (64, 64, 1)),
     ("MR_small_padded.dcm", (64, 64, 1)), ("MR_small_jpeg_ls_lossless.dcm", (64, 64, 1))],
)  # fmt: skip
def test_odd_encodings_of_one_picture_are_one_picture(name, shape, tmp_path):
    path = Path(get_testdata_file(name))
    series = open_series(path)
    assert series.header.shape == shape
    if name.startswith("MR"):
        plain = open_series(Path(get_testdata_file("MR_small.dcm")))
        np.testing.assert_array_equal(series.voxels(), plain.voxels())


@pytest.mark.parametrize(
    ("name", "words"),
    [("MR_truncated.dcm", "pixels cannot be read"), ("SC_rgb_jpeg.dcm", "colour"), ("reportsi.dcm", "no images"),
     ("rtplan_truncated.dcm", ""), ("no_meta.dcm", "no header of DICOM"),
     ("badVR.dcm", "damaged"), ("UN_sequence.dcm", "without rows"), ("examples_palette.dcm", "place in space")],
)  # fmt: skip
def test_what_cannot_be_a_volume_is_refused_in_one_line(name, words, tmp_path):
    path = tmp_path / name
    shutil.copy(get_testdata_file(name), path)
    assert words in refusal(path)


def test_real_folders_of_several_series():
    place = Path(get_testdata_file("DICOMDIR")).parent
    series = open_series(place / "98892001")
    assert series.header.shape == (16, 16, 5)
    assert "'Scout' CT 2 slices" in series.header.warnings[0]
    assert "holds 7 image series" in (line := refusal(place / "98892003"))
    assert "'ANGIO Projected from C' MR 7 slices" in line
    assert "mixes orientations" in refusal(place / "98892003" / "MR700")


ABSENT = """
import sys
class Lacking:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("pydicom", "highdicom"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Lacking())
import medseg.dicom.scan.series, medseg.dicom.annotation, medseg.dicom.writing.write_seg, medseg.consensus.io.read_study
sys.exit("torch" if "torch" in sys.modules else None)
"""


def test_everything_else_works_without_the_extra():
    run = subprocess.run([sys.executable, "-c", ABSENT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_without_the_extra_the_way_to_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("medseg.dicom.availability.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs pydicom and highdicom; pip install medseg\[dicom\]"):
        check_dicom_installed(tmp_path)
    with pytest.raises(ConfigError, match="is DICOM, which needs"):
        find_series(tmp_path)
