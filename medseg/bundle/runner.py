"""A bundle's networks on one image: how prediction, self-training, active learning and the label server run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from medseg.bundle.bundle import OpenBundle
from medseg.bundle.memory import check_memory
from medseg.errors import DataError
from medseg.portable.inference.label_sink import (
    ConfidenceArray,
    ProbabilityFile,
    largest_logit,
    largest_sigmoid,
    top_log_odds,
)
from medseg.portable.inference.multi_view import ViewsInferer
from medseg.portable.inference.out_of_memory import out_of_memory
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.inference.view_fusion import fuse_mean
from medseg.portable.io.header import Header
from medseg.portable.io.monai_reader import VerifiedReader

Progress = Callable[[int, int], None]
"""Called with the windows done and all windows."""

Look = Callable[[Any], None]
"""Called with an image `(C, X, Y, Z)` as it is stored, before it is resampled and scaled."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a bundle as a whole predicts of an image, on the grid of its file.

    Attributes:
        labels: `(X, Y, Z)` uint8 label values.
        affine: `(4, 4)` of the file, RAS mm.
        probabilities: `(K, X, Y, Z)` uint8 in steps of 1/255, mapped from a file; None where they were not wanted.
    """

    labels: np.ndarray
    affine: np.ndarray
    probabilities: np.ndarray | None


@dataclass(frozen=True, eq=False)
class ViewPrediction:
    """What the network of one view predicts of an image, on the grid of its file.

    Attributes:
        labels: `(X, Y, Z)` uint8 class indices.
        confidence: `(X, Y, Z)` float16, the probability of each of these labels, or its log-odds.
        probabilities: `(K, X, Y, Z)` uint8 in steps of 1/255, mapped from a file; None where they were not wanted.
    """

    labels: Tensor
    confidence: Tensor
    probabilities: Tensor | None = None


class BundleRunner:
    """Runs the networks of a bundle on one image after another.

    Settings of `bundle.inferer` (views, overlap, mirroring, fusion) hold for every image that follows.

    Args:
        bundle: opened.
        device: of the networks.
    """

    def __init__(self, bundle: OpenBundle, device: torch.device) -> None:
        self.bundle, self.device = bundle, device
        self.network = bundle.network.to(device)
        self.bundles = (bundle,)

    def read(
        self, images: Sequence[Path], reader: VerifiedReader | None = None, look: Look | None = None
    ) -> MetaTensor:
        """Read and preprocess an image.

        Args:
            images: one file, or one for each channel.
            reader: that reads them, where they are no files that a bundle knows.
            look: shown the image as it is stored.

        Returns:
            Network input `(1, C, X, Y, Z)`.

        Raises:
            DataError: a file cannot be read, or a transform cannot take the image.
            ValueError, MemoryError: see `prediction_errors`.
        """
        return read_image(self.bundle.preprocessing, images, reader, look)

    def predict(
        self, image: MetaTensor, *, probability_file: Path | None = None, progress: Progress | None = None
    ) -> Prediction:
        """Predict an image by all views together.

        Args:
            image: from `read`.
            probability_file: where the probabilities of all classes are kept; None: they are not wanted.
            progress: called after each batch of windows.

        Raises:
            ValueError, MemoryError, RuntimeError: see `prediction_errors`.
            OSError: there is no room for `probability_file`.
        """
        probabilities = ProbabilityFile(probability_file) if probability_file else None
        inferer = self._inferer()
        inferer.progress = progress
        inferer.probabilities = probabilities.make if probabilities else None
        labels = inferer(image, self.network)
        assert isinstance(labels, MetaTensor)
        return Prediction(labels.numpy()[0, 0], labels.affine.numpy(), probabilities.array if probabilities else None)

    def predict_files(
        self,
        images: Sequence[Path],
        reader: VerifiedReader | None,
        *,
        scratch: Path,
        probabilities: bool,
        progress: Progress | None = None,
        look: Look | None = None,
    ) -> Prediction:
        """Read and predict an image.

        Args:
            images: see `read`.
            reader: see `read`.
            scratch: a name for a temporary file or folder, which the caller removes when the result is not needed any
                more.
            probabilities: whether those of all classes are wanted.
            progress: called after each batch of windows.
            look: see `read`.

        Raises:
            DataError, ValueError, MemoryError, RuntimeError: see `read` and `predict`.
            OSError: there is no room for probabilities.
        """
        image = self.read(images, reader, look)
        return self.predict(image, probability_file=scratch if probabilities else None, progress=progress)

    def predict_views(
        self, image: MetaTensor, *, probability_folder: Path | None = None, log_odds: bool = False
    ) -> tuple[list[ViewPrediction], Tensor]:
        """Predict an image by each view on its own.

        Args:
            image: from `read`.
            probability_folder: where the probabilities of all classes are kept, in a file for each view; None: they are
                not wanted.
            log_odds: give the log-odds of the labels for their probabilities, of a bundle with a single view.

        Returns:
            The prediction of each view, in the order of the bundle's; and what the bundle makes of them, `(X, Y, Z)`
            uint8 class indices. A bundle without views has one network, of which both are.

        Raises:
            ValueError, MemoryError, RuntimeError: see `prediction_errors`.
            OSError: there is no room for files.
        """
        inferer = self._inferer()
        inferer.label_values = None  # class indices
        inferer.components = {}  # what networks say, for rules and pseudo-labels
        if isinstance(inferer, SlabInferer):
            if log_odds:
                inferer.confidence_of = largest_logit if self.bundle.independent else top_log_odds
            prediction = self._predict_single_view(inferer, image, probability_folder)
            return [prediction], prediction.labels
        if probability_folder is not None:
            return self._predict_views_with_probabilities(inferer, image, probability_folder)
        predictions: list[ViewPrediction] = []

        def keep(view: str, labels: Tensor, confidence: Tensor) -> None:
            predictions.append(ViewPrediction(labels, confidence))

        inferer.sink = keep
        fused = _plain_labels(inferer(image, self.network))
        return predictions, fused

    def _inferer(self) -> SlabInferer | ViewsInferer:
        """The bundle's, to be changed for one prediction, which makes logits the probabilities that they are."""
        inferer = copy(self.bundle.inferer)
        inferer.independent = self.bundle.independent
        if inferer.independent and isinstance(inferer, SlabInferer):
            inferer.confidence_of = largest_sigmoid
        return inferer

    def _predict_single_view(self, inferer: SlabInferer, image: MetaTensor, folder: Path | None) -> ViewPrediction:
        """The one view of a bundle that has no more."""
        confidence = ConfidenceArray()
        probabilities = ProbabilityFile(folder / self.bundle.data.view) if folder else None
        inferer.confidence = confidence.make
        inferer.probabilities = probabilities.make if probabilities else None
        labels = _plain_labels(inferer(image, self.network))
        of_all_classes = torch.from_numpy(probabilities.array) if probabilities else None
        return ViewPrediction(labels, torch.from_numpy(confidence.array), of_all_classes)

    def _predict_views_with_probabilities(
        self, inferer: ViewsInferer, image: MetaTensor, folder: Path
    ) -> tuple[list[ViewPrediction], Tensor]:
        """View by view, since several of them have no probabilities in common; fused by their mean."""
        answers: list[tuple[Tensor, Tensor]] = []

        def keep(view: str, labels: Tensor, confidence: Tensor) -> None:
            answers.append((labels, confidence))

        inferer.sink = keep
        probabilities_of_views: list[Tensor] = []
        for view in tuple(inferer.views):
            probabilities = ProbabilityFile(folder / view)
            inferer.views = (view,)
            inferer.probabilities = probabilities.make
            inferer(image, self.network)
            probabilities_of_views.append(torch.from_numpy(probabilities.array))
        predictions = [
            ViewPrediction(labels, confidence, probabilities)
            for (labels, confidence), probabilities in zip(answers, probabilities_of_views, strict=True)
        ]
        return predictions, fuse_mean(probabilities_of_views)

    def check_memory(self, headers: Sequence[Header], image: Path) -> int:
        """Refuse an image that this machine cannot hold.

        Args:
            headers: of the image's files.
            image: the file that the message names.

        Returns:
            About how many bytes predicting it takes.

        Raises:
            DataError: they are more than the machine has.
        """
        return check_memory(self.bundle, headers, image)


def read_image(
    preprocessing: Compose,
    images: Sequence[Path],
    reader: VerifiedReader | None = None,
    look: Look | None = None,
) -> MetaTensor:
    """Read and preprocess an image; see `BundleRunner.read`."""
    files = [str(path) for path in images]
    data: Any = {"image": files if len(files) > 1 else files[0]}
    # one by one: `Compose` hides what an error was
    load, *others = preprocessing.transforms
    try:
        data = load(data) if reader is None else load(data, reader=reader)
        if look is not None:
            look(data["image"])
        for transform in others:
            data = transform(data)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise DataError(f"cannot be prepared ({error})", path=images[0]) from error
    return data["image"][None]


@contextmanager
def prediction_errors(image: Path) -> Iterator[None]:
    """Around everything from an image's files to its labels: what goes wrong names the image, in one line.

    Errors that already name a file pass, and so does what concerns the place of the results: `OSError`.

    Args:
        image: first file.

    Raises:
        DataError: the image cannot be read or predicted.
    """
    try:
        yield
    except ValueError as error:
        raise DataError(str(error), path=image) from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise DataError("does not fit into memory, not even with the smallest windows", path=image) from error


def _plain_labels(labels: Tensor) -> Tensor:
    """Labels `(1, 1, X, Y, Z)` as `(X, Y, Z)` on the CPU."""
    plain = labels.as_tensor() if isinstance(labels, MetaTensor) else labels
    return plain[0, 0].cpu()
