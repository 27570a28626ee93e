"""The app that MONAI Label loads: the models of `medseg serve` and everything around them."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import torch
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from medseg import __version__
from medseg.errors import ConfigError, MedsegError
from medseg.serve.access.settings import VARIABLE
from medseg.serve.datastores import export_seg
from medseg.serve.datastores.dicomweb import ORIGINAL, CheckedDicomWeb
from medseg.serve.datastores.local import CheckedLocal
from medseg.serve.error_answers import as_http
from medseg.serve.models import read_list
from medseg.serve.request_inputs import session_image, uploaded_files
from medseg.serve.tasks import consensus
from medseg.serve.tasks.inference import ConsensusTask, ModelTask, choice
from medseg.serve.tasks.training_and_scoring import (
    ConsensusScoring,
    DiceScoring,
    Disagreement,
    First,
    MostDisagreement,
    Training,
)
from medseg.serve.training.learn import can_learn

logger = logging.getLogger(__name__)


class MedSegApp(MONAILabelApp):
    """Serves bundles of medseg.

    Args:
        app_dir: folder that `medseg serve` made.
        studies: folder or DICOMweb address.
        conf: of the command line; nothing of it is used.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.models = read_list(Path(app_dir))
        first = next(iter(self.models.values()))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"medseg {__version__}",
            description="Models trained by medseg from few, partly labelled or contradictory annotations",
            version=__version__,
            labels=list(first.labels) if len(self.models) == 1 else None,
        )

    def init_datastore(self) -> Datastore:
        """A store that refuses labels of another geometry."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        store = CheckedLocal(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )
        store.serve(self.models.values())
        return store

    def _init_dicomweb_datastore(self) -> Datastore:
        export_seg.install(export_seg.segment_names(self.models.values()))
        store = super()._init_dicomweb_datastore()
        store.__class__ = CheckedDicomWeb  # the client is made inside, with what the environment says
        store.serve(self.models.values())
        return store

    def init_infers(self) -> dict[str, InferTask]:
        """Every model, and the consensus of raters."""
        return {
            **{name: ModelTask(m) for name, m in self.models.items()},
            consensus.NAME: ConsensusTask(self.datastore()),
        }

    def init_trainers(self) -> dict[str, TrainTask]:
        """Every model of which the run is there."""
        return {name: Training(model) for name, model in self.models.items() if can_learn(model)}

    def init_strategies(self) -> dict[str, Strategy]:
        """The most disputed study, or simply the first."""
        return {"disagreement": MostDisagreement(self._alike()), "first": First()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Disagreement of models, consensus of raters, agreement of tags."""
        return {
            "disagreement": Disagreement(self._alike()),
            consensus.NAME: ConsensusScoring(),
            "dice": DiceScoring(),
        }

    def _alike(self) -> list[Any]:
        """The models that can disagree: those with the labels of the first one."""
        models = list(self.models.values())
        return [model for model in models if model.labels == models[0].labels]

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model, or the consensus, which also saves what it makes as final label."""
        return self._answer(lambda: self._infer_and_remember(request, datastore or self.datastore()))

    def _infer_and_remember(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        request = {**request, "image_id": request.get("image")}
        if request.get("model") == consensus.NAME:
            request = {"save_label": True, "label_tag": consensus.FINAL, **request}
            author = export_seg.by_consensus(choice(request.get("method")) or consensus.METHOD)
        else:
            author = export_seg.by_model(str(request.get("model")))
        # to the end of the request: an answer as DICOM SEG is made when this has returned
        export_seg.MADE_BY.set(author)
        answer = self._infer(request, datastore)
        store = self.datastore()
        if isinstance(store, CheckedDicomWeb) and request["model"] in self.models:
            store.proposed[str(request["image_id"])] = request["model"]
        return answer

    def _infer(self, request: dict[str, Any], store: Datastore) -> dict[str, Any]:
        """Run a model on an image; MONAI Label would take every path that there is on the machine for an image."""
        task = self._infers.get(str(request.get("model")))
        if task is None:
            raise ConfigError(f"there is no model {request.get('model')!r}; there are {', '.join(self._infers)}")
        brought = self._brought(request)
        image = brought or store.get_image_uri(str(request.get("image") or ""))
        result, facts = task({**request, "image": image, "description": task.description})
        label = result
        if request.get("save_label") and not brought:
            tag = request.get("label_tag") or ORIGINAL
            label = store.save_label(request["image"], result, tag, {"model": request["model"], "params": facts})
        return {"label": label, "tag": ORIGINAL, "file": result, "params": facts}

    def _brought(self, request: dict[str, Any]) -> str | None:
        """The file that this request or a session of its client has brought; None for a study of the store."""
        image, session = request.get("image"), request.get("session")
        if isinstance(image, str) and image in uploaded_files():
            return image
        name = str(session.get("name")) if isinstance(session, dict) else ""
        kept = session_image(self, name)
        return str(kept) if kept is not None and str(kept) == image else None

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Continue a model's run."""
        return self._answer(lambda: super(MedSegApp, self).train(request))

    def scoring(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a scoring method."""
        return self._answer(lambda: super(MedSegApp, self).scoring(request, datastore))

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model on many studies; what is wrong with one stands in the place of its result."""
        if not torch.cuda.is_available():  # MONAI Label would share the studies out among no devices
            request = {**request, "multi_gpu": False, "device": "cpu"}
        return self._answer(lambda: self._batch_infer(request, datastore or self.datastore(), self._result_or_error))

    def _result_or_error(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        try:
            return self._infer_and_remember(request, datastore)
        except MedsegError as error:
            return {"error": str(error)}

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The study to annotate next."""
        request = {**request, "strategy": request.get("strategy") or "disagreement"}
        return self._answer(lambda: super(MedSegApp, self).next_sample(request))

    def _local_request(self, url: str, params: Any, action: str) -> Any:
        """Send a request of a task's process to this server with its token, which MONAI Label's function lacks."""
        address = f"http://127.0.0.1:{settings.MONAI_LABEL_SERVER_PORT}{url}"
        token = os.environ.get(VARIABLE)
        headers = {"Authorization": f"Bearer {token}"} if token else None
        answer = requests.post(address, json=params or {}, headers=headers, timeout=60)
        if not answer.ok:
            logger.error("%s was not started: %s", action, answer.text)
        return answer.json() if answer.ok else None

    def _answer(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of some work; an error becomes the answer to a request, or ends a background task with a line."""
        try:
            return work()
        except Exception as error:
            if self._server_mode:
                raise as_http(error) from error
            if not isinstance(error, MedsegError):
                raise
            sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
            sys.stdout.flush()
            raise SystemExit(2) from error
