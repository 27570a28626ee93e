"""The studies of a DICOMweb server."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series
from pydicom.dataset import Dataset

from medseg.dicom.scan.series import open_series
from medseg.errors import DataError
from medseg.portable.io.write import write_nifti
from medseg.serve.datastores.export_seg import MADE_BY, by_person
from medseg.serve.datastores.following import FollowedFolder
from medseg.serve.datastores.import_seg import find_known_names, label_map
from medseg.serve.datastores.local import check_label, check_name, is_there
from medseg.serve.models import Model
from medseg.serve.tasks.consensus import FINAL

ORIGINAL = "original"  # MONAI Label's tag of what a model proposed


class CheckedDicomWeb(DICOMWebDatastore, FollowedFolder):
    """Fetches a series once and whole, reads every SEG onto its image's grid, and says who made what it stores.

    Attributes:
        known: value of each name of a structure.
        proposed: study -> model, of which a result was given out since the server was started.
        unusable: study -> why it or its SEG cannot be used, of the last `datalist`.
    """

    known: dict[str, int]
    proposed: dict[str, str]
    unusable: dict[str, str]

    def serve(self, models: Iterable[Model]) -> None:
        """Say which models there are; MONAI Label makes the store, which knows of none."""
        self.known, self.proposed, self.unusable = find_known_names(models), {}, {}
        self.watch()

    def get_image_uri(self, image_id: str) -> str:
        """The image of a series as one file, fetched and converted when it is asked for first.

        Raises:
            DataError: there is no such series, or it is no volume.
            OutputError: the file cannot be written.
        """
        check_name(image_id, "study")
        folder = Path(self._datastore.image_path(), image_id).resolve()
        image = folder.with_name(f"{image_id}.nii.gz")
        with self._alone(image_id):
            self._fetch(image_id, folder)
            if not self._convert_to_nifti:
                return str(folder)
            if not image.exists():
                with tempfile.TemporaryDirectory(prefix="medseg-series-") as place:
                    made = Path(place, image.name)
                    _convert(folder, made)
                    FollowedFolder.add_image(self, image_id, str(made), self._dicom_info(image_id))
        return str(image)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """A label's file; of a SEG, whose image is `image_id`, a label map of the whole image; "" if there is none.

        Raises:
            DataError: the SEG is no label of its image, or names structures that no model knows.
            OutputError: it cannot be written.
        """
        there = LocalDatastore.get_label_uri(self, image_id or label_id, label_tag)
        if (there and Path(there).exists()) or not image_id:
            return there
        check_name(label_id, "label")
        folder = Path(self._datastore.label_path(label_tag), label_id).resolve()
        with self._alone(label_id), tempfile.TemporaryDirectory(prefix="medseg-seg-") as place:
            self._fetch(label_id, folder)
            made = Path(place, f"{image_id}.nii.gz")
            label_map(_only_file(folder), Path(self.get_image_uri(image_id)), self.known, made)
            FollowedFolder.save_label(self, image_id, str(made), label_tag, self._dicom_info(label_id))
        return LocalDatastore.get_label_uri(self, image_id, label_tag)

    def _download_labeled_data(self) -> None:
        """Fetch the labels that are only in the archive, for `datalist`; studies that are of no use stop no others."""
        self.unusable = {}
        labels = list(self._labels())
        for image_id, label_id in labels:
            try:
                self.get_image_uri(image_id)
                self.get_label_uri(label_id, FINAL, image_id)
            except DataError as error:
                self.unusable[image_id] = str(error)
        for gone in set(LocalDatastore.get_labeled_images(self)) - {image_id for image_id, _ in labels}:
            self.remove_label(gone, FINAL)
            self.refresh()

    def _labels(self) -> Iterator[tuple[str, str]]:
        """Series of images that are listed, and of the SEG that refers to them."""
        listed = set(self.list_images())
        for found in self._client.search_for_series(search_filters={"Modality": "SEG"}):
            seg = Dataset.from_json(found)
            tags = self._client.retrieve_series_metadata(seg.StudyInstanceUID, seg.SeriesInstanceUID)[0]
            for image in Dataset.from_json(tags).get("ReferencedSeriesSequence") or ():
                if image.SeriesInstanceUID in listed:
                    yield str(image.SeriesInstanceUID), str(seg.SeriesInstanceUID)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Save a label that fits its image; see `check_label`. A final one goes into the archive, as a SEG."""
        check_label(self, image_id, label_filename, label_tag)
        proposed = self.proposed.get(image_id) or self.get_label_info(image_id, ORIGINAL).get("model")
        before = MADE_BY.set(MADE_BY.get() or by_person(label_info.get("label_info"), proposed))
        try:
            return DICOMWebDatastore.save_label(self, image_id, label_filename, label_tag, label_info, label_id)
        finally:
            MADE_BY.reset(before)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add a study to those that were fetched; its name becomes that of its file. See `is_there`."""
        if is_there(self, image_id, Path(image_filename)):
            return image_id
        return super().add_image(image_id, image_filename, image_info)

    @contextmanager
    def _alone(self, series: str) -> Iterator[None]:
        """Hold the lock of a series, so that no other thread or process fetches it or takes half of it for all."""
        with FileLock(Path(self._datastore_path, f".{series}.lock")):
            yield

    def _fetch(self, series: str, folder: Path) -> None:
        """Download the files of a series, all or none."""
        if folder.is_dir() and any(folder.iterdir()):
            return
        part = folder.with_name(f".{series}.part")
        shutil.rmtree(part, ignore_errors=True)  # of a server that was stopped in the middle
        try:
            dicom_web_download_series(None, series, str(part), self._client, self._fetch_by_frame)
        except IndexError as error:  # of the list of series that were found
            raise DataError(f"there is no study {series!r}", hint="ask for the list of studies again") from error
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, folder)


def _convert(folder: Path, image: Path) -> None:
    series = open_series(folder)
    write_nifti(image, series.voxels()[0], series.header.affine)


def _only_file(folder: Path) -> Path:
    files = sorted(folder.iterdir())
    if len(files) != 1:
        raise DataError(f"a series of {len(files)} segmentations, of which none is the label", path=folder)
    return files[0]
