"""Headers of a series as a DICOM SEG can refer to them: what they lack, or have in an odd form, is put right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from medseg.dicom.scan.find_series import full_header
from medseg.dicom.scan.series import Series
from medseg.errors import DataError

UTF8 = "ISO_IR 192"
WRITABLE = re.compile(r"ISO_IR (13|100|101|109|110|126|127|138|144|148|166|192)|GB18030|GBK")
"""Character sets that a SEG keeps; others (several at once, as in Japan and Korea, an empty or a misspelt one) become
UTF-8, which says the same."""

STANDARD = {
    **dict.fromkeys(("PatientID", "PatientName", "AccessionNumber", "StudyID"), ".*"),
    **dict.fromkeys(("PatientBirthDate", "StudyDate"), r"(\d{8})?"),
    "StudyTime": r"(\d\d(\d\d(\d\d(\.\d{1,6})?)?)?)?",
    "PatientSex": "[MFO]?",
}
"""What every image should have, if only empty, and which values the standard knows: anonymised images often lack some,
or have others there, and a SEG may not. It gets none then."""

NAMES_OF_THE_FILE = {"SOPClassUID": "MediaStorageSOPClassUID", "SOPInstanceUID": "MediaStorageSOPInstanceUID"}


def mended_headers(series: Series, texts: Sequence[str]) -> list[Any]:
    """Full headers of the source files, with what a SEG takes over of them in a form that it may have.

    Args:
        series: opened.
        texts: what the SEG itself will say.

    Raises:
        DataError: a file that cannot be read any more, or does not say which image it is.
    """
    headers = [full_header(path) for path in series.files]
    is_ascii = all(text.isascii() for text in texts)
    for header in headers:
        _name_image(header)
        _name_study(header)
        if series.slices[0].frame is None and not header.get("SliceThickness"):
            header.SliceThickness = f"{series.header.spacing_mm[2]:.9g}"
        if not (is_ascii and _keeps_character_set(header)):
            header.decode()
            header.SpecificCharacterSet = UTF8
        for name, pattern in STANDARD.items():
            if not re.fullmatch(pattern, str(header.get(name) or "")):
                setattr(header, name, "")
            header.setdefault(name, "")
    return headers


def _name_image(header: Any) -> None:
    """Which image it is: in old exports the head of the file alone says so."""
    for name, of_file in NAMES_OF_THE_FILE.items():
        if not header.get(name):
            found = header.file_meta.get(of_file)
            if not found:
                raise DataError(
                    f"has no {name}, by which a DICOM SEG refers to it", path=header.filename,
                    hint="mend that, or --format nifti",
                )  # fmt: skip
            setattr(header, name, found)


def _name_study(header: Any) -> None:
    """Study, series and frame of reference; where a file names none, UIDs that are the same for all its files."""
    from pydicom.uid import generate_uid

    if not header.get("SeriesInstanceUID"):
        header.SeriesInstanceUID = generate_uid(entropy_srcs=["series", str(header.get("PatientID"))])
    if not header.get("StudyInstanceUID"):
        header.StudyInstanceUID = generate_uid(entropy_srcs=["study", str(header.SeriesInstanceUID)])
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = f"{header.SeriesInstanceUID}.1"


def _keeps_character_set(header: Any) -> bool:
    if "SpecificCharacterSet" not in header:
        return True
    return WRITABLE.fullmatch(str(header.SpecificCharacterSet)) is not None
