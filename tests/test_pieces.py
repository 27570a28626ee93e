"""Pieces of a run are recognised by what they were made of and by what was made, not by names or dates."""

from __future__ import annotations

import os

import pytest

from medseg.errors import DataError
from medseg.records import Piece, digest_of


def make(folder, text="made", **made_of):
    piece = Piece(folder / "piece.json", made_of or {"source": "a"}, [folder / "product.txt"])
    piece.begin()
    (folder / "product.txt").write_text(text)
    piece.finish({"figure": 3})
    return piece


def test_a_finished_piece_is_found_again(tmp_path):
    make(tmp_path)
    again = Piece(tmp_path / "piece.json", {"source": "a"}, [tmp_path / "product.txt"])
    assert again.notes()["figure"] == 3
    os.utime(tmp_path / "product.txt", (0, 0))
    assert again.notes() is not None


@pytest.mark.parametrize("change", ["product", "source", "record", "gone", "no record"])
def test_anything_else_makes_it_again(tmp_path, change):
    make(tmp_path)
    product, record = tmp_path / "product.txt", tmp_path / "piece.json"
    if change == "product":
        product.write_text("forged")
    elif change == "gone":
        product.unlink()
    elif change == "record":
        record.write_text(record.read_text()[:-20])
    elif change == "no record":
        record.unlink()
    again = Piece(record, {"source": "b" if change == "source" else "a"}, [product])
    assert again.notes() is None
    assert not again.begun
    again.begin()
    assert not product.exists()


def test_an_interrupted_piece_keeps_what_there_is(tmp_path):
    folder = tmp_path / "network"
    piece = Piece(folder / "piece.json", {"seed": 0}, [folder / "bundle"])
    piece.begin(folder)
    (folder / "last.pt").write_text("half")
    again = Piece(folder / "piece.json", {"seed": 0}, [folder / "bundle"])
    assert again.begun
    again.begin(folder)
    assert (folder / "last.pt").exists()
    other = Piece(folder / "piece.json", {"seed": 1}, [folder / "bundle"])
    other.begin(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["piece.json"]


def test_a_folder_is_its_files_and_their_names(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "x").write_text("1")
    assert digest_of(first) == digest_of(second)
    (second / "x").rename(second / "y")
    assert digest_of(first) != digest_of(second)
    with pytest.raises(DataError, match="cannot be read"):
        digest_of(tmp_path / "absent")
