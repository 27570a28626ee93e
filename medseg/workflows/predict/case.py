"""One case from its files to a label map: checked, predicted, written, and recognised when it is done already."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg import __version__
from medseg.atomic import make_folder, problem_of_name, real_path, write_whole
from medseg.bundle.ensemble import Ensemble
from medseg.bundle.runner import BundleRunner, Progress, prediction_errors
from medseg.errors import DataError, FormatError, OutputError
from medseg.portable.inference.label_sink import LEVELS
from medseg.portable.io.channel_names import FIRST
from medseg.portable.io.monai_reader import VerifiedReader
from medseg.portable.io.read import Header, read_header, read_volume
from medseg.portable.io.record import DIGITS, image_record
from medseg.portable.io.record import fingerprint as of_files
from medseg.portable.io.write import cannot_be_written, temporary, write_nifti
from medseg.workflows.predict.collect_cases import DICOM_RESULTS, LONGEST_NAME, OVERLAYS, PROBABILITIES, Item, targets
from medseg.workflows.predict.results.files import ResultFiles
from medseg.workflows.predict.results.formats import (
    FORMATS,
    Model,
    check_dicom,
    encode_png,
    recorded,
    source_of_item,
    write_result,
)

if TYPE_CHECKING:
    from medseg.dicom.scan.series import Series
    from medseg.workflows.predict.plausibility.check import CaseCheck


def fingerprint(item: Item) -> str:
    """SHA-256 of a case's image, see `medseg.portable.io.record.fingerprint`.

    Raises:
        DataError: a file cannot be read.
    """
    if item.dicom:
        return item.series.digest()
    return of_files(item.images)


def record(fingerprint: str, setting: str) -> str:
    """What a result's header keeps: by which version it was made, of which image and with what."""
    return f"medseg {__version__} {image_record(fingerprint)} model={setting[:DIGITS]}"[:79]


class SeriesReader(VerifiedReader):
    """A DICOM series for the first transform of a bundle, which knows files only.

    Args:
        series: opened.
    """

    def __init__(self, series: Series) -> None:
        super().__init__(as_closest_canonical=True)
        self.series = series

    def volume(self, path: Path) -> tuple[np.ndarray, Header]:
        """The series, whatever the path."""
        return self.series.voxels(), self.series.header


class CasePredictor:
    """Predicts cases with one bundle, or with several whose class probabilities are averaged.

    Args:
        runner: of the bundle, or of all.
        output: folder of the results.
        probabilities: also write class probabilities.
        overlay: also draw the labels over the images.
    """

    def __init__(
        self, runner: BundleRunner | Ensemble, output: Path, *, probabilities: bool, overlay: bool = False
    ) -> None:
        self.runner, self.output, self.probabilities, self.overlay = runner, output, probabilities, overlay
        self.data = runner.bundles[0].data
        names = []
        for bundle in runner.bundles:
            folder = real_path(bundle.path)
            names.append(folder.parent.name if folder.name == "bundle" else folder.name)
        self.model = Model(" + ".join(dict.fromkeys(names)), self.data)

    def headers(self, item: Item) -> list[Header]:
        """Headers of a case's files, of which the channels are as many as the model's.

        Raises:
            DataError: a file that cannot be used, another number of channels, or a name too long for a result.
        """
        if len(os.fsencode(item.result)) > LONGEST_NAME:
            raise DataError(f"the result's name would be longer than {LONGEST_NAME} bytes", path=item.images[0])
        problem = problem_of_name(item.name)
        if problem is not None:
            raise DataError(problem, path=item.images[0], hint="rename it")
        headers = [item.series.header] if item.dicom else [read_header(path) for path in item.images]
        if item.dicom and item.reads(self.output / item.result):
            raise DataError(f"the result {item.result} would overwrite a slice", path=item.images[0])
        self._check_channels(item, sum(header.channels for header in headers))
        return headers

    def _check_channels(self, item: Item, found: int) -> None:
        wanted = self.data.modality
        if found == len(wanted):
            return
        hint = None
        if found < len(wanted) and not item.dicom:
            last = f"CASE_{len(wanted) - 1:04d}"
            hint = f"channels in several files are CASE{FIRST} to {last} in one folder, none missing"
        problem = f"has {found} channels, the model takes {len(wanted)} ({', '.join(wanted)})"
        raise DataError(problem, path=item.images[0], hint=hint)

    def is_done(self, item: Item, line: str) -> bool:
        """Whether the result of the same image, model and settings is there."""
        files = self.targets(item)
        if self.overlay:
            files.append(self.output / OVERLAYS / item.overlay)
        return all(recorded(path) == line for path in files)

    def in_a_format_that_holds(self, item: Item, line: str) -> tuple[Item, DataError | None]:
        """The case, as NIfTI where its series cannot be referred to in DICOM, and then also why not.

        Args:
            item: the case.
            line: its record.
        """
        if item.suffix not in DICOM_RESULTS:
            return item, None
        try:
            check_dicom(item, line, self.model)
        except DataError as error:
            return replace(item, suffix=FORMATS["nifti"]), error
        return item, None

    def targets(self, item: Item) -> list[Path]:
        """Files that a case's results are written to."""
        return targets(item, self.output, probabilities=self.probabilities)

    def files_of(self, item: Item, line: str) -> ResultFiles:
        """The files of a case's results, with what is there now.

        Args:
            item: the case.
            line: its record.
        """
        return ResultFiles(self.targets(item), line)

    def run(
        self, item: Item, files: ResultFiles, progress: Progress | None = None, check: CaseCheck | None = None
    ) -> dict[str, Any]:
        """Predict a case and write its results.

        Args:
            item: the case.
            files: of its results, by `files_of`.
            progress: called with the windows done and all windows.
            check: shown image and result, before anything is written.

        Returns:
            For the report: the size of each structure, `volumes_ml`, or `pixels` of an image without a spacing. Where
            the format that was asked for failed also `result`, the name of the other file, and `instead`, why it is.

        Raises:
            DataError: the image cannot be read or predicted, another image's result came into its place, or `check`
                refuses it.
            OutputError: the results cannot be written.
        """
        result = self.output / item.result
        try:
            with prediction_errors(item.images[0]):
                return self._predict_and_write(item, files, progress, check)
        except OutputError as error:  # of a temporary file
            raise OutputError(error.problem, path=result) from error
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror or error})", path=result) from error

    def _predict_and_write(
        self, item: Item, files: ResultFiles, progress: Progress | None, check: CaseCheck | None
    ) -> dict[str, Any]:
        labels_file, probabilities_file = self.output / item.result, self.output / PROBABILITIES / item.probabilities
        reader = SeriesReader(item.series) if item.dicom else None
        with _scratch(probabilities_file if self.probabilities else labels_file) as scratch:
            prediction = self.runner.predict_files(
                item.images,
                reader,
                scratch=scratch,
                probabilities=self.probabilities,
                progress=progress,
                look=check.see_image if check else None,
            )
            labels, affine = prediction.labels, prediction.affine
            counts = count_values(labels)
            if check:
                check.see_labels(labels, counts)
            if prediction.probabilities is not None:
                classes_last = prediction.probabilities.transpose(1, 2, 3, 0)
                source = source_of_item(item)
                with files.replacing(probabilities_file) as new:
                    write_nifti(new, classes_last, affine, source=source, slope=1 / LEVELS, description=files.record)
            instead = self._write_labels(files, labels, item, affine)
        if self.overlay:
            self._draw(labels, affine, item, files.record)
        if item.is_picture:
            return {**instead, "pixels": self._sizes(counts, 1.0)}
        return {**instead, "volumes_ml": self._sizes(counts, abs(np.linalg.det(affine[:3, :3])) / 1000)}

    def _write_labels(self, files: ResultFiles, labels: np.ndarray, item: Item, affine: np.ndarray) -> dict[str, str]:
        """Write the labels, as NIfTI where another format fails now that the network has run, whatever it fails of.

        Returns:
            Entries of the report that are not as planned: the name of the result, and why it is there `instead`.
        """
        try:
            with files.replacing(self.output / item.result) as new:
                write_result(new, labels, item, affine, files.record, self.model)
            return {}
        except (FormatError, OutputError, OSError, MemoryError) as error:
            plain = replace(item, suffix=FORMATS["nifti"])
            if item.suffix == plain.suffix:
                raise
            reason = error if isinstance(error, FormatError) else cannot_be_written(self.output / item.result, error)
            try:
                with files.replacing(self.output / plain.result) as new:
                    write_result(new, labels, plain, affine, files.record, self.model)
            except (OutputError, OSError, MemoryError):
                raise error from None  # what was asked for is what is told
        return {"result": plain.result, "instead": f"{reason}; its labels are in {plain.result}"}

    def _draw(self, labels: np.ndarray, affine: np.ndarray, item: Item, line: str) -> None:
        """Write the image with its labels drawn over it."""
        from medseg.workflows.predict.results.overlays import draw_overlay  # matplotlib takes long to import

        if item.dicom:
            voxels, header = item.series.voxels(), item.series.header
        else:
            voxels, header = read_volume(item.images[0])
        shown = draw_overlay(voxels, replace(header, affine=affine), labels, self.data, item)
        write_whole(make_folder(self.output / OVERLAYS) / item.overlay, encode_png(shown, line))

    def _sizes(self, counts: np.ndarray, of_voxel: float) -> dict[str, float]:
        sizes = {}
        for value, members in self.data.members.items():
            sizes[self.data.labels[value]] = round(float(counts[list(members)].sum() * of_voxel), 3)
        return sizes


def count_values(labels: np.ndarray) -> np.ndarray:
    """Voxels of each label value, `(256,)`."""
    counts = np.zeros(256, np.int64)
    for plane in np.moveaxis(labels, -1, 0):  # one at a time: counting wants eight bytes a voxel
        counts += np.bincount(plane.ravel(order="K"), minlength=256)
    return counts


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """The name of a file or a folder beside `path` that is gone afterwards."""
    with temporary(path, "scratch") as scratch:
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # does nothing to a file
