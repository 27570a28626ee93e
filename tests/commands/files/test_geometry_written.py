"""Results lie on their images in every program: both forms of a NIfTI header, their codes and its unit are carried."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from models import make_bundle, make_image
from raters import ball, image_of

from medseg.cli.app import main
from medseg.consensus.io.read_study import read_study
from medseg.portable.io.read import read_header, read_volume
from medseg.portable.io.write import write_labels, write_nifti
from medseg.serve.tasks.label_formats import convert
from medseg.workflows.demo.phantom import write_phantoms

ROOT = Path(__file__).resolve().parents[3]
LABEL = 1002  # NIfTI_INTENT_LABEL

QFORM = np.array([[-1.25, 0, 0, 30], [0, -1.5, 0, -12], [0, 0, 2.5, 70], [0, 0, 0, 1]])
SFORM = QFORM + np.array([[0, 0, 0, 12], [0, 0, 0, 35], [0, 0, 0, 0], [0, 0, 0, 0]])
"""37 mm away, since 12 x 12 + 35 x 35 = 37 x 37; all numbers are exact in float32."""

FORMS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)


def image_file(
    path: Path,
    array: np.ndarray,
    q: tuple[np.ndarray | None, int] = (QFORM, 4),
    s: tuple[np.ndarray | None, int] = (SFORM, 4),
    *,
    version: type = nib.Nifti1Image,
    big: bool = False,
    **fields: object,
) -> Path:
    """An image with these forms and codes, and further fields of its header as they are given."""
    image = version(array, None, version.header_class(endianness=">" if big else "<"))
    image.set_data_dtype(array.dtype)
    image.header["pixdim"][1:4] = 1.25, 1.5, 2.5
    image.header.set_xyzt_units("mm")
    image.set_qform(*q)
    image.set_sform(*s)
    for name, value in fields.items():
        image.header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def itk_affine(path: Path) -> np.ndarray:
    """Where SimpleITK sees the first three axes of a file, as (3, 4): directions times spacing, and origin."""
    image = sitk.ReadImage(str(path))
    count = image.GetDimension()
    axes = min(count, 3)
    turned = np.reshape(image.GetDirection(), (count, count)) * np.array(image.GetSpacing())
    return np.column_stack([turned[:axes, :axes], image.GetOrigin()[:axes]])


def same_place(result: Path, image: Path) -> None:
    """Both forms and codes in nibabel, the raw fields, and what SimpleITK makes of them."""
    made, wanted = nib.load(result), nib.load(image)
    assert type(made) is type(wanted)
    for field in FORMS:
        np.testing.assert_array_equal(made.header[field], wanted.header[field], err_msg=field)
    np.testing.assert_array_equal(made.header["pixdim"][:4], wanted.header["pixdim"][:4])
    np.testing.assert_array_equal(made.affine, wanted.affine)
    for form in ("get_sform", "get_qform"):
        (matrix, code), (wanted_matrix, wanted_code) = (getattr(i, form)(coded=True) for i in (made, wanted))
        assert code == wanted_code
        np.testing.assert_array_equal(matrix, wanted_matrix)
    if isinstance(wanted, nib.Nifti1Image) and not isinstance(wanted, nib.Nifti2Image):
        np.testing.assert_array_equal(itk_affine(result), itk_affine(image))


VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)

PLACED = {
    "codes 4 and 4": {},
    "codes 1 and 3": {"q": (QFORM, 1), "s": (SFORM, 3)},
    "qform only": {"s": (None, 0)},
    "qform only, sform left behind": {"q": (QFORM, 1), "s": (SFORM, 0)},
    "sform only": {"q": (None, 0), "s": (SFORM, 2)},
    "neither": {"q": (None, 0), "s": (None, 0)},
    "left-handed": {"q": (QFORM @ np.diag([1, 1, -1, 1]), 2), "s": (SFORM, 1)},
    "big-endian": {"big": True},
    "NIfTI-2": {"version": nib.Nifti2Image, "q": (QFORM * 1.1, 1), "s": (SFORM * 1.1, 3)},
    "metres": {"q": (np.diag([1e-3, 1e-3, 1e-3, 1]) @ QFORM, 1), "s": (None, 0), "xyzt_units": 1},
    "no unit": {"xyzt_units": 0},
    "slightly sheared": {"s": (SFORM @ (np.eye(4) + np.diag([5e-4, 0, 0], 1)), 2)},
    "broken quaternion": {"quatern_b": 3.0},
}


@pytest.mark.parametrize("kind", PLACED)
def test_a_label_map_repeats_both_forms_of_its_image(kind, tmp_path):
    image = image_file(tmp_path / "i.nii.gz", VOXELS, **PLACED[kind])
    grid = read_header(image)
    write_labels(tmp_path / "l.nii.gz", VOXELS % 3, grid.affine, source=grid.nifti)
    if kind != "broken quaternion":  # of which nibabel makes no matrix
        same_place(tmp_path / "l.nii.gz", image)
    made, wanted = (nib.load(p).header for p in (tmp_path / "l.nii.gz", image))
    assert [made[f].tolist() for f in FORMS] == [wanted[f].tolist() for f in FORMS]
    assert made["xyzt_units"] == wanted["xyzt_units"]
    assert made["intent_code"] == LABEL
    assert not made["intent_name"].item()
    np.testing.assert_array_equal(nib.load(tmp_path / "l.nii.gz").dataobj, VOXELS % 3)
    np.testing.assert_allclose(read_header(tmp_path / "l.nii.gz").affine, grid.affine, atol=1e-9)


def test_the_37_mm_are_there_in_the_image_and_not_between_image_and_label(tmp_path):
    image = image_file(tmp_path / "i.nii.gz", VOXELS)
    grid = read_header(image)
    write_labels(tmp_path / "l.nii.gz", VOXELS % 3, grid.affine, source=grid.nifti)
    write_labels(tmp_path / "sform_only.nii.gz", VOXELS % 3, grid.affine)
    itk = itk_affine(image)[:, 3]
    assert itk.tolist() == [-30, 12, 70]  # the qform's origin in LPS: SimpleITK's choice between codes 4 and 4
    assert itk_affine(tmp_path / "l.nii.gz")[:, 3].tolist() == [-30, 12, 70]
    assert nib.load(tmp_path / "l.nii.gz").affine[:3, 3].tolist() == [42, 23, 70]  # nibabel's choice, the sform's
    assert np.linalg.norm(itk_affine(tmp_path / "sform_only.nii.gz")[:, 3] - itk) == 37


def test_a_volume_of_channels_and_its_label_map(tmp_path):
    """The label map has no fourth axis: nothing is said of it; the classes of probabilities are not seconds."""
    series = np.stack([VOXELS] * 3, -1)
    pixdim = [1, 1.25, 1.5, 2.5, 3.2, 1, 1, 1]
    image = image_file(tmp_path / "i.nii.gz", series, xyzt_units=10, pixdim=pixdim)
    grid = read_header(image)
    write_labels(tmp_path / "l.nii.gz", VOXELS % 3, grid.affine, source=grid.nifti)
    write_nifti(tmp_path / "p.nii.gz", series.astype(np.uint8), grid.affine, source=grid.nifti, slope=1 / 255)
    labels, shares = (nib.load(tmp_path / name).header for name in ("l.nii.gz", "p.nii.gz"))
    assert labels["dim"].tolist() == [3, 4, 5, 6, 1, 1, 1, 1]
    assert shares["dim"].tolist() == [4, 4, 5, 6, 3, 1, 1, 1]
    assert labels["pixdim"][4:].tolist() == shares["pixdim"][4:].tolist() == [1, 1, 1, 1]
    assert (labels["xyzt_units"], shares["xyzt_units"]) == (10, 2)
    assert (labels["intent_code"], shares["intent_code"]) == (LABEL, 0)
    for path in (tmp_path / "l.nii.gz", tmp_path / "p.nii.gz"):
        np.testing.assert_array_equal(nib.load(path).get_qform(), QFORM)
        np.testing.assert_array_equal(nib.load(path).get_sform(), SFORM)
        np.testing.assert_array_equal(itk_affine(path), itk_affine(image))


@pytest.mark.parametrize("thickness", [0.0, np.nan, -1.0, 2.5])
def test_a_picture_may_say_anything_of_the_axis_that_it_lacks(thickness, tmp_path):
    image = image_file(tmp_path / "i.nii.gz", VOXELS[..., 0])
    third = slice(76 + 3 * 4, 76 + 4 * 4)  # bytes of pixdim[3], which nibabel would mend
    raw = bytearray(nib.load(image).header.binaryblock)
    raw[third] = np.array(thickness, "<f4").tobytes()
    write_labels(tmp_path / "l.nii.gz", VOXELS[..., :1] % 3, SFORM, source=bytes(raw), flat=True)
    header = nib.load(tmp_path / "l.nii.gz").header
    assert header["dim"][:3].tolist() == [2, 4, 5]
    written = read_header(tmp_path / "l.nii.gz").nifti
    assert np.frombuffer(written[third], "<f4") == (2.5 if thickness == 2.5 else 1)
    assert (header["qform_code"], header["sform_code"]) == (4, 4)
    np.testing.assert_array_equal(header.get_sform(), SFORM)


def test_a_qfac_of_0_is_written_as_the_1_that_it_means(tmp_path):
    source = bytearray(nib.load(image_file(tmp_path / "i.nii.gz", VOXELS)).header.binaryblock)
    source[76:80] = bytes(4)
    write_labels(tmp_path / "l.nii.gz", VOXELS % 3, SFORM, source=bytes(source))
    written = read_header(tmp_path / "l.nii.gz").nifti  # nibabel would show a 1 in either case
    assert np.frombuffer(written[76:80], "<f4") == 1


@pytest.mark.parametrize(("codes", "code"), [((1, 4), 4), ((3, 0), 3), ((0, 0), 1)])
def test_an_array_on_another_grid_is_placed_by_its_own_affine(codes, code, tmp_path):
    """As where labels stay on the network's grid: the image's forms would be wrong for it."""
    image = image_file(tmp_path / "i.nii.gz", VOXELS, (QFORM, codes[0]), (SFORM if codes[1] else None, codes[1]))
    grid = read_header(image)
    finer, moved = grid.affine @ np.diag([0.5, 0.5, 0.5, 1]), grid.affine.copy()
    moved[0, 3] += 0.1
    for affine, array in ((finer, np.zeros((8, 10, 12))), (moved, VOXELS), (grid.affine, VOXELS[:3])):
        write_labels(tmp_path / "l.nii.gz", np.zeros(array.shape, np.uint8), affine, source=grid.nifti)
        made = nib.load(tmp_path / "l.nii.gz")
        assert made.get_sform(coded=True)[1] == made.get_qform(coded=True)[1] == code
        np.testing.assert_allclose(made.get_sform(), affine, rtol=1e-6)
        np.testing.assert_allclose(made.get_qform(), affine, rtol=1e-5, atol=1e-5)


def test_an_affine_that_was_rounded_on_the_way_is_still_the_images(tmp_path):
    turn = np.deg2rad(7)
    forms = SFORM.copy()
    forms[:2, :2] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ SFORM[:2, :2]
    image = image_file(tmp_path / "i.nii.gz", VOXELS, s=(forms, 4))
    grid = read_header(image)
    write_labels(tmp_path / "l.nii.gz", VOXELS % 3, grid.affine.round(4), source=grid.nifti)
    same_place(tmp_path / "l.nii.gz", image)


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".png"])
def test_formats_without_codes_become_scanner_axes(ending, tmp_path):
    image = sitk.GetImageFromArray(np.ascontiguousarray(VOXELS[..., :1].T if ending == ".png" else VOXELS.T))
    if ending != ".png":
        image.SetOrigin((7, 8, 9))
        image.SetSpacing((1.25, 1.5, 2.5))
    sitk.WriteImage(sitk.Cast(image, sitk.sitkUInt8), str(tmp_path / f"i{ending}"))
    array, grid = read_volume(tmp_path / f"i{ending}")
    assert grid.nifti == b""
    write_labels(tmp_path / "l.nii.gz", array[0] % 3, grid.affine, source=grid.nifti, flat=ending == ".png")
    header = nib.load(tmp_path / "l.nii.gz").header
    assert (header["qform_code"], header["sform_code"], header["xyzt_units"]) == (1, 1, 2)
    if ending != ".png":
        np.testing.assert_array_equal(itk_affine(tmp_path / "l.nii.gz"), itk_affine(tmp_path / f"i{ending}"))


def test_more_voxels_than_nifti_1_can_count_are_written_as_nifti_2(tmp_path):
    write_labels(tmp_path / "l.nii.gz", np.ones((32768, 2, 1), np.uint8), np.eye(4), flat=True)
    made = nib.load(tmp_path / "l.nii.gz")
    assert isinstance(made, nib.Nifti2Image)
    assert made.shape == (32768, 2)
    array, _ = read_volume(tmp_path / "l.nii.gz")
    assert array.all()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle")


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


def test_predict_carries_both_forms(model, tmp_path):
    smooth = np.asarray(nib.load(make_image(tmp_path / "smooth.nii.gz", (20, 22, 17))).dataobj)
    images = tmp_path / "in"
    image_file(images / "a.nii.gz", smooth)
    image_file(images / "b.nii", smooth, (QFORM, 1), (None, 0))
    image_file(images / "c.nii.gz", smooth, (None, 0), (None, 0), version=nib.Nifti2Image)
    image_file(images / "d.nii.gz", smooth[..., 8], (QFORM, 1), (SFORM, 2))
    image_file(images / "e.nii.gz", smooth[..., None], (QFORM, 3), (SFORM, 1), xyzt_units=10)
    assert command("predict", "--model", model, "--input", images, "--output", tmp_path, "--probabilities") == 0
    for image in images.iterdir():
        result = tmp_path / f"{image.name.partition('.')[0]}.nii.gz"
        same_place(result, image)
        header = nib.load(result).header
        assert header["intent_code"] == LABEL
        assert nib.load(result).shape == nib.load(image).shape[:3]
        shares = nib.load(tmp_path / "probabilities" / result.name)
        assert shares.shape[:2] == header.get_data_shape()[:2]
        assert [shares.header[f].tolist() for f in FORMS] == [header[f].tolist() for f in FORMS]


def raters(folder: Path) -> tuple[Path, list[Path]]:
    """An image with two forms; raters whose files repeat both, hold the sform alone, or hold it twice."""
    truth = ball()
    image = image_file(folder / "image.nii.gz", image_of(truth), (QFORM, 1), (SFORM, 4))
    both = image_file(folder / "anna.nii.gz", truth, (QFORM, 2), (SFORM, 3))
    alone = image_file(folder / "bob.nii.gz", ball(radius=6.5), (None, 0), (SFORM, 2))
    twice = image_file(folder / "cleo.nii.gz", ball(shift=(0.5, 0, 0)), (SFORM, 1), (SFORM, 1))
    return image, [both, alone, twice]


def test_raters_whose_qform_alone_differs_lie_on_the_image(tmp_path):
    image, drawn = raters(tmp_path)
    study, form = read_study(image, drawn)
    for rater, path in zip(study.raters, drawn, strict=True):
        np.testing.assert_array_equal(rater.labels, nib.load(path).dataobj)
    assert not any("turned" in note or "resampled" in note for note in form.notes)
    assert form.grid.nifti == read_header(image).nifti


@pytest.mark.parametrize("with_image", [True, False])
def test_a_consensus_carries_both_forms_of_the_image_or_of_the_first_rater(with_image, tmp_path):
    image, drawn = raters(tmp_path)
    given = ["--image", image] if with_image else ["--method", "majority"]
    for path in drawn:
        given += ["--annotation", path]
    assert command("consensus", *given, "--output", tmp_path / "out", "--export-soft", "uint8", "--no-report") == 0
    made = sorted((tmp_path / "out").glob("*.nii.gz"))
    assert {"consensus.nii.gz", "disagreement.nii.gz", "soft.nii.gz"} <= {path.name for path in made}
    for path in made:
        source = nib.load(image if with_image else drawn[0]).header
        header = nib.load(path).header
        assert [header[f].tolist() for f in FORMS] == [source[f].tolist() for f in FORMS], path.name
        assert header["intent_code"] == (LABEL if path.name == "consensus.nii.gz" else 0)
        np.testing.assert_array_equal(itk_affine(path), itk_affine(image if with_image else drawn[0]))


def test_a_server_answers_where_its_client_sees_the_image(tmp_path):
    """Clients that ask for NRRD or MetaImage, which hold one placement, are ITK's; as NIfTI both are kept."""
    image = image_file(tmp_path / "i.nii.gz", VOXELS)
    grid = read_header(image)
    write_labels(tmp_path / "l.nii.gz", VOXELS % 3, grid.affine, source=grid.nifti)
    for ending in (".nii", ".nrrd", ".mha"):
        convert(tmp_path / "l.nii.gz", tmp_path / f"o{ending}", compress=ending == ".nrrd")
        np.testing.assert_array_equal(itk_affine(tmp_path / f"o{ending}"), itk_affine(image))
        array, _ = read_volume(tmp_path / f"o{ending}")
        np.testing.assert_array_equal(array[0], VOXELS % 3)
    same_place(tmp_path / "o.nii", image)
    source = read_header(image_file(tmp_path / "two.nii.gz", VOXELS, version=nib.Nifti2Image)).nifti
    write_labels(tmp_path / "l2.nii.gz", VOXELS % 3, SFORM, source=source)
    convert(tmp_path / "l2.nii.gz", tmp_path / "o2.nrrd", compress=True)
    np.testing.assert_array_equal(read_header(tmp_path / "o2.nrrd").affine, SFORM)


def test_phantoms_say_which_files_are_labels(tmp_path):
    counts = {"labeled": 1, "unlabeled": 1, "validation": 0, "test": 0}
    write_phantoms(tmp_path, **counts, shape=(16, 14, 8), spacing_mm=(18, 18, 25))
    intents = {path.parent.name: int(nib.load(path).header["intent_code"]) for path in tmp_path.glob("*/*.nii.gz")}
    assert intents == {"images": 0, "labels": LABEL, "hidden": LABEL}


IMPORTS_WRITER = re.compile(r"from (medseg\.portable\.io)?\.write import")
WRITERS = {"write_nifti", "write_labels"}
WITHOUT_SOURCE = {"medseg/workflows/demo/phantom.py", "medseg/serve/datastores/dicomweb.py"}
"""Their images are made here, or DICOM."""
STRANGERS = {"Nifti1Image", "Nifti2Image", "SaveImage", "to_filename"}
ITK_WRITERS = {"medseg/consensus/io/write_results.py", "medseg/serve/tasks/label_formats.py"}
"""Of NRRD and MetaImage."""

FILES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "medseg").rglob("*.py")}


def calls(place: str) -> list[tuple[str, ast.Call]]:
    """Name of what is called, without its module, and the call."""
    tree = ast.parse(FILES[place].read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [(ast.unparse(call.func).rpartition(".")[2], call) for call in found]


def test_nothing_else_writes_nifti():
    for place in FILES:
        for name, call in calls(place):
            where = f"{place}:{call.lineno} {ast.unparse(call.func)}"
            assert name not in STRANGERS, where
            assert ast.unparse(call.func) not in ("nib.save", "nibabel.save"), where
            assert name != "WriteImage" or place in ITK_WRITERS, where


def test_every_writer_says_of_which_image():
    users = {place for place, path in FILES.items() if IMPORTS_WRITER.search(path.read_text(encoding="utf-8"))}
    seen = set()
    for place in users - WITHOUT_SOURCE:
        tree = ast.parse(FILES[place].read_text(encoding="utf-8"))
        imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        ours = {a.name for n in imports if n.module in ("write", "medseg.portable.io.write") for a in n.names}
        for name, call in calls(place):
            if name in ours & WRITERS:
                seen.add(place)
                assert "source" in {k.arg for k in call.keywords}, f"{place}:{call.lineno} {name} without a source"
    assert {
        "medseg/portable/io/monai_writer.py",
        "medseg/workflows/predict/case.py",
        "medseg/consensus/io/write_results.py",
    } <= seen
