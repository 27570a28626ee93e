"""Which series are in a folder: the headers of all its DICOM files, grouped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.dicom.availability import (
    check_dicom_installed,
    files_below,
    has_mark,
    is_dicom_file,
    reason_of,
    without_pydicom_warnings,
)
from medseg.errors import DataError
from medseg.portable.io.header import COPY_AGAIN

NO_IMAGES = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "PR", "SR", "KO", "REG", "AU", "ECG")
"""Modalities of what is made of images, and is none to be segmented."""

TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber",
    "Modality", "ImageType", "InstanceNumber", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "FrameOfReferenceUID", "AcquisitionNumber", "EchoTime",
    "TemporalPositionIdentifier", "DiffusionBValue", "TriggerTime", "AcquisitionTime", "ContentTime",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
"""What is read of each file: enough to sort, place and scale its voxels."""

DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR


@dataclass(frozen=True, eq=False)
class FoundSeries:
    """One series of a folder.

    Attributes:
        uid: of the series.
        files: with their headers (`TAGS` only), in the order of their paths.
    """

    uid: str
    files: tuple[tuple[Path, Any], ...]

    @property
    def first(self) -> Any:
        """Header of the first file."""
        return self.files[0][1]

    @property
    def modality(self) -> str:
        """CT, MR, SEG, ..."""
        return str(self.first.get("Modality") or "?")

    @property
    def images(self) -> int:
        """Number of slices."""
        return sum(int(header.get("NumberOfFrames") or 1) for _, header in self.files)

    @property
    def has_images(self) -> bool:
        """Whether it is made of images."""
        return "Rows" in self.first and self.modality not in NO_IMAGES

    @property
    def is_overview(self) -> bool:
        """Whether it is a scout view or a single image, beside which a volume is what is meant."""
        return self.images == 1 or "LOCALIZER" in [str(word) for word in self.first.get("ImageType") or ()]

    def __str__(self) -> str:
        """As a choice for the user."""
        words = f"'{self.first.get('SeriesDescription') or 'no description'}'"
        return f"{self.uid} {words} {self.modality} {self.images} slice{'s' * (self.images != 1)}"


def read_tags(path: Path) -> Any | None:
    """A file's header, `TAGS` only; None for what only looked like DICOM.

    Raises:
        DataError: it is DICOM and damaged.
    """
    from pydicom.uid import UID

    header = full_header(path, list(TAGS))
    try:
        int(header.get("NumberOfFrames") or 1)
    except (TypeError, ValueError) as error:
        raise DataError(f"is a damaged DICOM file ({reason_of(error)})", path=path, hint=COPY_AGAIN) from error
    with without_pydicom_warnings():
        kind = UID(str(header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or ""))
    if kind == DIRECTORY:
        return None
    if not kind and not has_mark(path):
        return None
    _refuse_cut(header, kind, path)
    return header


def _refuse_cut(header: Any, kind: Any, path: Path) -> None:
    """Refuse a file that has lost what says which image it is: it would be missed in its series by nobody.

    Raises:
        DataError: it is damaged.
    """
    is_known = kind.name != str(kind)
    if not is_known:
        what = f"the kind '{kind}' is unknown" if kind else "it does not say of what kind it is"
    elif "Image Storage" in kind.name and "Rows" not in header:
        what = f"{kind.name} without rows"
    elif not _series_uid(header):
        what = "it names no series"
    elif "Rows" in header and str(header.get("Modality") or "") == "":
        what = "it names no modality"
    else:
        return
    raise DataError(f"is a damaged DICOM file ({what}: cut off?)", path=path, hint=COPY_AGAIN)


def full_header(path: Path, tags: list[str] | None = None) -> Any:
    """A file without its pixels.

    Args:
        path: of the file.
        tags: names of what to read; None: everything.

    Raises:
        DataError: it is damaged.
    """
    import pydicom

    try:
        with without_pydicom_warnings():
            header: Any = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
            # pydicom parses a value when it is asked for: better now than anywhere later
            _ = [*header.file_meta, *(header.iterall() if tags is not None else ())]
    except Exception as error:  # its parser raises whatever a damaged byte leads to
        raise DataError(f"is a damaged DICOM file ({reason_of(error)})", path=path, hint=COPY_AGAIN) from error
    return header


def find_series(place: Path) -> list[FoundSeries]:
    """The series of a folder with all folders in it, or of one file; the larger ones first.

    Raises:
        ConfigError: the extra is not installed.
        DataError: there is none, or a file is damaged.
    """
    check_dicom_installed(place)
    if not place.exists():
        raise DataError("no such file or folder", path=place, hint="check the path")
    groups: dict[str, list[tuple[Path, Any]]] = {}
    others: list[Path] = []
    for path in files_below(place) if place.is_dir() else [place]:
        header = read_tags(path) if is_dicom_file(path) else None
        if header is not None:
            groups.setdefault(_series_uid(header), []).append((path, header))
        elif path.suffix.lower() == ".dcm" or not is_dicom_file(path):
            others.append(path)
    _refuse_broken([path for series in groups.values() for path, _ in series], others)
    if not groups:
        raise DataError("holds no DICOM file", path=place, hint="give the folder of a series")
    found = [FoundSeries(uid, tuple(files)) for uid, files in groups.items()]
    return sorted(found, key=lambda series: (-series.images, series.uid))


def _refuse_broken(images: Sequence[Path], others: Sequence[Path]) -> None:
    """Refuse files among slices that are called as slices are, and are none: nobody would miss the end of a series.

    Raises:
        DataError: there is one.
    """
    like_slices = {(path.parent, _shape_of_name(path)) for path in images}
    for path in others:
        if path.suffix.lower() == ".dcm":
            what = "is called .dcm and has no header of DICOM"
        elif (path.parent, _shape_of_name(path)) in like_slices and any(letter.isdigit() for letter in path.stem):
            what = "is called like the slices beside it and has no header of DICOM"
        else:
            continue
        raise DataError(f"{what} ({path.stat().st_size} bytes)", path=path, hint=COPY_AGAIN)


def _shape_of_name(path: Path) -> str:
    """A name with any number in the place of its numbers: of `IM0007.ima` and `IM12.ima` it is the same."""
    return re.sub(r"[0-9]+", "0", path.name.lower())


def first_series(folder: Path) -> str:
    """UID of the series that the first DICOM file of a folder, or below it, belongs to.

    Raises:
        ConfigError: the extra is not installed.
        DataError: the file is damaged.
    """
    check_dicom_installed(folder)
    for path in files_below(folder):
        header = read_tags(path) if is_dicom_file(path) else None
        if header is not None:
            return _series_uid(header)
    return str(folder)


def _series_uid(header: Any) -> str:
    return str(header.get("SeriesInstanceUID") or "")


def choose_series(found: Sequence[FoundSeries], place: Path, uid: str | None = None) -> tuple[FoundSeries, list[str]]:
    """The series to read.

    Args:
        found: what the folder holds.
        place: the folder, for messages.
        uid: the user's choice; None: the only volume.

    Returns:
        the series, and notes on what was left aside.

    Raises:
        DataError: there is none, several are possible, or `uid` is another.
    """
    images = [series for series in found if series.has_images]
    if not images:
        counts = Counter(series.modality for series in found)
        kinds = ", ".join(f"{count} of {modality}" for modality, count in counts.items())
        raise DataError(f"holds DICOM files but no images: series {kinds}", path=place)
    listed = "; ".join(map(str, images))
    if uid is not None:
        mine = [series for series in images if series.uid == uid]
        if not mine:
            raise DataError(f"has no image series {uid}; it has {listed}", path=place)
        return mine[0], []
    volumes = [series for series in images if not series.is_overview] or images
    if len(volumes) > 1:
        raise DataError(f"holds {len(images)} image series: {listed}", path=place, hint="choose one by --series UID")
    others = [str(series) for series in images if series is not volumes[0]]
    return volumes[0], [f"read {volumes[0]}, and not {'; '.join(others)}"] if others else []
