"""Damaged DICOM: a mutated file is read or refused in one line, and never ends in anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicoms import affine_of, enhanced, voxels, write_contours, write_series
from raters import ball

from medseg.dicom.annotation import read_annotation
from medseg.dicom.series import open_series
from medseg.dicom.write_seg import Author, SegmentDescription, write_segmentation
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
