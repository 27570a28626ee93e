"""The reader: the voxels of nibabel and SimpleITK for good files, one clear sentence for every other."""

from __future__ import annotations

import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg.portable.io.byte_stream import gunzip
from medseg.portable.io.monai_reader import VerifiedReader
from medseg.portable.io.read import VolumeError, read_header, read_volume

STORED = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
OBLIQUE = np.array([[0, -1.2, 0, 30], [0.8, 0, 0, -20], [0, 0, 2.5, 7], [0, 0, 0, 1]], float)


def voxels(shape=(7, 6, 5), dtype="i2", seed=0):
    values = np.random.default_rng(seed).integers(0, 100, shape)
    return values.astype(dtype)


def save(path: Path, array, affine=OBLIQUE, version=nib.Nifti1Image, **fields) -> Path:
    image = version(array, affine, dtype=array.dtype)
    for key, value in fields.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def patched(path: Path, at: int, data: bytes, target: Path) -> Path:
    raw = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    raw[at : at + len(data)] = data
    target.write_bytes(gzip.compress(bytes(raw)) if target.suffix == ".gz" else bytes(raw))
    return target


def refusal(path: Path) -> str:
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    assert caught.value.path == path
    reason = caught.value.reason
    assert str(caught.value) == f"{path}: {reason}"
    assert "\n" not in reason
    assert str(path) not in reason
    return reason


# ---- good files: what nibabel and SimpleITK read


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
def test_same_as_nibabel(tmp_path, dtype, suffix, version):
    array = voxels(dtype=dtype)
    path = save(tmp_path / f"a{suffix}", array, version=version)
    found, header = read_volume(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found[0], array)
    np.testing.assert_array_equal(header.affine, nib.load(path).affine)
    assert header.shape == array.shape
    assert header.channels == 1
    assert header.dtype == array.dtype
    assert header.warnings == ()
    np.testing.assert_allclose(header.spacing_mm, (0.8, 1.2, 2.5), rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_same_as_simpleitk(tmp_path, suffix, compressed):
    image = sitk.GetImageFromArray(voxels((5, 6, 7)))
    image.SetSpacing((0.7, 1.1, 3.0))
    image.SetOrigin((-11.0, 12.0, 13.0))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, path, compressed)
    found, header = read_volume(path)
    np.testing.assert_array_equal(found[0], sitk.GetArrayFromImage(image).T)
    index = (2, 3, 4)
    left, posterior, superior = image.TransformIndexToPhysicalPoint(index)
    here = header.affine @ (*index, 1)
    np.testing.assert_allclose(here[:3], (-left, -posterior, superior), atol=1e-4)


def test_channels_of_every_format(tmp_path):
    array = voxels((4, 5, 6, 3), "f4")
    image = sitk.GetImageFromArray(array, isVector=True)
    for suffix in (".nrrd", ".mha", ".nii.gz"):
        sitk.WriteImage(image, tmp_path / f"v{suffix}")
        found, header = read_volume(tmp_path / f"v{suffix}")
        np.testing.assert_array_equal(found, array.transpose(3, 2, 1, 0))
        assert (header.shape, header.channels) == ((6, 5, 4), 3)
    found, _ = read_volume(save(tmp_path / "four.nii.gz", array))
    np.testing.assert_array_equal(found, np.moveaxis(array, 3, 0))


def test_trailing_axes_of_one_and_flat_files(tmp_path):
    array = voxels((4, 5, 6, 1, 1))
    np.testing.assert_array_equal(read_volume(save(tmp_path / "a.nii", array))[0], array[None, ..., 0, 0])
    found, header = read_volume(save(tmp_path / "flat.nii", array[:, :, 0, 0, 0]))
    assert found.shape == (1, 4, 5, 1)
    assert header.shape == (4, 5, 1)


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4", "f8"])
def test_big_endian(tmp_path, dtype):
    array = voxels(dtype=dtype)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(dtype).newbyteorder(">"))
    nib.save(nib.Nifti1Image(array, OBLIQUE, header), tmp_path / "b.nii.gz")
    found, read = read_volume(tmp_path / "b.nii.gz")
    assert found.dtype.isnative
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(found[0], array)


@pytest.mark.parametrize(("dtype", "result"), [("u1", "f4"), ("i2", "f4"), ("f4", "f4"), ("i4", "f8"), ("f8", "f8")])
def test_scaled(tmp_path, dtype, result):
    array = voxels(dtype=dtype)
    plain = save(tmp_path / "a.nii", array)
    path = patched(plain, 112, np.array([0.25, -7.5], "<f4").tobytes(), tmp_path / "s.nii.gz")
    found, _ = read_volume(path)
    assert found.dtype == np.dtype(result)
    np.testing.assert_allclose(found[0], nib.load(path).get_fdata(), rtol=1e-6)


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_no_scaling(tmp_path, slope):
    path = save(tmp_path / "a.nii", voxels())
    patched(path, 112, np.array([slope, 5], "<f4").tobytes(), tmp_path / "b.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii")[0][0], voxels())


def test_one_gzip_member_is_inflated_in_one_go(tmp_path, monkeypatch):
    for version, offset in ((nib.Nifti1Image, 352), (nib.Nifti2Image, 544)):
        path = save(tmp_path / "a.nii.gz", voxels(), version=version)
        raw = gzip.decompress(path.read_bytes())
        assert len(raw) == offset + voxels().nbytes
        assert gunzip(path, len(raw)) == raw
        assert gunzip(path, len(raw) - 1) is gunzip(path, len(raw) + 1) is None
    monkeypatch.setattr("medseg.portable.io.nifti.reader._read_by_pieces", lambda *_: pytest.fail("the slow way"))
    found, _ = read_volume(path)
    np.testing.assert_array_equal(found[0], voxels())
    found += 1  # it may be written into


def test_what_is_inflated_in_one_go_is_what_gzip_gives_or_nothing(tmp_path):
    raw = voxels((4, 3, 2)).tobytes()
    packed = gzip.compress(raw, mtime=0)
    path = tmp_path / "a.gz"
    others = [packed + end for end in (b"\0", bytes(512), b"stray", gzip.compress(b""), gzip.compress(raw[:5]))]
    others += [packed[:k] for k in range(len(packed))] + [gzip.compress(raw[:9]) + gzip.compress(raw[9:])]
    for content in others:
        path.write_bytes(content)
        assert gunzip(path, len(raw)) is None
    for k in range(len(packed)):
        damaged = bytearray(packed)
        damaged[k] ^= 1
        path.write_bytes(damaged)
        assert gunzip(path, len(raw)) in (None, raw)  # in its header are bytes that mean nothing
        if k >= 10:
            assert gunzip(path, len(raw)) is None
    assert gunzip(tmp_path / "missing.gz", 1) is None


def test_older_releases_of_deflate_are_not_used(tmp_path, monkeypatch):
    def invalid(*_: object) -> bytes:
        raise ValueError("Invalid gzip data.")

    import deflate

    path = save(tmp_path / "a.nii.gz", voxels())
    for other in (invalid, lambda packed, _: gzip.decompress(packed)):  # the voxels could not be written into
        monkeypatch.setattr(deflate, "gzip_decompress", other)
        assert gunzip(path, 352 + voxels().nbytes) is None
        np.testing.assert_array_equal(read_volume(path)[0][0], voxels())


def test_several_gzip_members_and_padding(tmp_path):
    raw = save(tmp_path / "a.nii", voxels()).read_bytes()
    members = b"".join(gzip.compress(raw[k : k + 200]) for k in range(0, len(raw), 200))
    (tmp_path / "m.nii.gz").write_bytes(members)
    np.testing.assert_array_equal(read_volume(tmp_path / "m.nii.gz")[0][0], voxels())
    (tmp_path / "p.nii.gz").write_bytes(members + bytes(512))  # tapes and some archives pad with zeros
    np.testing.assert_array_equal(read_volume(tmp_path / "p.nii.gz")[0][0], voxels())


def test_content_goes_before_the_name(tmp_path):
    raw = save(tmp_path / "a.nii", voxels()).read_bytes()
    (tmp_path / "packed.nii").write_bytes(gzip.compress(raw))
    (tmp_path / "plain.nii.gz").write_bytes(raw)
    for name in ("packed.nii", "plain.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name)[0][0], voxels())


def test_nan_is_kept_here_and_refused_for_training(tmp_path):
    array = voxels(dtype="f4")
    array[1, 2, 3], array[3, 2, 1] = np.nan, np.inf
    path = save(tmp_path / "nan.nii.gz", array)
    np.testing.assert_array_equal(read_volume(path)[0][0], array)
    with pytest.raises(VolumeError, match=r"2 of 210 voxels are NaN or infinite"):
        VerifiedReader().get_data(VerifiedReader().read(path))


# ---- placement


def test_sform_wins_and_the_conflict_is_told(tmp_path):
    image = nib.Nifti1Image(voxels(), OBLIQUE)
    image.set_qform(OBLIQUE, 1)
    image.set_sform(np.diag([2, 2, 2, 1]), 1)
    nib.save(image, tmp_path / "a.nii")
    header = read_header(tmp_path / "a.nii")
    np.testing.assert_array_equal(header.affine, np.diag([2, 2, 2, 1]))
    assert "the sform is used" in header.warnings[0]


def test_qform_alone_and_nothing_at_all(tmp_path):
    image = nib.Nifti1Image(voxels(), OBLIQUE)
    image.set_sform(None, 0)
    image.set_qform(OBLIQUE, 1)
    nib.save(image, tmp_path / "q.nii")
    np.testing.assert_allclose(read_header(tmp_path / "q.nii").affine, OBLIQUE, atol=1e-5)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "n.nii")
    header = read_header(tmp_path / "n.nii")
    np.testing.assert_allclose(header.affine, nib.load(tmp_path / "n.nii").affine)
    assert "assumed" in header.warnings[0]


def test_units_become_millimetres(tmp_path):
    path = save(tmp_path / "u.nii", voxels(), xyzt_units=3)
    header = read_header(path)
    np.testing.assert_allclose(header.spacing_mm, (0.0008, 0.0012, 0.0025), rtol=1e-6)
    assert "micrometre" in header.warnings[0]


@pytest.mark.parametrize(
    ("affine", "word"),
    [
        (np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "sheared"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (np.diag([1, 1, np.nan, 1]), "NaN"),
        (np.diag([1, 1, 1e9, 1]), "spacing"),
        (np.diag([1.0, 1, 0, 1]), "spacing"),
    ],
)
def test_refused_placement(tmp_path, affine, word):
    path = save(tmp_path / "a.nii", voxels())
    patched(path, 280, affine[:3].astype("<f4").tobytes(), tmp_path / "b.nii")
    assert word in refusal(tmp_path / "b.nii")


def test_slightly_rounded_axes_are_right_angles(tmp_path):
    affine = OBLIQUE.copy()
    affine[0, 0] += 2e-4
    read_header(save(tmp_path / "a.nii", voxels(), affine))


# ---- bad files: one sentence


def header_patches():
    return {
        "zero pixdim": (80, np.array([0], "<f4"), "pixdim"),
        "nan pixdim": (80, np.array([np.nan], "<f4"), "pixdim"),
        "offset beyond": (108, np.array([1e6], "<f4"), "cut off"),
        "offset in header": (108, np.array([20], "<f4"), "begin at byte"),
        "infinite slope": (112, np.array([np.inf, 0], "<f4"), "scaled"),
        "unknown type": (70, np.array([33], "<i2"), "datatype"),
        "rgb": (70, np.array([128, 24], "<i2"), "colours"),
        "complex": (70, np.array([32, 64], "<i2"), "complex"),
        "longdouble": (70, np.array([1536, 128], "<i2"), "not accepted"),
        "type against bits": (70, np.array([2], "<i2"), "contradicts"),
        "negative size": (42, np.array([-7], "<i2"), "dimensions"),
        "too large": (42, np.array([32000, 32000, 32000], "<i2"), "cut off"),
        "too small": (42, np.array([6], "<i2"), "follow the last voxel"),
        "no dimensions": (40, np.array([0], "<i2"), "dimensions"),
        "two long axes": (40, np.array([5, 7, 6, 1, 5, 2], "<i2"), "dimensions"),
        "pair": (344, np.frombuffer(b"ni1\0", np.uint8), "pair"),
        "analyze": (344, np.frombuffer(b"\0\0\0\0", np.uint8), "magic"),
        "sform code": (254, np.array([77], "<i2"), "sform_code"),
    }


@pytest.mark.parametrize("what", header_patches())
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_refused_header(tmp_path, what, suffix):
    at, value, word = header_patches()[what]
    path = patched(save(tmp_path / "a.nii", voxels()), at, value.tobytes(), tmp_path / f"b{suffix}")
    assert word in refusal(path)


def test_refused_files(tmp_path):
    good = save(tmp_path / "a.nii.gz", voxels()).read_bytes()
    raw = gzip.decompress(good)

    def line(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return refusal(tmp_path / name)

    assert "empty" in line("empty.nii.gz", b"")
    assert "no NIfTI" in line("text.nii.gz", b"subject,age\n1,2\n" * 50)
    assert "cut off" in line("half.nii.gz", good[: len(good) // 2])
    assert "cut off" in line("no_trailer.nii.gz", good[:-8])
    assert "cut off" in line("no_length.nii.gz", good[:-4])
    assert "cut off" in line("half.nii", raw[:500])
    assert "cut off" in line("header_only.nii", raw[:352])
    assert "cut off" in line("header_only.nii.gz", gzip.compress(raw[:352]))
    assert "348" in line("short.nii", raw[:100])
    assert "follow" in line("long.nii", raw + b"x")
    assert "follow" in line("long.nii.gz", gzip.compress(raw + b"x"))
    crc = bytearray(good)
    crc[-6] ^= 1
    assert "damaged" in line("crc.nii.gz", bytes(crc))
    assert "suffix" in line("a.xyz", raw)
    assert "pair" in line("a.hdr", raw)
    assert "no such file" in refusal(tmp_path / "missing.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    assert "folder" in refusal(tmp_path / "folder.nii.gz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    assert "ordinary" in refusal(tmp_path / "pipe.nii.gz")


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path):
    raw = save(tmp_path / "a.nii", voxels()).read_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(raw[:352] + bytes(1 << 28)))  # 256 MiB for 420 bytes
    assert "follow" in refusal(tmp_path / "bomb.nii.gz")


def test_damaged_nrrd_and_metaimage(tmp_path):
    image = sitk.GetImageFromArray(voxels((9, 9, 9)))
    for suffix in (".nrrd", ".mha"):
        for packed in (False, True):
            path = tmp_path / f"good{suffix}"
            sitk.WriteImage(image, path, packed)
            good = path.read_bytes()
            bad = tmp_path / f"bad{suffix}"
            flipped = bytearray(good)
            flipped[-3] ^= 0x40  # in the length or checksum that ends the stream
            for data in (
                good[:-1],
                good[:-8],
                good[: len(good) // 2],
                good[:30],
                *([bytes(flipped)] if packed else []),
            ):
                bad.write_bytes(data)
                assert refusal(bad)
    bad = tmp_path / "bad.mhd"
    bad.write_text("NDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = ../good.raw\n")
    assert "beside it" in refusal(bad)


# ---- 2D images


def test_2d_images(tmp_path):
    grey = voxels((40, 30), "u1")
    colour = voxels((40, 30, 3), "u1")
    for name, array in (("g.png", grey), ("g.tif", grey), ("c.png", colour), ("c.tiff", colour)):
        Image.fromarray(array).save(tmp_path / name)
        found, header = read_volume(tmp_path / name)
        expected = array.reshape(40, 30, -1).transpose(2, 1, 0)[..., None]
        np.testing.assert_array_equal(found, expected)
        assert header.shape == (30, 40, 1)
        np.testing.assert_array_equal(header.affine, np.eye(4))
        assert found.flags.writeable
    Image.fromarray(grey.astype("u2") * 600).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "deep.png")[0][0, ..., 0], grey.T.astype("u2") * 600)
    Image.fromarray(grey > 50).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.png")[0][0, ..., 0], grey.T > 50)


def test_bad_2d_images(tmp_path):
    Image.fromarray(voxels((40, 30), "u1")).save(tmp_path / "a.png")
    good = (tmp_path / "a.png").read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 4
    for data in (good[:100], bytes(flipped), b"text"):
        (tmp_path / "bad.png").write_bytes(data)
        said = refusal(tmp_path / "bad.png")
        assert "is no readable 2D image" in said or "is a damaged PNG" in said
    Image.fromarray(voxels((9, 9, 4), "u1")).save(tmp_path / "alpha.png")
    assert "transparent" in refusal(tmp_path / "alpha.png")
    pages = [Image.fromarray(voxels((9, 9), "u1", seed=n)) for n in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    assert "3 pages" in refusal(tmp_path / "stack.tif")


# ---- mutations: an error line or the same voxels, never others


@pytest.fixture(scope="module")
def specimen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutations")
    array = voxels((9, 8, 7), "i2")
    return save(folder / "a.nii.gz", array, np.diag([1, 1, 2, 1])), array, folder / "mutant.nii.gz"


def outcome(path: Path, array: np.ndarray) -> str:
    try:
        found, header = read_volume(path)
    except VolumeError:
        return "refused"
    assert found.shape == (1, *array.shape)
    np.testing.assert_array_equal(found[0], array)
    assert np.isfinite(header.affine).all()
    return "same"


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data())
def test_flipped_bytes_of_the_stream(specimen, data):
    path, array, mutant = specimen
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    mutant.write_bytes(bytes(raw))
    outcome(mutant, array)


def test_truncation_everywhere(specimen):
    path, array, mutant = specimen
    raw = path.read_bytes()
    for length in range(0, len(raw), 7):
        mutant.write_bytes(raw[:length])
        assert outcome(mutant, array) == "refused"


VOXEL_FIELDS = {"scl_slope", "scl_inter"}  # any finite number is a lawful one: it changes the intensities


@pytest.mark.parametrize("field", sorted(set(nib.Nifti1Header().keys()) - VOXEL_FIELDS))
def test_header_fields(specimen, field):
    path, array, mutant = specimen
    raw = gzip.decompress(path.read_bytes())
    kind = nib.Nifti1Header().structarr.dtype
    dtype, at = kind.fields[field][:2]
    item = dtype.base
    values = [0, -1, np.nan, np.inf, -np.inf, np.finfo("f4").max] if item.kind == "f" else [0, -1, 1, 77]
    if item.kind == "i":
        values.append(np.iinfo(item).max)
    if item.kind == "S":
        values = [b"\xff" * item.itemsize, b""]
    for n in range(max(1, dtype.itemsize // item.itemsize)):
        for value in values:
            with np.errstate(all="ignore"):
                data = np.array(value).astype(item).tobytes()
            changed = bytearray(raw)
            changed[at + n * item.itemsize : at + (n + 1) * item.itemsize] = data
            mutant.write_bytes(gzip.compress(bytes(changed), 1))
            if field == "dim" and n == 0 and value == 1:
                continue
            outcome(mutant, array)


# ---- MONAI


def test_load_imaged(tmp_path):
    from monai.transforms import LoadImaged

    first = save(tmp_path / "a_0000.nii.gz", voxels())
    second = save(tmp_path / "a_0001.nii.gz", voxels(seed=1))
    load = LoadImaged("image", reader=VerifiedReader, ensure_channel_first=True)
    image = load({"image": [str(first), str(second)]})["image"]
    assert image.shape == (2, 7, 6, 5)
    np.testing.assert_array_equal(image.numpy(), np.stack([voxels(), voxels(seed=1)]))
    np.testing.assert_array_equal(image.affine, OBLIQUE.astype("f4"))
    assert tuple(image.meta["spatial_shape"]) == (7, 6, 5)
    assert image.meta["filename_or_obj"] == str(first)
    assert "original_affine" in image.meta
    np.testing.assert_array_equal(load({"image": first})["image"][0], voxels())


def test_no_other_reader_gets_a_refused_file(tmp_path):
    from monai.transforms import LoadImaged

    data = save(tmp_path / "a.nii.gz", voxels()).read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(data[:-8])
    with pytest.raises(VolumeError, match="cut off"):
        LoadImaged("image", reader=VerifiedReader)({"image": tmp_path / "half.nii.gz"})


def test_channels_on_other_grids_are_refused(tmp_path):
    first = save(tmp_path / "a.nii", voxels())
    moved = OBLIQUE.copy()
    moved[0, 3] += 1
    for other, word in (
        (save(tmp_path / "b.nii", voxels(), moved), r"1 mm \(0.833 voxels\) off the first channel"),
        (save(tmp_path / "c.nii", voxels((7, 6, 4))), "shape"),
    ):
        with pytest.raises(VolumeError, match=word):
            VerifiedReader().get_data((first, other))


def test_error_survives_a_worker():
    error = pickle.loads(pickle.dumps(VolumeError("is empty", path="a.nii", hint="copy it")))
    assert str(error) == "a.nii: is empty; copy it"
    assert (error.problem, error.path, error.hint) == ("is empty", "a.nii", "copy it")


@pytest.mark.parametrize("missing", [["isal"], ["deflate"], ["isal", "deflate"]])
def test_without_a_fast_library_the_next_one_reads_the_same(tmp_path, missing):
    save(tmp_path / "a.nii.gz", voxels())
    damaged = bytearray((tmp_path / "a.nii.gz").read_bytes())
    damaged[-6] ^= 1
    (tmp_path / "crc.nii.gz").write_bytes(bytes(damaged))
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}))\n"
        "from medseg.portable.io.read import read_volume, VolumeError\n"
        "print(int(read_volume('a.nii.gz')[0].sum()))\n"
        "try: read_volume('crc.nii.gz')\n"
        "except VolumeError as e: print(e)\n"
        "assert 'torch' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(int(voxels().sum()))
    assert "damaged" in done.stdout
