"""Training, active learning and scoring as MONAI Label wants them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from medseg.errors import ConfigError, DataError, MedsegError
from medseg.serve.active_learning import disagreement
from medseg.serve.datastores.dicomweb import CheckedDicomWeb
from medseg.serve.datastores.export_seg import MADE_BY, by_consensus
from medseg.serve.models import Model
from medseg.serve.prediction import device_names
from medseg.serve.tasks import consensus
from medseg.serve.tasks.agreement import dice_of
from medseg.serve.tasks.inference import choice, labels_of
from medseg.serve.training.learn import default_iterations, learn, state
from medseg.serve.training.manifest import Studies

SCORE = "medseg_disagreement"
SECONDS = 20.0
"""That asking for the next study may take, when studies have no score yet."""


class Training(TrainTask):
    """Continues a model's run with the server's studies."""

    def __init__(self, model: Model) -> None:
        super().__init__(f"Continue {model.name} with new labels and the unlabelled studies; published if better.")
        self.model = model
        self.iterations = default_iterations(model)  # MONAI Label asks with every request, and it is read from a file

    def config(self) -> dict[str, Any]:
        """What a client may choose."""
        return {"iterations": self.iterations, "device": ["auto", *device_names()], "publish": True}

    def stats(self) -> dict[str, Any]:
        """How far the last training is, or what came of it; which bundle is in service."""
        service = self.model.service
        return {**state(self.model), "in_service": str(self.model.place), "published": service is not None}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, evaluate, and publish what is better."""
        request = {**request, "device": choice(request.get("device"))}
        return learn(self.model, studies_of(datastore), request)


def studies_of(datastore: Datastore) -> Studies:
    """What a datastore has to learn from; a study that cannot be used stops no training."""
    pairs = [(entry["image"], entry["label"]) for entry in datastore.datalist()]
    unusable = dict(datastore.unusable) if isinstance(datastore, CheckedDicomWeb) else {}
    unlabeled = []
    for study in datastore.get_unlabeled_images():
        try:
            unlabeled.append(datastore.get_image_uri(study))
        except DataError as error:
            unusable[study] = str(error)
    return Studies.of_paths(pairs, [path for path in unlabeled if path], unusable)


class Disagreement(ScoringMethod):
    """Scores unlabelled studies by how much views or models disagree."""

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__("Disagreement of views and models, 0 to 1, for the strategy of the same name")
        self.models = models

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score all studies without a final label; those that cannot be scored are named."""
        scores: dict[str, Any] = {}
        for study in sorted(datastore.get_unlabeled_images()):
            try:
                scores[study] = score(self.models, study, datastore, request)
            except MedsegError as error:
                scores[study] = {"error": str(error)}
        return scores


class MostDisagreement(Strategy):
    """The next study: the one of which views or models disagree the most."""

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__("The unlabelled study with the largest disagreement of views and models")
        self.models = models

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The study; those without a score are scored as long as there is time."""
        until = time.monotonic() + _seconds(request.get("seconds", SECONDS))
        found: dict[str, float] = {}
        for study in sorted(datastore.get_unlabeled_images(), key=lambda s: (not _scored(datastore, s), s)):
            if found and not _scored(datastore, study) and time.monotonic() > until:
                break
            try:
                found[study] = score(self.models, study, datastore, request)
            except MedsegError:  # such a study is shown last: a rater can do nothing with it
                found[study] = -1.0
        return {"id": max(found, key=lambda s: (found[s], s))} if found else None


class First(Strategy):
    """Studies in the order of their names."""

    def __init__(self) -> None:
        super().__init__("The first unlabelled study by name")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The study."""
        studies = sorted(datastore.get_unlabeled_images())
        return {"id": studies[0]} if studies else None


class ConsensusScoring(ScoringMethod):
    """Fuses every study that has labels of two raters and no final one."""

    def __init__(self) -> None:
        super().__init__("Fuse the labels of several raters into the final label of every study that has none")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Per study what was done; `overwrite` also does those with a final label again."""
        done: dict[str, Any] = {}
        datastore.datalist()  # fetches labels that only the archive has
        for study in sorted(datastore.list_images()):
            tags = labels_of(datastore, study)
            is_done = consensus.FINAL in tags and not request.get("overwrite")
            raters = set(tags) - set(consensus.NOT_RATERS)
            if is_done or len(raters) < 2:
                continue
            try:
                with tempfile.TemporaryDirectory(prefix="medseg-consensus-") as folder:
                    chosen = consensus.choose_raters(tags, request.get("tags"))
                    method = str(request.get("fuser") or consensus.METHOD)
                    image = Path(datastore.get_image_uri(study))
                    labels, facts = consensus.fuse_study(image, chosen, Path(folder), method)
                    MADE_BY.set(by_consensus(method))
                    datastore.save_label(study, str(labels), consensus.FINAL, {"consensus": facts})
                done[study] = facts
            except MedsegError as error:
                done[study] = {"error": str(error)}
        return done


class DiceScoring(ScoringMethod):
    """How well two tags of each study agree, for instance what was proposed and what was accepted."""

    def __init__(self) -> None:
        super().__init__("Dice of two tags of each study, by default original (proposed) against final (accepted)")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Per study the Dice of each label value."""
        one, other = str(request.get("y_pred") or "original"), str(request.get("y") or consensus.FINAL)
        scores: dict[str, Any] = {}
        datastore.datalist()  # fetches labels that only the archive has
        for study in sorted(datastore.list_images()):
            tags = labels_of(datastore, study)
            if one in tags and other in tags:
                try:
                    scores[study] = dice_of(tags[one], tags[other])
                except MedsegError as error:
                    scores[study] = {"error": str(error)}
        return scores


def score(models: Sequence[Model], study: str, datastore: Datastore, request: dict[str, Any]) -> float:
    """A study's disagreement, kept in the datastore until one of the models is another."""
    key = "/".join(sorted(model.bundle.digest[:12] for model in models))
    known = datastore.get_image_info(study).get(SCORE) or {}
    if known.get("models") == key:
        return float(known["score"])
    path = datastore.get_image_uri(study)
    if not path or not Path(path).exists():
        raise ConfigError(f"there is no study {study!r}")
    found = disagreement(models, Path(path), choice(request.get("device")))
    datastore.update_image_info(study, {SCORE: {"score": found, "models": key}})
    return found


def _seconds(given: Any) -> float:
    try:
        return float(given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"seconds is {given!r}; a number is wanted") from error


def _scored(datastore: Datastore, study: str) -> bool:
    return SCORE in datastore.get_image_info(study)
