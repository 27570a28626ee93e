"""What networks predict of cases, kept on disk while a rule looks at all of them before it labels any."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import torch

from medseg.atomic import make_folder, write_whole
from medseg.manifest.manifest import Case, Manifest
from medseg.method import Predictions, PseudoLabels
from medseg.records import digest_of, hash_of
from medseg.workflows.train.self_training.labelling.predict_maps import MapPredictor, Predictors, read_inputs
from medseg.workflows.train.self_training.labelling.predict_views import Voter

DONE = "complete"
"""A file that says that the others are whole, and by which networks and of which images they are."""


class PredictionStore:
    """What networks predict of cases; a context, at whose end its folder is gone.

    Args:
        networks: they are opened when the first case is predicted.
        device: of the networks.
        rule: says what it needs of each case, and whether cases are asked for twice.
        folder: made if predictions are kept.
    """

    def __init__(self, networks: Predictors, device: torch.device, rule: PseudoLabels, folder: Path) -> None:
        self.networks, self.device, self.folder = networks, device, folder
        self.full = rule.needs == "probabilities"
        self.log_odds = rule.needs == "log_odds"
        self.inputs = rule.inputs
        self.keeps = rule.looks_at_all
        self._voter: Voter | None = None
        self._maps: MapPredictor | None = None
        self._open = ExitStack()
        self._scratch = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._scratch.close()
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
        images = manifest.images(case)
        key = hash_of([self.networks.digest, self.full, self.log_odds, [digest_of(path) for path in images]])
        if self.keeps and _key_of(place) == key:
            found = _read(place)
        else:
            self.forget(case)  # what other networks predicted
            found = self._predict(images, place)
            if self.keeps:
                _write(make_folder(place), found, key)
        inputs = read_inputs(manifest, case, self.inputs)
        return replace(found, tags=manifest.presence(case), inputs=inputs, name=case.name)

    def open(self) -> None:
        """Open the networks, unless they are."""
        if self._voter is None and self.networks.bundle is not None:
            voter = Voter(self.networks.bundle, self.device, full=self.full, log_odds=self.log_odds)
            self._voter = self._open.enter_context(voter)
        if self._maps is None and self.networks.maps:
            self._maps = MapPredictor(self.networks.maps, self.device)

    def _predict(self, images: Sequence[Path], place: Path) -> Predictions:
        """By the segmenters, if there are any, and the method's maps, if the rule asks for them."""
        self.open()
        found = Predictions((), ()) if self._voter is None else self._voter(images)
        if self._maps is None:
            return found
        return replace(found, maps=self._maps(images, self._folder_of_maps(place), place.name))

    def _folder_of_maps(self, place: Path) -> Path:
        """Where the maps of a case are written: with what is kept of it, or until the next case."""
        if self.keeps:
            return make_folder(place)
        self._scratch.close()
        return Path(self._scratch.enter_context(TemporaryDirectory(prefix="medseg-")))

    def forget(self, case: Case) -> None:
        """Remove what is kept of a case."""
        shutil.rmtree(self.folder / case.name, ignore_errors=True)


def _key_of(folder: Path) -> str | None:
    """Of what whole predictions are; None: there are none."""
    done = folder / DONE
    return done.read_text(encoding="utf-8") if done.exists() else None


def _write(folder: Path, predictions: Predictions, key: str) -> None:
    """Keep what is not on disk yet; of maps, which are, their shapes."""
    for view, label in enumerate(predictions.labels):
        np.save(folder / f"label{view}.npy", label.numpy())
        np.save(folder / f"confidence{view}.npy", predictions.confidences[view].numpy())
        if predictions.probabilities is not None:
            np.save(folder / f"probabilities{view}.npy", predictions.probabilities[view].numpy())
        if predictions.log_odds is not None:
            np.save(folder / f"log_odds{view}.npy", predictions.log_odds[view].numpy())
    for view, maps in enumerate(predictions.maps or ()):
        (folder / f"maps{view}.json").write_text(json.dumps(list(maps.shape)), encoding="utf-8")
    write_whole(folder / DONE, key)


def _read(folder: Path) -> Predictions:
    views = range(len(list(folder.glob("label*.npy"))))
    labels = [_load(folder / f"label{view}.npy") for view in views]
    confidences = [_load(folder / f"confidence{view}.npy") for view in views]
    probabilities = None
    if (folder / "probabilities0.npy").exists():
        probabilities = [_load(folder / f"probabilities{view}.npy") for view in views]
    shapes = sorted(folder.glob("maps*.json"))
    maps = [_load_maps(file) for file in shapes]
    log_odds = [_load(folder / f"log_odds{view}.npy") for view in views if (folder / f"log_odds{view}.npy").exists()]
    return Predictions(labels, confidences, probabilities, maps=maps or None, log_odds=log_odds or None)


def _load(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _load_maps(file: Path) -> torch.Tensor:
    channels, x, y, z = json.loads(file.read_text(encoding="utf-8"))
    stored = np.memmap(file.with_suffix(".bin"), np.float16, "c", shape=(channels, z, y, x))
    return torch.from_numpy(stored.transpose(0, 3, 2, 1))
