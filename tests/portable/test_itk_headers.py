"""NRRD and MetaImage whose headers end ITK's process, or make it read other voxels: refused, or read as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medseg.portable.io.header import VolumeError
from medseg.portable.io.read import read_header, read_volume

VOXELS = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)  # z, y, x as ITK has them


def written(path: Path, *, packed: bool = False) -> list[bytes]:
    """The lines of a good file's header; its voxels are the last item."""
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path), packed)
    content = path.read_bytes()
    end = b"ElementDataFile = LOCAL\n" if path.suffix == ".mha" else b"\n\n"
    head, found, voxels = content.partition(end)
    return [*(head + found).rstrip(b"\n").split(b"\n"), voxels]


def save(path: Path, lines: list[bytes], **changes: str | None) -> Path:
    """With other values of some keys of a MetaImage; None leaves a key out."""
    *head, voxels = lines
    kept = []
    for line in head:
        key = line.partition(b" = ")[0].decode()
        if key not in changes:
            kept.append(line)
        elif changes[key] is not None:
            kept.append(f"{key} = {changes[key]}".encode())
    new = [f"{key} = {value}".encode() for key, value in changes.items() if not any(
        line.startswith(f"{key} =".encode()) for line in head
    )]  # fmt: skip
    path.write_bytes(b"\n".join([*new, *kept]) + b"\n" + voxels)
    return path


def test_so_many_axes_are_refused_before_itk_makes_room_for_them(tmp_path):
    lines = written(tmp_path / "x.mha")
    for count in ("2147483647", "99999999999999", "0", "-1", "17", "three"):
        save(tmp_path / "x.mha", lines, NDims=count)
        for read in (read_header, read_volume):
            with pytest.raises(VolumeError, match="dimensions; accepted is 2 or 3"):
                read(tmp_path / "x.mha")


@pytest.mark.parametrize("key", ["kinds", "type", "space units", "encoding", "thicknesses"])
def test_fields_longer_than_itks_messages_are_refused(key, tmp_path):
    head, voxels = written(tmp_path / "x.nrrd")[:-1], written(tmp_path / "x.nrrd")[-1]
    kept = [line for line in head if not line.startswith(f"{key}:".encode())]
    content = b"\n".join([kept[0], f"{key}: {'x' * 5000}".encode(), *kept[1:]])
    (tmp_path / "x.nrrd").write_bytes(content + b"\n\n" + voxels)
    with pytest.raises(VolumeError, match=f"has 500. letters as '{key}'"):
        read_header(tmp_path / "x.nrrd")


def test_the_length_of_packed_voxels_is_not_believed(tmp_path):
    """ITK reads other voxels where it is not given, and where it is wrong."""
    lines = written(tmp_path / "x.mha", packed=True)
    for size in (None, "0", "1", "99999", "1 1"):
        save(tmp_path / "x.mha", lines, CompressedDataSize=size)
        np.testing.assert_array_equal(read_volume(tmp_path / "x.mha")[0][0].T, VOXELS)


def test_the_order_of_bytes_is_the_headers(tmp_path):
    """Of 0x0102 and 0x0304 the little-endian reading is 0x0201 and 0x0403."""
    head = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = {}\nDimSize = 2 1 1\n"
    head += "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    for word, wanted in (("True", [0x0102, 0x0304]), ("False", [0x0201, 0x0403])):
        (tmp_path / "x.mha").write_bytes(head.format(word).encode() + bytes([1, 2, 3, 4]))
        assert read_volume(tmp_path / "x.mha")[0].ravel().tolist() == wanted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"HeaderSize": "1 1"}, "has a HeaderSize of 1 1"),
        ({"BinaryDataByteOrderMSB": "1 1"}, "accepted are true and false"),
        ({"CompressedData": "1e308"}, "accepted are true and false"),
        ({"ElementDataFile": ""}, "names no ElementDataFile"),
    ],
)
def test_words_that_readers_take_differently_are_refused(change, words, tmp_path):
    lines = written(tmp_path / "x.mha")
    with pytest.raises(VolumeError, match=words):
        read_volume(save(tmp_path / "x.mha", lines, **change))


def test_every_type_and_channels_are_read_as_itk_reads_them(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"):
        for packed in (False, True):
            array = (rng.random((3, 4, 5, 2)) * 100).astype(kind)
            sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "x.mha"), packed)
            found, header = read_volume(tmp_path / "x.mha")
            np.testing.assert_array_equal(found.transpose(3, 2, 1, 0), array)
            assert found.dtype == array.dtype == header.dtype


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"DimSize": None}, "names no DimSize"),
        ({"DimSize": "5 4"}, "has 2 lengths and 3 dimensions"),
        ({"NDims": None}, "names no NDims"),
        ({"NDims": "10"}, "has 3 lengths and 10 dimensions"),
        ({"ElementType": None}, "names no ElementType"),
        ({"TransformMatrix": "1 " * 5000}, "has 9999 letters as 'TransformMatrix'"),
        ({"Offset": "nan 0 0"}, "has 'nan 0 0' as Offset; accepted are numbers"),
        ({"ElementSpacing": "0,5 0,5 1"}, "has '0,5 0,5 1' as ElementSpacing"),
    ],
)
def test_a_header_that_lacks_what_itk_needs_is_told_by_us_alone(change, words, tmp_path, capfd):
    lines = written(tmp_path / "x.mha")
    with pytest.raises(VolumeError, match=words):
        read_volume(save(tmp_path / "x.mha", lines, **change))
    assert capfd.readouterr().err == ""
