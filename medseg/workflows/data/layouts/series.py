"""A folder with DICOM series for each subject; labels are image files, or DICOM SEG or RTSTRUCT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.dicom.availability import files_below, holds_dicom
from medseg.dicom.scan.find_series import FoundSeries, find_series
from medseg.errors import DataError
from medseg.manifest.fields import SUFFIX, stem
from medseg.manifest.manifest import Manifest
from medseg.portable.io.channel_names import without_mark
from medseg.workflows.data.layouts.found import ANNOTATION, Found, first_folder, folders_in, images_in

IMAGES, LABELS = ("images", "imagesTr", "image", "dicom"), ("labels", "labelsTr", "label", "masks")
ANNOTATIONS = ("SEG", "RTSTRUCT")


def find_series_folders(source: Path) -> Found | None:
    """Cases whose image is a folder with a DICOM series, anywhere in it.

    The folders lie in the source, or in images/ of it. The label is the image file, the SEG or the RTSTRUCT in the
    case's folder; else the file of the folder's name in labels/ or in the source (`p1.nii.gz`, `p1_seg.nii.gz`).

    Returns:
        None where there is no DICOM.

    Raises:
        DataError: a damaged file, several image series in a folder, or several labels.
    """
    place = first_folder(source, IMAGES) or source
    folders = [folder for folder in folders_in(place) if holds_dicom(folder, deep=True)]
    if not folders:
        return None
    elsewhere = {}
    for holder in (source, first_folder(source, LABELS)):
        for path in images_in(holder) if holder is not None else ():
            elsewhere[without_mark(stem(path.name))] = path
            elsewhere[stem(path.name)] = path
    found = Found(known_as=f"DICOM series, such as {folders[0].name}/")
    modalities = set()
    for folder in folders:
        series = find_series(folder)
        image = _the_image(series, folder)
        modalities.add(image.modality)
        case: dict[str, Any] = {"image": [Manifest.relative(folder, source)], "case": folder.name}
        case |= _label(folder, series, elsewhere.get(folder.name), source)
        found.add(case)
    if len(modalities) == 1:
        found.modality = tuple(modalities)
    return found


def _the_image(found: list[FoundSeries], folder: Path) -> FoundSeries:
    """The only volume of a folder.

    Raises:
        DataError: there is none, or several.
    """
    images = [series for series in found if series.has_images]
    volumes = [series for series in images if not series.is_overview] or images
    if len(volumes) != 1:
        listed = "; ".join(str(series) for series in volumes) or "none of images"
        hint = "give each series a folder of its own and list them in a CSV"
        raise DataError(f"holds {len(volumes)} image series: {listed}", path=folder, hint=hint)
    return volumes[0]


def _label(folder: Path, found: list[FoundSeries], elsewhere: Path | None, source: Path) -> dict[str, Any]:
    """The label of a case, by its key.

    Raises:
        DataError: there are several.
    """
    drawn = [path for series in found if series.modality in ANNOTATIONS for path, _ in series.files]
    files = [path for path in files_below(folder) if SUFFIX.search(path.name)]
    labels = [*drawn, *files]
    if len(labels) > 1:
        names = ", ".join(path.name for path in labels)
        raise DataError(f"has {len(labels)} labels, {names}", path=folder, hint="accepted is one")
    if drawn:
        return {ANNOTATION: drawn[0]}
    label = files[0] if files else elsewhere
    return {"label": Manifest.relative(label, source)} if label is not None else {}
