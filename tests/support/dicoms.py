"""Series, segmentations and contours as DICOM files, written by pydicom alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

STUDY, FRAME = generate_uid(), generate_uid()
STRAIGHT = np.array([[1.0, 0, 0], [0, 1, 0]])


def turned(degrees: tuple[float, float, float] = (12, -25, 33)) -> np.ndarray:
    """Rows and columns (2, 3) of an oblique series."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        one, other = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[[one, other], [one, other]] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix[:2]


def voxels(shape=(12, 9, 6), seed: int = 0) -> np.ndarray:
    """(X, Y, Z) stored numbers, no two slices the same."""
    return np.random.default_rng(seed).integers(0, 3000, shape).astype(np.uint16)


def header(series: str, number: int, modality: str = "CT", study: str = STUDY) -> Dataset:
    """What every image has, without pixels."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID(f"{series}.{number + 1}")
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, FRAME
    data.Modality, data.InstanceNumber, data.SeriesDescription = modality, number + 1, "Axial"
    data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = "P1", "Doe^Jane", "", "O"
    data.AccessionNumber, data.StudyID, data.StudyDate, data.StudyTime = "", "1", "20260101", "120000"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return data


def put_pixels(data: Dataset, plane: np.ndarray) -> None:
    """(rows, columns), or (frames, rows, columns), of uint16 or int16."""
    data.Rows, data.Columns = plane.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(plane.dtype == np.int16)
    data.PixelData = np.ascontiguousarray(plane).tobytes()


def write_series(
    folder: Path,
    array: np.ndarray,
    *,
    axes: np.ndarray = STRAIGHT,
    spacing=(0.7, 1.3, 2.5),
    origin=(-20.0, 11.0, -40.0),
    scale=(1.0, -1024.0),
    backwards: bool = False,
    change=lambda data, z: None,
) -> list[Path]:
    """A CT of stored numbers (X, Y, Z); file names and instance numbers say nothing of the order.

    Args:
        backwards: the scanner went from the last slice to the first.
        change: called with each header and the number of its slice before it is written; False leaves it out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, normal = generate_uid()[:50].rstrip("."), np.cross(*axes)
    names = np.random.default_rng(1).permutation(array.shape[2])
    paths = []
    for z in range(array.shape[2]):
        number = array.shape[2] - 1 - z if backwards else int(names[z])
        data = header(series, number)
        put_pixels(data, array[:, :, z].T)
        data.ImageOrientationPatient = [float(f"{v:.10g}") for v in axes.ravel()]
        data.ImagePositionPatient = [float(f"{v:.9g}") for v in np.asarray(origin) + normal * spacing[2] * z]
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        data.RescaleSlope, data.RescaleIntercept = scale
        if change(data, z) is False:
            continue
        paths.append(folder / f"IM{number:04d}.dcm")
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def affine_of(axes=STRAIGHT, spacing=(0.7, 1.3, 2.5), origin=(-20.0, 11.0, -40.0)) -> np.ndarray:
    """Of the array of `write_series`, RAS."""
    lps = np.eye(4)
    lps[:3, :3] = np.array([*axes, np.cross(*axes)]).T * spacing
    lps[:3, 3] = origin
    return np.diag([-1.0, -1, 1, 1]) @ lps


def read_all(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def enhanced(path: Path, array: np.ndarray, *, axes=STRAIGHT, spacing=(0.7, 1.3, 2.5), order=None) -> Path:
    """An enhanced CT of one file whose frames lie in any order; scaled like `write_series`."""
    data = header(generate_uid()[:50].rstrip("."), 0)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    order = list(order or range(array.shape[2]))
    put_pixels(data, np.stack([array[:, :, z].T for z in order]))
    data.NumberOfFrames = len(order)
    shared, groups = Dataset(), []
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [spacing[1], spacing[0]]
    shared.PixelMeasuresSequence[0].SliceThickness = spacing[2]
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [float(f"{v:.10g}") for v in axes.ravel()]
    shared.PixelValueTransformationSequence = [Dataset()]
    scale = shared.PixelValueTransformationSequence[0]
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, -1024, "HU"
    for z in order:
        group = Dataset()
        group.PlanePositionSequence = [Dataset()]
        where = np.array((-20.0, 11.0, -40.0)) + np.cross(*axes) * spacing[2] * z
        group.PlanePositionSequence[0].ImagePositionPatient = [float(f"{v:.9g}") for v in where]
        group.FrameContentSequence = [Dataset()]
        group.FrameContentSequence[0].FrameAcquisitionNumber = 1
        groups.append(group)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], groups
    data.save_as(path, enforce_file_format=True)
    return path


def by_dcmqi(path: Path, folder: Path, affine: np.ndarray, shape) -> np.ndarray:
    """Labels (X, Y, Z) of a DICOM SEG as dcmqi reads it, on the grid of an image; skips where it is not installed."""
    tool = Path(sys.executable).with_name("segimage2itkimage")
    if not tool.exists():
        pytest.skip("dcmqi, the independent reader of DICOM SEG, is not installed for this platform")
    folder.mkdir()
    command = [tool, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd", "--prefix", "s"]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    labels = np.zeros(shape, np.uint8)
    for file in folder.glob("s-*.nrrd"):
        image = sitk.ReadImage(str(file))
        number = int(file.stem.split("-")[1])
        size = np.array(image.GetSize())
        corners = [image.TransformIndexToPhysicalPoint(tuple(map(int, c))) for c in (size * 0, size - 1)]
        ras = np.array(corners) * [-1, -1, 1]
        index = np.linalg.solve(affine, np.c_[ras, [1, 1]].T)[:3].T
        np.testing.assert_allclose(index, index.round(), atol=1e-3)
        low, high = index.round().astype(int)
        step = np.sign(high - low + 0.5).astype(int)
        found = np.argwhere(sitk.GetArrayFromImage(image).T > 0)
        labels[tuple((low + found * step).T)] = number
    return labels


def outline(mask: np.ndarray) -> list[np.ndarray]:
    """Closed polygons (n, 2) along the edges of the pixels of (X, Y): outer ones and holes alike."""
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    padded = np.pad(mask.astype(bool), 1)
    for x, y in np.argwhere(padded):
        for (dx, dy), start, end in (
            ((0, -1), (0, 0), (1, 0)), ((1, 0), (1, 0), (1, 1)), ((0, 1), (1, 1), (0, 1)), ((-1, 0), (0, 1), (0, 0)),
        ):  # fmt: skip
            if not padded[x + dx, y + dy]:
                edges.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    loops = []
    while edges:
        at = first = next(iter(edges))
        loop = []
        while True:
            loop.append(at)
            following = edges[at].pop()
            if not edges[at]:
                del edges[at]
            at = following
            if at == first:
                break
        loops.append(np.array(loop) - 1.5)  # half a pixel before the padding
    return loops


def write_contours(path: Path, structures: dict[str, np.ndarray], affine: np.ndarray, frame: str = FRAME) -> Path:
    """An RTSTRUCT of masks (X, Y, Z), outlined on each slice."""
    data = header(generate_uid()[:50].rstrip("."), 0, "RTSTRUCT")
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    for number, (name, mask) in enumerate(structures.items(), start=1):
        item, drawn = Dataset(), Dataset()
        item.ROINumber, item.ROIName, item.ReferencedFrameOfReferenceUID = number, name, frame
        drawn.ReferencedROINumber, drawn.ROIDisplayColor, drawn.ContourSequence = number, [255, 0, 51], []
        for z in np.flatnonzero(mask.any((0, 1))):
            for loop in outline(mask[:, :, z]):
                drawn.ContourSequence.append(contour(np.c_[loop, np.full(len(loop), z)], affine))
        data.StructureSetROISequence.append(item)
        data.ROIContourSequence.append(drawn)
    data.FrameOfReferenceUID = frame
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def contour(points: np.ndarray, affine: np.ndarray, kind: str = "CLOSED_PLANAR") -> Dataset:
    """One contour of points in voxels (n, 3)."""
    made = Dataset()
    made.ContourGeometricType, made.NumberOfContourPoints = kind, len(points)
    lps = (np.c_[points, np.ones(len(points))] @ affine.T)[:, :3] * [-1, -1, 1]
    made.ContourData = [float(f"{v:.6f}") for v in lps.ravel()]
    return made
