"""The scans that README and docs speak of, small and generated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from brats_like import write_brats_like
from dicoms import affine_of, write_contours, write_series
from PIL import Image
from raters import fields_of, seg_nrrd
from scipy import ndimage

from medseg.dicom.scan.series import open_series
from medseg.dicom.writing.write_seg import Author, SegmentDescription, write_segmentation
from medseg.workflows.demo.phantom import make_phantom, write_phantoms

SHAPE, SPACING_MM = (40, 32, 20), (8.0, 8.0, 10.0)
LIVER = 1
RATERS = ("a", "b", "c")


def write_scans(folder: Path) -> None:
    """`my_scans/`, `new_scans/`, `scans/` and one scan that three raters annotated."""
    made = write_phantoms(
        folder / "made", labeled=4, unlabeled=2, validation=0, test=2, shape=SHAPE, spacing_mm=SPACING_MM
    ).parent
    for place in ("my_scans/images", "my_scans/labels", "new_scans", "scans"):
        (folder / place).mkdir(parents=True)
    for image in sorted((made / "images").iterdir()):
        new = image.name.startswith("test")
        for place in ("new_scans", "scans") if new else ("my_scans/images",):
            shutil.copy(image, folder / place)
        if image.name.startswith("training"):
            shutil.copy(made / "labels" / image.name, folder / "my_scans/labels")
    shutil.rmtree(made)
    image, label, affine = make_phantom(SHAPE, SPACING_MM, seed=7)
    nib.save(nib.Nifti1Image(image, affine), folder / "ct.nii.gz")
    for rater, drawn in zip(RATERS, annotations(label), strict=True):
        nib.save(nib.Nifti1Image(drawn, affine), folder / f"{rater}.nii.gz")


def write_layouts(folder: Path) -> None:
    """`pairs/`, `cases.csv`, `structures/`, `Dataset001_Tumours/`, `photos/` with `colors.csv`: other layouts."""
    lines = ["image,label,subject"]
    for number in range(2):
        image, label, affine = make_phantom(SHAPE, SPACING_MM, seed=number)
        for place in ("pairs", f"structures/p{number}/segmentations"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(image, affine), folder / f"pairs/p{number}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / f"pairs/p{number}_seg.nii.gz")
        lines.append(f"pairs/p{number}.nii.gz,pairs/p{number}_seg.nii.gz,subject {number}")
        subject = folder / f"structures/p{number}"
        nib.save(nib.Nifti1Image(image, affine), subject / "ct.nii.gz")
        for value, name in enumerate(("liver", "spleen", "kidney"), start=1):
            mask = (label == value).astype(np.uint8)
            nib.save(nib.Nifti1Image(mask, affine), subject / f"segmentations/{name}.nii.gz")
        write_photo(folder / "photos", f"{number}", seed=number)
    write_brats_like(folder / "Dataset001_Tumours")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    (folder / "colors.csv").write_text("name,r,g,b\nbackground,0,0,0\ncell,255,0,0\nnucleus,0,0,255\n")


def write_photo(folder: Path, name: str, seed: int) -> None:
    """A photograph of 48 x 64 of a disc with a smaller one in it, and its mask in colour."""
    rows, columns = np.mgrid[:48, :64]
    distance = np.hypot(rows - 24, columns - 32)
    mask = np.zeros((48, 64, 3), np.uint8)
    mask[distance < 15] = (255, 0, 0)
    mask[distance < 6] = (0, 0, 255)
    noise = np.random.default_rng(seed).integers(0, 40, mask.shape).astype(np.uint8)
    for place, array in (("images", mask // 2 + noise), ("masks", mask)):
        (folder / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / place / f"{name}.png")


def annotations(label: np.ndarray) -> list[np.ndarray]:
    """The liver as it is, too wide and shifted: (X, Y, Z) uint8."""
    liver = label == LIVER
    drawn = [liver, ndimage.binary_dilation(liver), np.roll(liver, 1, 0)]
    return [mask.astype(np.uint8) for mask in drawn]


def write_dicom(folder: Path) -> None:
    """`series/`, `patients/` and three raters' files of the series in three formats."""
    image, label, _ = make_phantom(SHAPE, SPACING_MM, seed=8)
    stored = (image + 1024).astype(np.uint16)
    for place in ("series", "patients/p1", "patients/p2"):
        write_series(folder / place, stored, spacing=SPACING_MM)
    affine = affine_of(spacing=SPACING_MM)
    anna, bob, cleo = annotations(label)
    write_segmentation(
        folder / "anna.dcm", anna, open_series(folder / "series"), [SegmentDescription("liver")], Author("a", "by hand")
    )
    write_contours(folder / "bob_rtstruct.dcm", {"liver": bob}, affine)
    seg_nrrd(folder / "cleo.seg.nrrd", cleo[None], fields_of(("liver", 1, 0, "1 0 0")), affine)


def write_public(folder: Path, manifests: Path) -> None:
    """Some cases of public data sets, laid out as their owners do, and the manifests of this repository.

    The left atrium has all its scans, since its manifest is checked.
    """
    shutil.copytree(manifests, folder / "data_manifests")
    atrium = json.loads((manifests / "LA.json").read_text())
    cases = [case for section in ("training", "unlabeled", "test") for case in atrium[section]]
    for number, case in enumerate(cases):
        place = folder / "Training Set" / Path(case["image"]).name.removesuffix(".nii.gz")
        place.mkdir(parents=True)
        voxels = np.random.default_rng(number).integers(0, 255, (6, 10, 10)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(voxels), place / "lgemri.nrrd")
        sitk.WriteImage(sitk.GetImageFromArray((voxels > 128).astype(np.uint8) * 255), place / "laendo.nrrd")
    write_series(folder / "Pancreas-CT/PANCREAS_0003/study/series", np.full((8, 8, 4), 1024, np.uint16))
    patient = folder / "training/patient001"
    patient.mkdir(parents=True)
    for name in ("frame01", "frame01_gt", "frame12", "frame12_gt"):
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 4), np.int16), np.eye(4)), patient / f"patient001_{name}.nii.gz")
