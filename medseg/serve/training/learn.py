"""Training from the server: continue a run with new labels and unlabelled studies, publish what is better."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medseg.atomic import make_folder, write_whole
from medseg.config.pipeline import Pipeline
from medseg.errors import ConfigError, MedsegError
from medseg.serve.models import Model
from medseg.serve.training.manifest import HELD_OUT, Gathered, Studies, gather
from medseg.serve.training.progress import Say, reporter, run_training, status
from medseg.workflows.evaluate.run import evaluate
from medseg.workflows.predict.run import predict
from medseg.workflows.train import settings

logger = logging.getLogger(__name__)

REPORT = "report.json"
EVALUATED = "judged"  # as folders of stopped trainings may have it from earlier servers
PART = 0.2
"""Of the run's iterations, where the request does not say how many."""
SLOWER = 10
"""The learning rate is so many times smaller than the run's, as of students that start from their teachers."""


def can_learn(model: Model) -> bool:
    """Whether the model's run is there, which training continues."""
    if _pipeline_file(model.run) is None:
        return False
    try:
        _stage(model)
    except MedsegError as error:
        logger.warning("%s is served and cannot be trained: %s", model.name, error)
        return False
    return True


def default_iterations(model: Model) -> int:
    """How long a request trains that does not say."""
    return max(1, round(_stage(model).schedule.iterations * PART))


def state(model: Model) -> dict[str, Any]:
    """Where the model's last training is, or what came of it; one that was killed is "stopped"."""
    found = status(model.folder)
    if found.get("status") in (None, "done", "failed"):
        return found
    try:
        with _alone(model):  # whoever trains holds this
            return {**found, "status": "stopped"}
    except ConfigError:
        return found


def learn(model: Model, studies: Studies, request: Mapping[str, Any]) -> dict[str, Any]:
    """Train a model further and publish it if it is better than the one in service on the same cases.

    Args:
        model: that is served.
        studies: what the server has.
        request: `iterations`, `device`, `publish` (false: only report).

    Returns:
        The report: cases, Dice of both models, whether it was published and where it is.

    Raises:
        MedsegError: it cannot be trained; another training of the model is running; data or settings are wrong.
    """
    iterations = _iterations(request.get("iterations"), default_iterations(model))
    make_folder(model.folder)
    with _alone(model, patience=1.0):  # who asks for the state holds the lock for a moment
        _tidy(model)
        say, folder = reporter(model.folder), make_folder(_next(model.folder))
        say({"status": "checking data"})
        try:
            data = gather(studies, model.bundle, model.run, folder, model.folder / HELD_OUT)
            data.manifest.save(folder / "manifest.json")
            _train(model, folder, iterations, str(request.get("device") or "auto"), say)
            report = _evaluate_both(model, folder, data, say)
        except BaseException as error:
            say({"status": "failed", "error": str(error) or "stopped"})
            raise
        better = report["dice"] > report["dice_in_service"]
        report["published"] = better and request.get("publish", True) is not False
        if report["published"]:
            model.publish(folder / "run" / "bundle", report["dice"])
        write_whole(folder / REPORT, json.dumps(report, indent=1) + "\n")
        if not report["published"]:
            shutil.rmtree(folder / "run", ignore_errors=True)
        say({"status": "done", **report})
    return report


def _train(model: Model, folder: Path, iterations: int, device: str, say: Say) -> None:
    stage = _stage(model).with_iterations(iterations)
    schedule = stage.schedule.model_copy(
        update={"lr": stage.schedule.lr / SLOWER, "batch": None, "validate_every": None}
    )
    source = _pipeline(model)
    stages = (stage.model_copy(update={"schedule": schedule, "init": "none"}),)
    # one stage is a pass of nothing, and studies without a label have none to measure pseudo-labels by
    alone = {"stages": stages, "repeats": (), "measure_pseudo_labels": False, "data": _data_of(stage, source.data)}
    settings.dump(source.model_copy(update=alone), folder / "task.yaml")
    arguments = ["--task", str(folder / "task.yaml"), "--data", str(folder / "manifest.json")]
    arguments += ["--init-from", str(model.place), "--output", str(folder / "run"), "--device", device]
    run_training(arguments, folder / "run", iterations, say)


def _data_of(stage: Any, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data of a stage that is trained alone: if one before it made its pseudo-labels, there are none to sample."""
    if data.get("sampling") != "half" or stage.rounds:
        return data
    return {**data, "sampling": "union"}


def _evaluate_both(model: Model, folder: Path, data: Gathered, say: Say) -> dict[str, Any]:
    """The model in service and the new one on the same validation cases."""
    dice_in_service = _evaluate(model.place, folder, "in_service", say)
    dice = _evaluate(folder / "run" / "bundle", folder, "new", say)
    shutil.rmtree(folder / EVALUATED, ignore_errors=True)
    sections = {name: len(getattr(data.manifest, name)) for name in ("training", "validation", "unlabeled")}
    return {
        "dice_in_service": dice_in_service,
        "dice": dice,
        "cases": sections,
        "new_labels": data.new,
        "left_out": data.left_out,
        "folder": str(folder),
    }


def _evaluate(bundle: Path, folder: Path, which: str, say: Say) -> float:
    """Mean Dice of a bundle on the validation cases."""
    say({"status": "evaluating", "model": which})
    manifest, results = folder / "manifest.json", folder / EVALUATED / which
    predict((bundle,), manifest, results, section="validation", overwrite=True, report=False)
    found = evaluate(results, manifest, section="validation", pictures=False)
    return found["mean"]["dice_with_failures"]["mean"] or 0.0


@contextmanager
def _alone(model: Model, patience: float = 0.0) -> Iterator[None]:
    lock = FileLock(model.folder / "training.lock", timeout=patience)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(f"{model.name} is being trained already", hint="wait, or stop that training") from error
    try:
        yield
    finally:
        lock.release()


def _tidy(model: Model) -> None:
    """Remove what trainings left that were stopped or failed; the next one starts anew, their logs stay."""
    service = model.place
    for folder in model.folder.iterdir():
        over = folder.name.isdigit() and not (folder / REPORT).exists()
        if over and not service.is_relative_to(folder):  # it may have been stopped between publishing and its report
            shutil.rmtree(folder / "run", ignore_errors=True)
            shutil.rmtree(folder / EVALUATED, ignore_errors=True)


def _next(folder: Path) -> Path:
    numbers = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    return folder / f"{max(numbers, default=0) + 1:04d}"


def _iterations(given: Any, default: int) -> int:
    """What a request says, or the default where it says nothing."""
    if given is None or given == "":
        return default
    try:
        number = int(given)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ConfigError(f"iterations is {given!r}; a whole number above 0 is wanted")
    return number


def _pipeline_file(run: Path) -> Path | None:
    for folder in (run, run.parent):
        if (folder / "pipeline.yaml").is_file():
            return folder / "pipeline.yaml"
    return None


def _pipeline(model: Model) -> Pipeline:
    path = _pipeline_file(model.run)
    if path is None:
        hint = "start the server with the run folder"
        raise ConfigError("is a bundle without its run, which cannot be trained further", path=model.run, hint=hint)
    return settings.load(str(path))


def _stage(model: Model) -> Any:
    return _pipeline(model).stages[-1]
