"""Inference tasks: one for each model, and the consensus of a study's raters."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from medseg.consensus.fuse import FUSERS
from medseg.errors import ConfigError, DataError, OutputError
from medseg.serve.models import Model
from medseg.serve.prediction import device_names, predict_study
from medseg.serve.tasks import consensus
from medseg.serve.tasks.label_formats import ENDINGS, convert

RESULTS: ContextVar[list[Path] | None] = ContextVar("RESULTS", default=None)
"""Files that a request made, to be removed if it is refused in the end; MONAI Label forgets them then."""


class ModelTask(InferTask):
    """A model of medseg; gives what `medseg predict` gives."""

    def __init__(self, model: Model) -> None:
        data = model.bundle.data
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=model.labels,
            dimension=2 if data.slice_axis is not None and not model.bundle.views else 3,
            description=f"{', '.join(model.labels)} in {', '.join(data.modality)}. Not for diagnostic use.",
            config={"device": device_names(), "result_extension": list(ENDINGS)},
        )
        self.model = model

    def is_valid(self) -> bool:
        """Whether the model can be used."""
        return True

    def get_path(self, validate: bool = True) -> str:
        """Weights of the bundle in service, for `GET /model`."""
        return str(self.model.bundle.path / "models" / "model.pt")

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The label file of an image, and what is known of it."""
        started = time.perf_counter()
        result = new_result()
        facts = predict_study(self.model, image_of(request), result, choice(request.get("device")))
        label = convert_result(
            result, choice(request.get("result_extension")), bool(request.get("result_compress", True))
        )
        seconds = round(time.perf_counter() - started, 3)
        latencies = {"pre": 0, "infer": facts["seconds"], "post": 0, "write": 0, "total": seconds}
        return str(label), {**facts, "label_names": self.labels, "latencies": latencies, "centroids": {}}


class ConsensusTask(InferTask):
    """Fuses the labels that raters saved of a study, each under a tag of their own."""

    def __init__(self, store: Datastore) -> None:
        super().__init__(
            type=InferType.OTHERS,
            labels=[],
            dimension=3,
            description="Fuse the labels of several raters (tags of a study) into its final label.",
            config={"method": list(FUSERS), "tags": ""},
        )
        self.store = store

    def is_valid(self) -> bool:
        """Whether the consensus can be used: always."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The fused label of a study, and how much each rater was trusted."""
        study = str(request.get("image_id", ""))
        tags = labels_of(self.store, study)
        folder = Path(tempfile.mkdtemp(prefix="medseg-consensus-"))
        try:
            raters = consensus.choose_raters(tags, request.get("tags"))
            method = choice(request.get("method")) or consensus.METHOD
            labels, facts = consensus.fuse_study(image_of(request), raters, folder, method)
            result = new_result(labels.name.removeprefix("consensus"))
            shutil.move(labels, result)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return str(result), facts


def labels_of(store: Datastore, study: str) -> dict[str, Path]:
    """Tag -> label file of a study."""
    found: dict[str, Path] = {}
    for tag, label in store.get_labels_by_image_id(study).items():
        path = store.get_label_uri(label, tag)
        if path and Path(path).exists():
            found[tag] = Path(path)
    return found


def image_of(request: dict[str, Any]) -> Path:
    """The file of a request's image.

    Raises:
        DataError: the request names none, or it is gone.
    """
    image = request.get("image")
    if not isinstance(image, str) or not image:
        name = request.get("image_id", image)
        raise DataError(f"there is no study {name!r}", hint="ask for the list of studies again")
    if not Path(image).exists():
        raise DataError("was deleted since it was listed", path=image, hint="ask for the list of studies again")
    return Path(image)


def new_result(ending: str = ".nii.gz") -> Path:
    """A file name that nobody has; the server removes the file when it is sent."""
    with tempfile.NamedTemporaryFile(prefix="medseg-", suffix=ending) as file:
        result = Path(file.name)
    made = RESULTS.get()
    if made is not None:
        made.append(result)
    return result


def convert_result(result: Path, ending: str | None, compress: bool) -> Path:
    """The label map in the format that the client wants.

    Raises:
        ConfigError: a format that is not offered.
        OutputError: it cannot be written.
    """
    if ending in (None, "", ".nii.gz"):
        return result
    if ending not in ENDINGS:
        result.unlink()
        raise ConfigError(f"result_extension {ending!r} is not offered; one of {', '.join(ENDINGS)}")
    other = new_result(str(ending))
    try:
        convert(result, other, compress=compress)
    except (RuntimeError, OSError) as error:
        other.unlink(missing_ok=True)
        raise OutputError(f"cannot be written ({str(error).splitlines()[-1]})", path=other) from error
    finally:
        result.unlink()
    return other


def choice(value: Any) -> str | None:
    """The value of an option; where nobody chose, clients send the whole list back, default first."""
    chosen = value[0] if isinstance(value, list) and value else value
    return str(chosen) if chosen else None
