"""What the networks of a round say of one case: labels and their probabilities, view by view."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medseg.bundle.bundle import open_bundle
from medseg.errors import DataError, OutputError
from medseg.method import Predictions
from medseg.portable.inference.label_sink import mapped_bytes
from medseg.portable.inference.out_of_memory import out_of_memory
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.inference.view_fusion import fuse_mean


class Voter:
    """Asks the networks of a bundle; a context, at whose end no temporary file is left.

    Args:
        bundle: of one view or several.
        device: of the networks.
        full: whether the probabilities of all classes are wanted; they are kept in temporary files.
    """

    def __init__(self, bundle: Path, device: torch.device, *, full: bool = False) -> None:
        self.bundle, self.device, self.full = open_bundle(bundle), device, full
        self.network = self.bundle.network.to(device)
        self._files = ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def __call__(self, images: Sequence[Path]) -> Predictions:
        """The votes on the image, on the grid of its file; see `both`."""
        return self.both(images)[0]

    def both(self, images: Sequence[Path]) -> tuple[Predictions, Tensor]:
        """The votes, and what the bundle as a whole predicts, `(X, Y, Z)` uint8 class indices.

        Args:
            images: one file, or one for each channel.

        Raises:
            DataError: the image cannot be read or predicted.
        """
        self._files.close()  # probabilities of the case before
        self._folder = None
        try:
            return self._asked(self._prepared(images))
        except OSError as error:
            place = error.filename or "the folder for temporary files"
            raise OutputError(f"cannot be written ({error.strerror or error})", path=place) from error
        except (ValueError, MemoryError, RuntimeError) as error:
            if isinstance(error, ValueError):
                raise DataError(str(error), path=images[0]) from error
            if not out_of_memory(error):
                raise
            raise DataError("does not fit into memory, not even with the smallest windows", path=images[0]) from error

    def _prepared(self, images: Sequence[Path]) -> MetaTensor:
        files = [str(path) for path in images]
        data: Any = {"image": files if len(files) > 1 else files[0]}
        for transform in self.bundle.preprocessing.transforms:  # one by one: `Compose` hides what an error was
            data = transform(data)
        return data["image"][None]

    def _asked(self, image: MetaTensor) -> tuple[Predictions, Tensor]:
        """Each view on its own, and all of them as the bundle fuses them."""
        inferer = copy(self.bundle.inferer)
        inferer.label_values = None  # class indices
        if isinstance(inferer, SlabInferer):
            answer = self._single(inferer, image)
            return answer, answer.labels[0]
        labels: list[Tensor] = []
        confidences: list[Tensor] = []

        def sink(view: str, label: Tensor, confidence: Tensor) -> None:
            labels.append(label)
            confidences.append(confidence)

        inferer.sink = sink
        if not self.full:
            fused = _plain(inferer(image, self.network))
            return Predictions(labels, confidences), fused
        probabilities = []
        for view in tuple(inferer.views):
            inferer.views, place = (view,), _Place(self._scratch(), view)
            inferer.probabilities = place.make
            inferer(image, self.network)
            probabilities.append(torch.from_numpy(place.array))
        return Predictions(labels, confidences, probabilities), fuse_mean(probabilities)

    def _single(self, inferer: SlabInferer, image: MetaTensor) -> Predictions:
        """The one view of a bundle that has no more."""
        confidence, place = _Place(None, ""), _Place(self._scratch(), self.bundle.data.view) if self.full else None
        inferer.confidence = confidence.make
        inferer.probabilities = place.make if place else None
        labels = _plain(inferer(image, self.network))
        all_classes = [torch.from_numpy(place.array)] if place else None
        return Predictions([labels], [torch.from_numpy(confidence.array)], all_classes)

    def _scratch(self) -> Path:
        """A folder that is gone with the next case."""
        if self._folder is None:
            self._folder = Path(self._files.enter_context(TemporaryDirectory(prefix="medseg-")))
        return self._folder


class _Place:
    """Makes one array, in memory (float16) or in a file (uint8); an attempt that lacked memory makes it anew."""

    array: np.ndarray

    def __init__(self, folder: Path | None, name: str) -> None:
        self._file = folder / name if folder else None

    def make(self, shape: tuple[int, ...]) -> np.ndarray:
        """Give the array, the first spatial axis contiguous."""
        self.array = mapped_bytes(self._file, shape) if self._file else np.zeros(shape[::-1], np.float16).T
        return self.array


def _plain(labels: Tensor) -> Tensor:
    """Labels `(1, 1, X, Y, Z)` as `(X, Y, Z)` on the CPU."""
    plain = labels.as_tensor() if isinstance(labels, MetaTensor) else labels
    return plain[0, 0].cpu()
