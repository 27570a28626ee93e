"""One study of a server through the code of `medseg predict`, one at a time for each model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from medseg import __version__
from medseg.bundle.runner import BundleRunner
from medseg.errors import ConfigError, DataError
from medseg.serve.models import Model
from medseg.workflows.predict.case import CasePredictor
from medseg.workflows.predict.collect_cases import Item
from medseg.workflows.predict.plausibility.check import Plausibility

RUNNING = threading.Lock()
"""One prediction at a time in a process: two at once would share the cores and need the memory of two."""


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the inferer warns of meanwhile."""
    listener, logger = _Warnings(), logging.getLogger("medseg.portable")
    logger.addHandler(listener)
    try:
        yield listener.lines
    finally:
        logger.removeHandler(listener)


def device_names() -> list[str]:
    """The devices of this machine, the best one first, as `device_called` knows them."""
    return [*(f"cuda:{n}" for n in range(torch.cuda.device_count())), "cpu"]


def device_called(name: str | None) -> torch.device:
    """A device by its name; none, "auto", or a GPU where there is no GPU: the best that there is.

    Raises:
        ConfigError: there is no such device.
    """
    best = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(best if name in (None, "", "auto") else name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not known; one of auto, {', '.join(device_names())}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported; one of auto, {', '.join(device_names())}")
    if device.type == "cuda" and not torch.cuda.is_available():
        return torch.device("cpu")  # clients that know stock apps ask for cuda always
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return device


def predict_study(model: Model, image: Path, result: Path, device: str | None = None) -> dict[str, Any]:
    """Segment one image.

    Args:
        model: that is served.
        image: its file.
        result: `.nii.gz` to write, on the image's grid.
        device: of the network; none: the best there is.

    Returns:
        What a client is told: volumes, warnings, seconds, which model.

    Raises:
        DataError: the image is gone or cannot be used.
        ConfigError: an unknown device.
        OutputError: the result cannot be written.
    """
    started = time.perf_counter()
    if image.is_dir():
        raise DataError("is a folder of DICOM files", path=image, hint="let MONAI Label convert series to NIfTI")
    bundle = model.bundle
    with RUNNING, _warnings() as lines:
        predictor = CasePredictor(BundleRunner(bundle, device_called(device)), result.parent, probabilities=False)
        item = Item(result.name.removesuffix(".nii.gz"), (image,))
        headers = predictor.headers(item)
        predictor.runner.check_memory(headers, image)
        check = Plausibility([bundle]).case(headers, image)
        files = predictor.files_of(item, f"medseg {__version__} model={bundle.digest[:24]}")
        sizes = predictor.run(item, files, check=check)
    return {
        "model": model.name,
        "model_sha256": bundle.digest,
        "medseg_version": __version__,
        **sizes,
        "warnings": [
            *(w for header in headers for w in header.warnings),
            *lines,
            *(finding.text for finding in check.findings),
        ],
        "seconds": round(time.perf_counter() - started, 3),
    }
