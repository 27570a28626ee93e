"""One case from its files to a label map: checked, predicted, written, and recognised when it is done already."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor

from medseg import __version__
from medseg.bundle.bundle import OpenBundle
from medseg.errors import DataError, OutputError
from medseg.portable.inference.label_sink import LEVELS, mapped_bytes
from medseg.portable.inference.out_of_memory import out_of_memory
from medseg.portable.inference.windows import slab_axis
from medseg.portable.io.channel_names import FIRST
from medseg.portable.io.monai_reader import VerifiedReader
from medseg.portable.io.read import Header, read_header
from medseg.portable.io.record import DIGITS, image_record
from medseg.portable.io.record import fingerprint as of_files
from medseg.portable.io.write import temporary, write_nifti
from medseg.portable.resample import resampled_size
from medseg.workflows.predict.collect_cases import LONGEST_NAME, PROBABILITIES, Item, targets
from medseg.workflows.predict.formats import Model, recorded, source_of_item, write_result
from medseg.workflows.predict.put_in_place import Place

if TYPE_CHECKING:
    from medseg.dicom.series import Series

VOTE_BYTES = 3  # label and probability of a view


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
    """Predicts cases with one bundle.

    Args:
        bundle: opened.
        device: of the network.
        output: folder of the results.
        probabilities: also write class probabilities.
    """

    def __init__(self, bundle: OpenBundle, device: torch.device, output: Path, *, probabilities: bool) -> None:
        self.bundle, self.output, self.probabilities = bundle, output, probabilities
        self.network = bundle.network.to(device)
        names = bundle.data.labels
        run = bundle.path.resolve()
        title = run.parent.name if run.name == "bundle" else run.name
        self.model = Model(title, {value: names[value] for value in bundle.data.label_values[1:]})

    def headers(self, item: Item) -> list[Header]:
        """Headers of a case's files, of which the channels are as many as the model's.

        Raises:
            DataError: a file that cannot be used, another number of channels, or a name too long for a result.
        """
        if len(os.fsencode(item.result)) > LONGEST_NAME:
            raise DataError(f"the result's name would be longer than {LONGEST_NAME} bytes", path=item.images[0])
        headers = [item.series.header] if item.dicom else [read_header(path) for path in item.images]
        if item.dicom and item.reads(self.output / item.result):
            raise DataError(f"the result {item.result} would overwrite a slice", path=item.images[0])
        found, wanted = sum(h.channels for h in headers), self.bundle.data.modality
        if found != len(wanted):
            last = f"CASE_{len(wanted) - 1:04d}"
            hint = f"channels in several files are CASE{FIRST} to {last} in one folder, none missing"
            raise DataError(
                f"has {found} channels, the model takes {len(wanted)} ({', '.join(wanted)})", path=item.images[0],
                hint=hint if found < len(wanted) and not item.dicom else None,
            )  # fmt: skip
        return headers

    def memory_bytes(self, headers: list[Header]) -> int:
        """About what the largest step needs: reading and resampling, or the sums of a window's depth."""
        data, first, channels = self.bundle.data, headers[0], len(self.bundle.data.modality)
        axes = [int(np.abs(first.affine[row, :3]).argmax()) for row in range(3)]  # stored axis of x, y, z
        size = [
            resampled_size(first.shape[axis], first.spacing_mm[axis], mm) if wanted else first.shape[axis]
            for axis, mm, wanted in zip(axes, data.spacing_mm, data.resample_axes, strict=True)
        ]
        stored, here = prod(first.shape), prod(size)
        reading = channels * (stored * (first.dtype.itemsize + 8) + here * 8)
        rings = []
        for window in self.bundle.inferer.windows:
            padded = [max(n, w) for n, w in zip(size, window, strict=True)]
            axis = slab_axis(padded, window)
            rings.append(prod(padded) // padded[axis] * window[axis])
        votes = 0 if len(rings) == 1 else stored * (1 + VOTE_BYTES * len(rings))
        return max(reading, channels * here * 4 + stored + votes + max(rings) * (data.classes + 2) * 4)

    def is_done(self, item: Item, line: str) -> bool:
        """Whether the result of the same image, model and settings is there."""
        return all(recorded(path) == line for path in self.targets(item))

    def targets(self, item: Item) -> list[Path]:
        """Files that a case's results are written to."""
        return targets(item, self.output, probabilities=self.probabilities)

    def run(self, item: Item, line: str, progress: Callable[[int, int], None]) -> dict[str, float]:
        """Predict a case and write its results.

        Args:
            item: the case.
            line: its record.
            progress: called with the windows done and all windows.

        Returns:
            Millilitres of each label.

        Raises:
            DataError: the image cannot be read or predicted, or another image's result came into its place.
            OutputError: the results cannot be written.
        """
        result = self.output / item.result
        place = Place(self.targets(item), line)
        scratch = temporary(self._probabilities(item), "scratch")
        try:
            image = self._prepared(item)
            with scratch as file:
                labels, stored = self._predict(image, file, progress)
                array, affine = labels.numpy()[0, 0], labels.affine.numpy()
                if stored is not None:
                    planes = stored.transpose(1, 2, 3, 0)
                    source = source_of_item(item)
                    with place.aside(self._probabilities(item)) as new:
                        write_nifti(new, planes, affine, source=source, slope=1 / LEVELS, description=line)
                with place.aside(result) as new:
                    write_result(new, array, item, affine, line, self.model)
        except OutputError as error:  # of a temporary file
            raise OutputError(error.problem, path=result) from error
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror or error})", path=result) from error
        except (ValueError, MemoryError, RuntimeError) as error:
            if not isinstance(error, ValueError) and not out_of_memory(error):
                raise
            lacking = "does not fit into memory, not even with the smallest windows"
            raise DataError(str(error) if isinstance(error, ValueError) else lacking, path=item.images[0]) from error
        return self._millilitres(array, affine)

    def _probabilities(self, item: Item) -> Path:
        return self.output / PROBABILITIES / item.probabilities

    def _prepared(self, item: Item) -> MetaTensor:
        """Network input; the transforms one by one, since `Compose` hides what an error was."""
        files = [str(path) for path in item.images]
        data: Any = {"image": files if len(files) > 1 else files[0]}
        load, *others = self.bundle.preprocessing.transforms
        data = load(data, reader=SeriesReader(item.series)) if item.dicom else load(data)
        for transform in others:
            data = transform(data)
        return data["image"]

    def _predict(
        self, image: MetaTensor, scratch: Path, progress: Callable[[int, int], None]
    ) -> tuple[MetaTensor, np.ndarray | None]:
        """Labels `(1, 1, X, Y, Z)` and probabilities `(K, X, Y, Z)` in a file, which memory need not hold."""
        kept: list[np.ndarray] = []

        def make(shape: tuple[int, ...]) -> np.ndarray:
            kept[:] = [mapped_bytes(scratch, shape)]
            return kept[0]

        inferer = copy(self.bundle.inferer)
        inferer.progress = progress
        inferer.probabilities = make if self.probabilities else None
        labels = inferer(image[None], self.network)
        assert isinstance(labels, MetaTensor)
        return labels, kept[0] if kept else None

    def _millilitres(self, labels: np.ndarray, affine: np.ndarray) -> dict[str, float]:
        planes = np.moveaxis(labels, -1, 0)  # one at a time: counting wants eight bytes a voxel
        counts = np.sum([np.bincount(p.ravel(order="K"), minlength=256) for p in planes], axis=0)
        voxel = abs(np.linalg.det(affine[:3, :3])) / 1000
        names = self.bundle.data.labels
        return {names[v]: round(float(counts[v] * voxel), 3) for v in self.bundle.data.label_values[1:]}
