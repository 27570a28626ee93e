"""What the networks of a round predict of one case: labels and their probabilities, view by view."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import torch
from torch import Tensor

from medseg.bundle.bundle import open_bundle
from medseg.bundle.runner import BundleRunner, ViewPrediction, prediction_errors
from medseg.errors import OutputError
from medseg.method import Predictions


class Voter:
    """Gets the votes of a bundle's networks; a context, at whose end no temporary file is left.

    Args:
        bundle: of one view or several.
        device: of the networks.
        full: whether the probabilities of all classes are wanted; they are kept in temporary files.
        log_odds: whether the log-odds of the labels are wanted, of a bundle with one view.
    """

    def __init__(self, bundle: Path, device: torch.device, *, full: bool = False, log_odds: bool = False) -> None:
        self.runner = BundleRunner(open_bundle(bundle), device)
        self.device, self.full, self.log_odds = device, full, log_odds
        self._files = ExitStack()

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
            OutputError: there is no room for temporary files.
        """
        self._files.close()  # probabilities of the case before
        try:
            with prediction_errors(images[0]):
                image = self.runner.read(images)
                views, fused = self.runner.predict_views(
                    image, probability_folder=self._scratch_folder(), log_odds=self.log_odds
                )
        except OSError as error:
            place = error.filename or "the folder for temporary files"
            raise OutputError(f"cannot be written ({error.strerror or error})", path=place) from error
        return self._votes(views), fused

    def _scratch_folder(self) -> Path | None:
        """A folder that is gone with the next case, if probabilities are wanted."""
        if not self.full:
            return None
        return Path(self._files.enter_context(TemporaryDirectory(prefix="medseg-")))

    def _votes(self, views: Sequence[ViewPrediction]) -> Predictions:
        labels = [view.labels for view in views]
        confidences = [view.confidence for view in views]
        if self.log_odds:
            probabilities = [confidence.float().sigmoid().half() for confidence in confidences]
            return Predictions(labels, probabilities, log_odds=confidences)
        if not self.full:
            return Predictions(labels, confidences)
        probabilities = [view.probabilities for view in views if view.probabilities is not None]
        return Predictions(labels, confidences, probabilities)
