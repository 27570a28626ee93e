"""DICOM SEG of the label server: who made them, and those that other programs stored. Without MONAI Label."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicoms import affine_of, by_dcmqi, turned, write_series
from models import labels_of

from medseg.dicom.scan.series import open_series
from medseg.dicom.writing.write_seg import Author, SegmentDescription, write_segmentation
from medseg.errors import DataError
from medseg.serve.datastores import export_seg
from medseg.serve.datastores.import_seg import find_known_names, label_map

SHAPE = (12, 9, 6)
KNOWN = {"liver": 1, "tumour": 4}


def drawing() -> np.ndarray:
    """(X, Y, Z): a tumour in a liver, on some slices only."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 3:8, 2:5], labels[4:6, 4:6, 3] = 1, 4
    return labels


def stored(folder: Path, names=("Tumour", "liver"), axes=None) -> tuple[Path, Path]:
    """A SEG whose segments stand in another order than the labels' values, and the image that it refers to."""
    axes = turned() if axes is None else axes
    write_series(folder / "series", np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE), axes=axes)
    places = np.array([0, 2, 0, 0, 1], np.uint8)[drawing()]
    seg, image = folder / "seg.dcm", folder / "image.nii.gz"
    write_segmentation(
        seg, places, open_series(folder / "series"), [SegmentDescription(n) for n in names], Author("else", "else")
    )
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine_of(axes)), image)
    return seg, image


def test_a_seg_of_some_slices_is_a_label_of_the_whole_image(tmp_path):
    seg, image = stored(tmp_path)
    slices = {
        tuple(f.PlanePositionSequence[0].ImagePositionPatient)
        for f in pydicom.dcmread(seg).PerFrameFunctionalGroupsSequence
    }
    assert len(slices) == 3, "empty slices have no frame"
    label_map(seg, image, KNOWN, tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(labels_of(tmp_path / "label.nii.gz"), drawing())
    header = nib.load(tmp_path / "label.nii.gz").header
    np.testing.assert_array_equal(header.get_best_affine(), nib.load(image).affine)
    assert (header["qform_code"], header["sform_code"]) == (0, 2)  # as nibabel made the image
    assert header.get_intent()[0] == "label"
    # on an image that is stored along other axes, and is larger
    bigger = np.pad(drawing(), ((1, 0), (0, 2), (3, 3)))
    affine = nib.load(image).affine
    affine[:3, 3] -= affine[:3, :3] @ [1, 0, 3]
    other = nib.Nifti1Image(bigger, affine).as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    nib.save(other, tmp_path / "other.nii.gz")
    label_map(seg, tmp_path / "other.nii.gz", KNOWN, tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(labels_of(tmp_path / "label.nii.gz"), other.dataobj)


@pytest.mark.parametrize("wrong", ["spacing", "turn", "outside"])
def test_a_seg_that_is_not_on_the_images_voxels_is_refused(wrong, tmp_path):
    seg, image = stored(tmp_path)
    affine, shape = nib.load(image).affine, list(SHAPE)
    if wrong == "spacing":
        affine[:3, 0] *= 1.1
    elif wrong == "turn":
        affine[:3, :3] = affine_of(turned((10, -25, 50)))[:3, :3]
    else:
        shape[0] = 5
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), affine), image)
    with pytest.raises(DataError, match="voxels outside" if wrong == "outside" else "voxels between"):
        label_map(seg, image, KNOWN, tmp_path / "label.nii.gz")
    assert not (tmp_path / "label.nii.gz").exists()


def test_a_seg_with_names_that_no_model_knows_is_refused(tmp_path):
    seg, image = stored(tmp_path, names=("Segment_1", "liver"))
    with pytest.raises(DataError, match=r"no known value: Segment_1; known are liver, tumour"):
        label_map(seg, image, KNOWN, tmp_path / "label.nii.gz")
    image.write_text("no image")
    with pytest.raises(DataError, match=r"image\.nii\.gz"):
        label_map(seg, image, KNOWN, tmp_path / "label.nii.gz")


def test_structures_that_models_number_differently_have_no_value():
    labels = [{"Liver": 1, "spleen": 2, "aorta": 5}, {"liver": 1, "Tumour": 4, "Spleen": 3}, {"colon": 5}]
    assert find_known_names(SimpleNamespace(labels=each) for each in labels) == KNOWN


@pytest.mark.parametrize(
    ("author", "info", "kind", "name"),
    [
        (None, None, "MANUAL", None),
        (None, [{"name": "x"}, {"name": "y"}], "MANUAL", None),
        (None, "liver", "MANUAL", None),
        (None, ["liver", None], "MANUAL", None),
        (None, [{"name": "x"}, {"name": "y", "model_name": "theirs"}], "SEMIAUTOMATIC", "theirs"),
        (export_seg.by_person([{"model_name": "theirs"}], "ours"), None, "SEMIAUTOMATIC", "medseg ours"),
        (export_seg.by_model("ours"), [{"model_name": "theirs"}], "AUTOMATIC", "medseg ours"),
        (export_seg.by_consensus("gcssl"), None, "AUTOMATIC", "medseg consensus by gcssl"),
    ],
)
def test_a_seg_says_who_made_it(author, info, kind, name, tmp_path):
    _, image = stored(tmp_path)
    nib.save(nib.Nifti1Image(drawing(), nib.load(image).affine), tmp_path / "label.nii.gz")
    write = export_seg.seg_writer({1: "liver"})
    before = export_seg.MADE_BY.set(author)
    try:
        made = Path(write(str(tmp_path / "series"), str(tmp_path / "label.nii.gz"), info))
    finally:
        export_seg.MADE_BY.reset(before)
    seg = pydicom.dcmread(made)
    assert {segment.SegmentAlgorithmType for segment in seg.SegmentSequence} == {kind}
    for segment in seg.SegmentSequence:
        assert segment.get("SegmentAlgorithmName") == name
        algorithm = segment.get("SegmentationAlgorithmIdentificationSequence")
        assert (algorithm[0].AlgorithmName if algorithm else None) == name
    assert ("Consensus" in seg.SeriesDescription) == (author == export_seg.by_consensus("gcssl"))
    found = by_dcmqi(made, tmp_path / "dcmqi", affine_of(turned()), SHAPE)
    np.testing.assert_array_equal(np.array([0, 1, 4], np.uint8)[found], drawing())
    made.unlink()
