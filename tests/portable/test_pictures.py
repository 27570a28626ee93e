"""Pictures: colours of a palette, and PNG files that lost bits or rows."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from PIL import Image
from tiny_sets import called

from medseg.portable.io.labels import read_labels
from medseg.portable.io.read import VolumeError, read_header, read_volume


def palette_png(path, palette):
    """Two columns, three rows; entries 0, 1, 2 of the palette, each twice."""
    image = Image.fromarray(np.array([[0, 1], [2, 0], [1, 2]], "u1"), "P")
    image.putpalette(palette)
    image.save(path)
    return path


def test_a_palette_is_colours_of_an_image_and_values_of_a_label(tmp_path):
    path = palette_png(tmp_path / "p.png", [10, 20, 30, 0, 0, 255, 200, 100, 0])
    array, header = read_volume(path)
    assert (array.shape, header.channels, read_header(path).channels) == ((3, 2, 3, 1), 3, 3)
    assert array[:, 0, 0, 0].tolist() == [10, 20, 30]  # column 0, row 0: entry 0
    assert array[:, 1, 0, 0].tolist() == [0, 0, 255]
    assert array[:, 0, 1, 0].tolist() == [200, 100, 0]
    labels, header = read_labels(path)
    assert (labels[0, :, :, 0].T.tolist(), header.channels) == ([[0, 1], [2, 0], [1, 2]], 1)


def test_a_palette_of_greys_is_one_channel(tmp_path):
    path = palette_png(tmp_path / "p.png", [7, 7, 7, 90, 90, 90, 250, 250, 250])
    array, header = read_volume(path)
    assert (array[0, :, :, 0].T.tolist(), header.channels) == ([[7, 90], [250, 7], [90, 250]], 1)


def test_a_palette_may_be_the_label_of_a_training(tmp_path, capfd):
    rng = np.random.default_rng(0)
    cases = []
    for number in range(2):
        square = np.zeros((32, 32), "u1")
        square[8:24, 8:24] = 1
        picture = (rng.integers(0, 50, (32, 32)) + 100 * square).astype("u1")
        Image.fromarray(picture).save(tmp_path / f"i{number}.png")
        label = Image.fromarray(square, "P")
        label.putpalette([0, 0, 0, 255, 0, 0])
        label.save(tmp_path / f"l{number}.png")
        cases.append({"image": f"i{number}.png", "label": f"l{number}.png"})
    content = {"modality": "XR", "labels": {"0": "background", "1": "square"}, "training": cases}
    (tmp_path / "m.json").write_text(json.dumps(content))
    assert called(capfd, "data", "check", tmp_path / "m.json")[0] == 0
    settings = ("stages.0.schedule.iterations=1", "stages.0.network.width=4", "stages.0.schedule.batch.labeled=2")
    words = [word for each in settings for word in ("--set", each)]
    code, said = called(
        capfd, "train", "--task", "supervised", "--data", tmp_path / "m.json", "-o", tmp_path / "r", *words
    )
    assert code == 0, said


@pytest.mark.parametrize(("mode", "interlaced"), [("L", False), ("RGB", False), ("I;16", False), ("1", False)])
def test_whole_png_files_are_read(mode, interlaced, tmp_path):
    size = (13, 9)
    array = np.random.default_rng(0).integers(0, 255, (9, 13, 3), "u1")
    if mode == "I;16":
        image = Image.fromarray(array[..., 0].astype("u2") * 200)
    else:
        image = Image.fromarray(array).convert(mode)
    image.save(tmp_path / "x.png")
    assert read_volume(tmp_path / "x.png")[0].shape[1:3] == size


def png(rows: int, height: int, *, spoil: int = 0) -> bytes:
    """A grey PNG 4 pixels wide, by hand: so many rows of a height that its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + (zlib.crc32(kind + data) ^ spoil).to_bytes(4, "big")

    head = (4).to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    pixels = b"".join(b"\0" + bytes([row] * 4) for row in range(rows))
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_missing_rows_and_wrong_checksums_are_refused(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(5, 5))
    assert read_volume(path)[0][0, 0, :, 0].tolist() == [0, 1, 2, 3, 4]
    for content, words in (
        (png(3, 5), "is cut off: 15 of 25 bytes of its rows"),
        (png(7, 5), "more rows than its header says"),
        (png(5, 5, spoil=1), r"checksum|damaged|no readable"),
        (png(5, 5)[:-13], r"ends before its last chunk|no readable"),
    ):
        path.write_bytes(content)
        with pytest.raises(VolumeError, match=words):
            read_volume(path)


def test_every_flipped_bit_of_a_png_is_seen(tmp_path):
    good = png(5, 5)
    for place in range(8, len(good)):
        spoilt = bytearray(good)
        spoilt[place] ^= 1
        (tmp_path / "x.png").write_bytes(spoilt)
        with pytest.raises(VolumeError):
            read_volume(tmp_path / "x.png")
