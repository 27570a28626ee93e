"""What networks predict of cases, kept on disk while a rule looks at all of them before it labels any."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import torch

from medseg.atomic import make_folder, write_whole
from medseg.manifest.manifest import Case, Manifest
from medseg.method import Predictions, PseudoLabels
from medseg.records import digest_of, hash_of
from medseg.workflows.train.self_training.predict_views import Voter

DONE = "complete"
"""A file that says that the others are whole, and by which networks and of which images they are."""


class PredictionStore:
    """Predictions of the networks of a bundle; a context, at whose end its folder is gone.

    Args:
        networks: the bundle; it is opened when the first case is predicted.
        device: of the networks.
        rule: says what it needs of each case, and whether cases are asked for twice.
        folder: made if predictions are kept.
    """

    def __init__(self, networks: Path, device: torch.device, rule: PseudoLabels, folder: Path) -> None:
        self.networks, self.device, self.folder = networks, device, folder
        self.full = rule.needs == "probabilities"
        self.keeps = rule.looks_at_all
        self._digest = digest_of(networks)
        self._voter: Voter | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._open.close()
        if kind is None:  # a run that was stopped goes on with what is here
            shutil.rmtree(self.folder, ignore_errors=True)

    def predict(self, manifest: Manifest, case: Case) -> Predictions:
        """The predictions of a case, made or read back.

        Raises:
            DataError: an image that cannot be read or predicted.
            OutputError: predictions cannot be kept.
        """
        place = self.folder / case.name
        key = hash_of([self._digest, self.full, [digest_of(path) for path in manifest.images(case)]])
        if self.keeps and _key_of(place) == key:
            found = _read(place)
        else:
            if self._voter is None:
                self._voter = self._open.enter_context(Voter(self.networks, self.device, full=self.full))
            found = self._voter(manifest.images(case))
            if self.keeps:
                self.forget(case)  # what other networks predicted
                _write(make_folder(place), found, key)
        return Predictions(found.labels, found.confidences, found.probabilities, manifest.presence(case))

    def forget(self, case: Case) -> None:
        """Remove what is kept of a case."""
        shutil.rmtree(self.folder / case.name, ignore_errors=True)


def _key_of(folder: Path) -> str | None:
    """Of what whole predictions are; None: there are none."""
    done = folder / DONE
    return done.read_text(encoding="utf-8") if done.exists() else None


def _write(folder: Path, predictions: Predictions, key: str) -> None:
    for view, label in enumerate(predictions.labels):
        np.save(folder / f"label{view}.npy", label.numpy())
        np.save(folder / f"confidence{view}.npy", predictions.confidences[view].numpy())
        if predictions.probabilities is not None:
            np.save(folder / f"probabilities{view}.npy", predictions.probabilities[view].numpy())
    write_whole(folder / DONE, key)


def _read(folder: Path) -> Predictions:
    views = range(len(list(folder.glob("label*.npy"))))
    labels = [_load(folder / f"label{view}.npy") for view in views]
    confidences = [_load(folder / f"confidence{view}.npy") for view in views]
    probabilities = None
    if (folder / "probabilities0.npy").exists():
        probabilities = [_load(folder / f"probabilities{view}.npy") for view in views]
    return Predictions(labels, confidences, probabilities)


def _load(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(path, mmap_mode="c"))
