"""`data init` on masks whose colours are the classes: palettes and RGB."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_sets import called

from medseg.manifest.manifest import Manifest
from medseg.portable.io.read import read_volume
from medseg.workflows.data.labels.palettes import CAMVID, built_in, read_palette

RED, GREEN, BLACK = (128, 0, 0), (0, 128, 0), (0, 0, 0)


def picture(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def mask(*spots: tuple[int, int, int]) -> np.ndarray:
    """`(rows, columns, 3)` of 12 x 16, black, whose row 2 * n is the n-th colour."""
    array = np.zeros((12, 16, 3), "u1")
    for n, color in enumerate(spots):
        array[2 * n] = color
    return array


def indexed(path: Path, entries: np.ndarray, colors: list[tuple[int, int, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(entries)
    image.putpalette([number for color in colors for number in color])
    image.save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    """Two photographs whose masks have rows of red and green, 16 pixels each."""
    for n in range(2):
        picture(tmp_path / f"d/images/IMG{n}.jpg", np.random.default_rng(n).integers(0, 255, (12, 16, 3), "u1"))
        picture(tmp_path / f"d/masks/img{n}.png", mask(RED, GREEN))
    return tmp_path / "d"


def init(capfd, root: Path, *options: object) -> tuple[int, str]:
    return called(capfd, "data", "init", root, "-o", root.parent / "m.json", *options)


def colors(root: Path, text: str) -> Path:
    (root.parent / "colors.csv").write_text(text)
    return root.parent / "colors.csv"


def test_the_palette_of_voc(root, capfd):
    """128,0,0 is the first of its colours and 0,128,0 the second; the photographs are named by their colours."""
    code, said = init(capfd, root)
    assert code == 2
    assert "img0.png: is a mask in colour, with 3 colours: 0,0,0 (160 pixels), 0,128,0 (16 pixels), 128,0,0 (16" in said
    assert "all of them are in --colors voc; say what they are by --colors FILE, a CSV of name,r,g,b" in said
    code, said = init(capfd, root, "--colors", "voc")
    assert code == 0, said
    manifest = Manifest.load(root.parent / "m.json")
    assert (manifest.labels[1], manifest.labels[2], len(manifest.labels)) == ("aeroplane", "bicycle", 21)
    assert manifest.shows_colours
    labels, _ = read_volume(manifest.label(manifest.training[0]))
    assert np.bincount(labels.reshape(-1)).tolist() == [160, 16, 16]
    assert (labels[0, :, 0, 0] == 1).all()
    assert (labels[0, :, 2, 0] == 2).all()
    code, said = called(capfd, "data", "check", root.parent / "m.json", "--headers-only")
    assert code == 0, said


def test_a_table_of_colors(root, capfd):
    """Values are in the order of the lines, from 1 beside a background; void is ignored."""
    given = colors(root, "name,r,g,b\ntree,0,128,0\nbackground,0,0,0\nvoid,128,0,0\n")
    code, said = init(capfd, root, "--colors", given)
    assert code == 0, said
    manifest = Manifest.load(root.parent / "m.json")
    assert (manifest.labels, manifest.has_background) == ({0: "background", 1: "tree"}, True)
    labels, _ = read_volume(manifest.label(manifest.training[1]))
    assert [int((labels == value).sum()) for value in (0, 1, 255)] == [160, 16, 16]


def test_without_a_background_every_color_is_a_class(root, capfd):
    given = colors(root, "name;r;g;b\nroad;0;0;0\ntree;0;128;0\ncar;128;0;0\n")
    code, said = init(capfd, root, "--colors", given)
    assert code == 0, said
    manifest = Manifest.load(root.parent / "m.json")
    assert (manifest.labels, manifest.has_background) == ({0: "road", 1: "tree", 2: "car"}, False)


def test_unknown_colors_are_listed_with_counts(root, capfd):
    """A colour one step from red is not red; nothing is written."""
    picture(root / "masks/img1.png", mask((129, 0, 0), GREEN, (1, 2, 3), (1, 2, 3)))
    given = colors(root, "name,r,g,b\nbackground,0,0,0\na,128,0,0\nb,0,128,0\n")
    code, said = init(capfd, root, "--colors", given)
    assert code == 2
    told = "img1.png: has 2 colours that the table of colours does not have: 1,2,3 (32 pixels), 129,0,0 (16 pixels)"
    assert told in said
    assert not (root.parent / "m_labels").exists()


def test_masks_with_palettes(root, capfd):
    """Entries are the values where all files agree; entries of other colours are told by `--colors`."""
    entries = mask(RED, GREEN)[..., 0] // 128 + mask(RED, GREEN)[..., 1] // 64
    for n in range(2):
        indexed(root / f"masks/img{n}.png", entries, [BLACK, RED, GREEN])
    code, said = init(capfd, root)
    assert code == 0, said
    manifest = Manifest.load(root.parent / "m.json")
    assert (list(manifest.labels), manifest.label(manifest.training[0]).parent.name) == ([0, 1, 2], "masks")
    indexed(root / "masks/img1.png", np.array([0, 2, 1], "u1")[entries], [BLACK, GREEN, RED])
    code, said = init(capfd, root)
    told = "img1.png: its value 1 is the colour 0,128,0, and 128,0,0 in img0.png; say what the colours are by --colors"
    assert (code, told in said) == (2, True), said
    code, said = init(capfd, root, "--colors", "VOC")
    assert code == 0, said
    manifest = Manifest.load(root.parent / "m.json")
    one, two = (read_volume(manifest.label(case))[0] for case in manifest.training)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("r,g,b,name\n", "its first line is 'r,g,b,name' and not name,r,g,b"),
        ("name,r,g,b\na,0,0\n", "line 2 is 'a,0,0'; accepted is NAME,R,G,B of 0 to 255"),
        ("name,r,g,b\na,0,0,256\n", "line 2 is 'a,0,0,256'"),
        ("name,r,g,b\na,0,0,0\nb,0,0,0\n", "line 3 has the colour of line 2"),
        ("name,r,g,b\na,0,0,0\nA,0,0,1\n", "names 'A' twice; accepted is one colour for each name"),
        ("name,r,g,b\na,0,0,0\n", "names 1 classes; accepted are 2 to 255"),
    ],
)
def test_tables_that_cannot_be_used(text, told, root, capfd):
    code, said = init(capfd, root, "--colors", colors(root, text))
    assert (code, told in said) == (2, True), said


def test_colors_that_cannot_be_read(root, capfd):
    code, said = init(capfd, root, "--colors", "none.csv")
    assert (code, "--colors none.csv is no readable file; accepted is a CSV" in said) == (2, True), said
    code, said = init(capfd, root, "--colors", "voc", "--label", "1=a")
    assert (code, "--label and --colors both name the classes" in said) == (2, True), said
    stream = io.BytesIO()
    Image.fromarray(mask(RED)).save(stream, format="JPEG")
    (root / "masks/img1.png").unlink()
    (root / "masks/img1.jpg").write_bytes(stream.getvalue())
    code, said = init(capfd, root, "--colors", "voc")
    assert (code, "img1.jpg: is a JPEG, which does not keep colours" in said) == (2, True), said


def test_the_built_in_palettes():
    """CamVid has 32 colours, of which Void is no class; VOC 21 classes and the pale border."""
    palettes = built_in()
    assert len(set(CAMVID.values())) == 32
    camvid, voc = palettes["camvid"], read_palette("voc")
    assert (len(camvid.labels), camvid.has_background, camvid.values[0, 0, 0]) == (31, False, 255)
    assert (len(voc.labels), voc.has_background, voc.values[224, 224, 192]) == (21, True, 255)
    assert (voc.values[192, 128, 128], voc.labels[15]) == (15, "person")
