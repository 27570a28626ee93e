"""Studies from files and back: formats, names, grids, gaps, and what is refused."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from raters import AFFINE, ball, fields_of, image_of, save, seg_nrrd, write_study

from medseg.consensus.io.annotations.segment_table import read_segments
from medseg.consensus.io.read_study import read_study
from medseg.consensus.io.write_results import write_labels, write_map, write_soft
from medseg.consensus.statistics.uncertainty_maps import disagreement, soft_labels
from medseg.consensus.study import MISSING
from medseg.errors import ConfigError, DataError, OutputError
from medseg.portable.io.read import read_volume


def labels_of(study) -> list[np.ndarray]:
    return [rater.labels for rater in study.raters]


def refusal(image, annotations, kind=DataError, **options) -> str:
    with pytest.raises(kind) as caught:
        read_study(image, annotations, **options)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_volumes_keep_grid_values_and_gaps(suffix, tmp_path):
    image, drawn = write_study(tmp_path, value=7, suffix=suffix)
    study, form = read_study(image, drawn)
    assert [e.name for e in study.raters] == ["anna", "bob", "cleo"]
    assert study.classes == ("background", "label 7")
    assert study.spacing_mm == (1, 1, 2)
    np.testing.assert_array_equal(study.raters[0].labels, ball())
    np.testing.assert_array_equal(study.image[0], image_of(ball()))
    assert (study.raters[2].labels[:, :10] == MISSING).all()
    assert (study.raters[2].labels[:, 10:] < 2).all()
    out = write_labels(tmp_path, "consensus", study.raters[2].labels, form)
    assert out.name == "consensus" + {".nii": ".nii.gz"}.get(suffix, suffix)
    (back, header), (stored, original) = read_volume(out), read_volume(drawn[2])
    np.testing.assert_array_equal(back, stored)
    np.testing.assert_allclose(header.affine, original.affine)
    assert back.dtype == stored.dtype


def test_pictures_with_colours_and_palettes(tmp_path):
    rng = np.random.default_rng(0)
    image = save(tmp_path / "eye.png", rng.integers(0, 255, (30, 20, 3)).astype(np.uint8))
    truth = ball((30, 20, 1))[..., 0]
    one = save(tmp_path / "a.png", truth * 255)
    two = Image.fromarray(np.ascontiguousarray(truth.T * 3), mode="P")
    two.putpalette([0, 0, 0, 10, 20, 30] * 4)
    two.save(tmp_path / "b.png")
    study, form = read_study(image, [tmp_path / "b.png", one], missing=None)
    assert study.image.shape == (3, 30, 20, 1)
    assert study.classes == ("background", "label 3", "label 255")
    write_labels(tmp_path, "consensus", study.raters[0].labels, form)
    with Image.open(tmp_path / "consensus.png") as back:
        assert back.mode == "P"
        assert back.getpalette()[3:6] == [10, 20, 30]
        np.testing.assert_array_equal(np.asarray(back), truth.T * 3)
    write_map(tmp_path, "confidence", np.full((30, 20, 1), 0.5, np.float32), form)
    assert np.asarray(Image.open(tmp_path / "confidence.png")).max() == 128
    assert "save it as PNG" in refusal(image, [two_as_jpeg(tmp_path)])


def two_as_jpeg(folder):
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(folder / "b.jpg")
    return folder / "b.jpg"


def test_the_structure_stored_as_255_is_not_silently_missing(tmp_path):
    files = [save(tmp_path / f"{n}.png", ball((30, 20, 1))[..., 0] * 255) for n in "ab"]
    assert "--missing-value none" in refusal(None, files)
    study, form = read_study(None, files, missing=None)
    assert study.image is None
    assert form.missing == 256


def test_a_picture_from_nrrd_stays_flat(tmp_path):
    flat = sitk.GetImageFromArray(ball((9, 8, 1))[..., 0].T.copy())
    sitk.WriteImage(flat, str(tmp_path / "a.nrrd"))
    study, form = read_study(None, [tmp_path / "a.nrrd"])
    out = write_labels(tmp_path, "consensus", study.raters[0].labels, form)
    assert sitk.ReadImage(str(out)).GetSize() == (9, 8)


def test_segmentations_keep_names_colours_and_tags(tmp_path):
    liver, tumour = ball(), ball(radius=2)
    layers = np.stack([liver * 4, tumour])
    table = fields_of(("liver", 4, 0, "0.5 0.25 0"), ("tumour", 1, 1, "1 0 0"))
    a = seg_nrrd(tmp_path / "a.seg.nrrd", layers, table)
    swapped = fields_of(("tumour", 4, 0, "0 1 0"), ("cyst", 1, 0, "0 0 1"), ("liver", 2, 0, "0 1 1"))
    b = seg_nrrd(tmp_path / "b.seg.nrrd", (liver * 2 * (1 - tumour) + tumour * 4)[None], swapped)
    study, form = read_study(None, [a, b])
    assert study.classes == ("background", "tumour", "cyst", "liver")
    assert [s.value for s in form.segments] == [1, 2, 4]  # of the cyst a new one
    assert any("means several things: 'cyst'" in note for note in form.notes)
    assert any("'liver' encloses 'tumour', which counts there" in note for note in form.notes)
    np.testing.assert_array_equal(*labels_of(study))
    out = write_labels(tmp_path, "consensus", study.raters[0].labels, form)
    assert out.name == "consensus.seg.nrrd"
    back = {s.name: s for s in read_segments(out)}
    assert back["liver"].color == pytest.approx((0.5, 0.25, 0))
    assert back["liver"].value == 4
    assert back["tumour"].extra["Tags"] == "Terminology~tumour"
    again, _ = read_study(None, [out])
    np.testing.assert_array_equal(again.raters[0].labels, study.raters[0].labels)


def test_files_without_names_join_those_with_names_by_value(tmp_path):
    a = seg_nrrd(tmp_path / "a.seg.nrrd", ball()[None], fields_of(("liver", 1, 0, "1 0 0")))
    b = save(tmp_path / "b.nii.gz", ball())
    study, _ = read_study(None, [b, a])
    assert study.classes == ("background", "liver")


def test_a_cropped_segmentation_is_background_beyond_its_extent(tmp_path):
    image = save(tmp_path / "i.nrrd", image_of(ball()))
    part = AFFINE.copy()
    part[:3, 3] = AFFINE[:3, :3] @ [6, 4, 2]
    a = seg_nrrd(tmp_path / "a.seg.nrrd", ball()[None, 6:18, 4:16, 2:10], fields_of(("x", 1, 0, "1 0 0")), part)
    study, form = read_study(image, [a])
    np.testing.assert_array_equal(study.raters[0].labels, ball())
    assert any("shows 12x12x8 of the 24x20x12 voxels: the rest is background" in note for note in form.notes)
    part[:3, 3] += [0.2, 0, 0]
    seg_nrrd(a, ball()[None, 6:18, 4:16, 2:10], fields_of(("x", 1, 0, "1 0 0")), part)
    study, form = read_study(image, [a])
    np.testing.assert_array_equal(study.raters[0].labels, ball())
    assert any("a.seg.nrrd lies up to 0.2 mm (0.2 voxels) off i.nrrd" in note for note in form.notes)
    part[:3, 3] += [0.2, 0.4, 0]  # in all 0.57 voxels
    seg_nrrd(a, ball()[None, 6:18, 4:16, 2:10], fields_of(("x", 1, 0, "1 0 0")), part)
    assert "has voxels between those of" in (line := refusal(image, [a]))
    assert "--resample" in line
    study, form = read_study(image, [a], resample="nearest")
    np.testing.assert_array_equal(study.raters[0].labels, ball())
    assert any("was resampled (nearest)" in note for note in form.notes)


def test_folders_of_raters(tmp_path):
    image = save(tmp_path / "case7_0000.nii.gz", image_of(ball()))
    save(tmp_path / "anna" / "case7.nii.gz", ball())
    save(tmp_path / "anna" / "other.nii.gz", ball((3, 3, 3)))
    save(tmp_path / "bob" / "liver.nii.gz", ball() * 9)
    save(tmp_path / "bob" / "tumour.nii.gz", ball(radius=2))
    study, form = read_study(image, [tmp_path / "anna", tmp_path / "bob"], labels={1: "liver", 2: "tumour"})
    assert [e.name for e in study.raters] == ["anna", "bob"]
    assert study.classes == ("background", "liver", "tumour")
    np.testing.assert_array_equal(study.raters[1].labels, np.where(ball(radius=2), 2, ball()))
    assert any("bob: 'liver' encloses 'tumour'" in note for note in form.notes)
    save(tmp_path / "bob" / "tumour.nii.gz", ball() + ball(radius=2))
    assert "is no mask" in refusal(image, [tmp_path / "bob"])
    (tmp_path / "empty").mkdir()
    assert "no file of this study" in refusal(image, [tmp_path / "empty"])
    assert "no such file" in refusal(image, [tmp_path / "nobody"])


def test_probabilities_beside_masks(tmp_path):
    image, drawn = write_study(tmp_path)
    soft = np.stack([1 - 0.8 * ball(), 0.8 * ball()], -1).astype(np.float32)
    soft[0] = 0
    p = save(tmp_path / "p.nii.gz", soft)
    assert "--probabilities" in refusal(image, [drawn[0], p])
    study, _ = read_study(image, [drawn[0], p], probabilities=True)
    rater = study.raters[1]
    assert (rater.labels[0] == MISSING).all()
    assert (rater.probabilities[:, 0] == 0).all()
    np.testing.assert_array_equal(rater.labels[1:], ball()[1:])
    alone, _ = read_study(image, [save(tmp_path / "q.nii.gz", 0.7 * ball().astype(np.float32))], probabilities=True)
    assert alone.raters[0].probabilities.shape[0] == len(alone.classes) == 2
    crooked, form = read_study(image, [save(tmp_path / "r.nii.gz", soft * 0.5)], probabilities=True)
    assert crooked.raters[0].probabilities.sum(0).max() == pytest.approx(1)
    assert any("were scaled" in note for note in form.notes)
    assert "outside 0 to 1" in refusal(image, [save(tmp_path / "s.nii.gz", soft * 3)], probabilities=True)
    three = save(tmp_path / "t.nii.gz", np.repeat(soft[..., :1], 3, -1) / 3)
    assert "3 channels of probabilities, there are 2" in refusal(image, [drawn[0], three], probabilities=True)


def test_float_files_only_if_they_hold_whole_numbers(tmp_path):
    almost = save(tmp_path / "a.nii.gz", ball().astype(np.float64) * 3 + 4e-7)
    study, _ = read_study(None, [almost])
    assert study.classes == ("background", "label 3")
    broken = save(tmp_path / "b.nii.gz", ball().astype(np.float64) * 0.5)
    assert "256 voxels are no whole numbers, such as 0.5; labels are whole numbers" in refusal(None, [broken])


def test_values_beyond_a_byte_and_gaps_come_back(tmp_path):
    drawn = (ball().astype(np.int16) * 900) + ball(radius=2).astype(np.int16) * 100
    a = save(tmp_path / "a.nii.gz", drawn)
    study, form = read_study(None, [a], missing=-1)
    assert study.classes == ("background", "label 900", "label 1000")
    back = nib.load(write_labels(tmp_path, "c", study.raters[0].labels, form))
    np.testing.assert_array_equal(back.dataobj, drawn)
    assert back.get_data_dtype() == np.int16
    drawn[0] = -1
    study, form = read_study(None, [save(a, drawn)], missing=-1)
    assert (study.raters[0].labels[0] == MISSING).all()
    np.testing.assert_array_equal(nib.load(write_labels(tmp_path, "c", study.raters[0].labels, form)).dataobj, drawn)
    assert "holds -1" in refusal(None, [a])


def test_regions_and_partial_protocols(tmp_path):
    two = ball() + ball(radius=2)
    files = [save(tmp_path / "anna.nii.gz", two), save(tmp_path / "bob.nii.gz", ball() - ball(radius=2))]
    region = np.ones_like(two)
    region[..., 3:] = 0
    study, form = read_study(None, files, regions={"anna": save(tmp_path / "r.nii.gz", region)})
    assert (study.raters[0].labels[..., 3:] == MISSING).all()
    assert (study.raters[0].labels[..., :3] == two[..., :3]).all()
    assert any("75.0% of the image lies outside" in note for note in form.notes)
    for wanted in ("2", "label 2"):
        study, form = read_study(None, files, partial=(("bob", wanted),))
        np.testing.assert_array_equal(study.raters[1].labels == MISSING, two == 2)
        assert any(f"{(two == 2).sum()} voxels that others call so" in note for note in form.notes)
    assert "no rater called carl" in refusal(None, files, ConfigError, partial=(("carl", "1"),))
    assert "no class called 5" in refusal(None, files, ConfigError, partial=(("bob", "5"),))


def test_grids_are_checked_and_never_silently_mended(tmp_path):
    image, drawn = write_study(tmp_path)
    small = save(tmp_path / "small.nii.gz", ball((24, 20, 11)))
    line = refusal(image, [drawn[0], small])
    assert str(small) in line
    assert str(image) in line
    assert "24x20x11" in line
    assert "24x20x12" in line
    moved = AFFINE.copy()
    moved[0, 3] = 0.6
    shifted = save(tmp_path / "shifted.nii.gz", ball(), moved)
    assert "0.6 mm (0.6 voxels) off" in refusal(image, [shifted])
    assert "spacing" in refusal(image, [save(tmp_path / "wide.nii.gz", ball(), np.diag([-1, -1, 2.1, 1]))])
    moved[0, 3] = 0.3
    notes = read_study(image, [save(shifted, ball(), moved)])[1].notes
    assert notes == (
        "shifted: shifted.nii.gz lies up to 0.3 mm (0.3 voxels) off image.nii.gz: taken as if it lay on it",
    )
    moved[0, 3] = 0.009
    assert read_study(image, [save(shifted, ball(), moved)])[1].notes == ()
    turned = nib.as_closest_canonical(nib.load(drawn[0])).as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    nib.save(turned, tmp_path / "turned.nii.gz")
    study, form = read_study(image, [tmp_path / "turned.nii.gz"])
    np.testing.assert_array_equal(study.raters[0].labels, ball())
    assert form.notes == ()  # nothing is changed by it


@pytest.mark.parametrize("way", ["nearest", "linear"])
def test_resampling_says_what_it_did(way, tmp_path):
    fine = ball((48, 40, 24), radius=10)
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] = AFFINE[:3, :3] @ np.full(3, -0.25)
    image = save(tmp_path / "i.nii.gz", image_of(ball()))
    a = save(tmp_path / "a.nii.gz", fine * 5, affine)
    study, form = read_study(image, [a], resample=way)
    expected = ball().astype(bool)
    found = study.raters[0].labels == 1
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.9
    assert any(f"a.nii.gz was resampled ({way}) from 48x40x24" in note for note in form.notes)
    part = save(tmp_path / "b.nii.gz", ball()[:12])
    study, _ = read_study(image, [part], resample=way)
    np.testing.assert_array_equal(study.raters[0].labels[:12], ball()[:12])
    assert (study.raters[0].labels[12:] == MISSING).all()


def test_probabilities_are_resampled_linearly(tmp_path):
    image = save(tmp_path / "i.nii.gz", image_of(ball()))
    soft = np.stack([1 - ball(), ball()], -1).astype(np.float32)[:12]
    study, _ = read_study(image, [save(tmp_path / "p.nii.gz", soft)], probabilities=True, resample="linear")
    np.testing.assert_allclose(study.raters[0].probabilities[1, :12], ball()[:12], atol=1e-6)
    assert (study.raters[0].labels[12:] == MISSING).all()


def test_images_that_cannot_be_used(tmp_path):
    _, drawn = write_study(tmp_path)
    image = image_of(ball()).astype(np.float32)
    image[2, 3, 4] = np.nan
    image[3, 3, 4] = np.inf
    broken = save(tmp_path / "n.nii.gz", image)
    assert "holds 2 voxels of NaN or infinity" in refusal(broken, drawn)
    study, form = read_study(broken, drawn, nan="zero")
    assert np.isfinite(study.image).all()
    assert any("2 voxels of NaN" in note for note in form.notes)
    series = save(tmp_path / "t.nii.gz", np.stack([image_of(ball(), s) for s in range(4)], -1))
    assert "has 4 channels" in refusal(series, drawn)
    assert read_study(series, drawn, channel="all")[0].image.shape[0] == 4
    np.testing.assert_array_equal(read_study(series, drawn, channel=2)[0].image[0], image_of(ball(), 2))
    assert "0 to 3, not 4" in refusal(series, drawn, channel=4)
    assert "4 channels; a label map has one" in refusal(None, [series])
    assert "254 classes" in refusal(
        None, [save(tmp_path / "i.nii.gz", (np.arange(5760) % 300).astype(np.int16).reshape(24, 20, 12))]
    )


def test_several_files_are_channels_of_one_image(tmp_path):
    image, drawn = write_study(tmp_path)
    other = save(tmp_path / "t2.nii.gz", image_of(ball(), 5))
    assert read_study([image, other], drawn)[0].image.shape[0] == 2
    assert "9x9x9 voxels, the first channel" in refusal(
        [image, save(tmp_path / "x.nii.gz", image_of(ball((9, 9, 9))))], drawn
    )


def test_what_is_reserved_cannot_be_a_class(tmp_path):
    image, drawn = write_study(tmp_path)
    assert "cannot also mean" in refusal(image, drawn, ConfigError, labels={255: "liver"})
    assert "cannot also mean" in refusal(image, drawn, ConfigError, missing=0)
    a = seg_nrrd(tmp_path / "a.seg.nrrd", ball()[None] * 255, fields_of(("x", 255, 0, "1 0 0")))
    assert "'x' has the value 255" in refusal(image, [a])
    assert "no label of the manifest" in refusal(image, drawn, labels={3: "x"}, closed=True)


def test_names_of_raters(tmp_path):
    files = [save(tmp_path / rater / "case.nii.gz", ball()) for rater in ("anna", "bob")]
    assert [e.name for e in read_study(None, files)[0].raters] == ["anna", "bob"]
    assert [e.name for e in read_study(None, files, names=["x", "y"])[0].raters] == ["x", "y"]
    assert "1 names are given for 2" in refusal(None, files, ConfigError, names=["x"])
    assert "two raters are called x" in refusal(None, files, ConfigError, names=["x", "x"])
    assert "no annotation" in refusal(None, [], ConfigError)


def test_soft_labels_are_the_weighted_votes(tmp_path):
    image, drawn = write_study(tmp_path)
    study, form = read_study(image, drawn)
    soft = soft_labels(study, [0.5, 0.3, 0.2], "uint8")
    a, b, c = labels_of(study)
    seen = c != MISSING
    share = (0.5 * (a == 1) + 0.3 * (b == 1) + 0.2 * (c == 1)) / (0.8 + 0.2 * seen)
    np.testing.assert_allclose(soft[1] / 255, share, atol=0.003)
    assert (np.abs(soft.astype(int).sum(0) - 255) <= 1).all()
    stored = nib.load(write_soft(tmp_path, soft, form, "uint8"))
    np.testing.assert_allclose(stored.get_fdata()[..., 1], share, atol=0.003)
    half = np.load(write_soft(tmp_path, soft_labels(study, [1, 1, 1], "float16"), form, "float16"))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype(float).sum(0), 1, atol=1e-3)


def test_disagreement_is_the_share_of_pairs_that_contradict(tmp_path):
    _, drawn = write_study(tmp_path)
    study, _ = read_study(None, drawn)
    a, b, c = labels_of(study)
    pairs = [(a, b), (a, c), (b, c)]
    both = sum(((x != MISSING) & (y != MISSING)).astype(int) for x, y in pairs)
    apart = sum(((x != y) & (x != MISSING) & (y != MISSING)).astype(int) for x, y in pairs)
    np.testing.assert_allclose(disagreement(study), apart / np.maximum(both, 1), atol=1e-6)


def test_places_that_cannot_be_written(tmp_path):
    _, drawn = write_study(tmp_path, suffix=".mha")
    study, form = read_study(None, drawn)
    with pytest.raises(OutputError, match="cannot be written"):
        write_labels(tmp_path / "nowhere", "c", study.raters[0].labels, form)


def test_capitals_and_blanks_make_no_second_structure(tmp_path):
    """Three raters of one ball of 256 voxels: with three classes of one vote each the consensus would be empty."""
    files = []
    for number, name in enumerate(("Left Liver", "left liver", " LEFT  LIVER ")):
        fields = fields_of((name, 1, 0, "1 0 0"))
        files.append(seg_nrrd(tmp_path / f"r{number}.seg.nrrd", ball()[None], fields))
    study, form = read_study(None, files)
    assert study.classes == ("background", "Left Liver")
    assert [int((rater.labels == 1).sum()) for rater in study.raters] == [256] * 3
    assert form.notes == ()
    partial = read_study(None, files, partial=(("r2", "LEFT LIVER"),))[1]
    assert "did not look for Left Liver" in partial.notes[0]
    named = read_study(None, [*files, save(tmp_path / "m.nii.gz", 3 * ball())], labels={3: "LEFT liver"})[0]
    assert named.classes == ("background", "LEFT liver")
    assert "twice" in refusal(None, files, ConfigError, labels={1: "liver", 2: "Liver"})
