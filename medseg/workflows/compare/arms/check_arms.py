"""What can be known before the first minute is spent: every arm, with all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from medseg import methods
from medseg.atomic import same_name
from medseg.config.pipeline import Pipeline
from medseg.engine import distributed
from medseg.errors import ConfigError, MedsegError
from medseg.records import digest_of, hash_of
from medseg.workflows.compare.arms.data_sets import DataSet, find_leaks, split_arm
from medseg.workflows.compare.arms.read_arms import Arm, Comparison
from medseg.workflows.train import settings
from medseg.workflows.train.checks.files import check_files, check_test_files
from medseg.workflows.train.checks.streams import check_all_streams
from medseg.workflows.train.encoder import Start, open_start
from medseg.workflows.train.plan import plan_pipeline


@dataclass(frozen=True)
class ReadyArm:
    """An arm that can be trained.

    Args:
        arm: as it was asked for.
        pipeline: with its settings, not planned.
        data_sets: one for each number of labels and fold.
        start: what it starts from.
    """

    arm: Arm
    pipeline: Pipeline
    data_sets: tuple[DataSet, ...]
    start: Start | None = None

    def definition(self) -> dict[str, str]:
        """What the arm is, by content: its settings, what it learns from and starts from."""
        learnt = {}
        for each in self.data_sets:
            learnt[f"labels {each.key.labels}, fold {each.key.fold}"] = each.learnt_identity
        own = [f"{each.name} {each.sha256}" for each in methods.locate_methods(self.arm.method)]
        return {
            "settings": hash_of(self.pipeline.model_dump(mode="json")),
            "methods": hash_of(own),
            "start": self.start.digest if self.start else "",
            **learnt,
        }


def ready_arms(comparison: Comparison, device: str) -> tuple[list[ReadyArm], torch.device]:
    """All arms, checked.

    Args:
        comparison: what is asked for.
        device: where they will be trained.

    Raises:
        ConfigError: with everything that is wrong, of all arms.
    """
    chosen = distributed.setup(device)
    complaints = list(_repeated_names(comparison))
    ready = []
    for arm in comparison.arms:
        try:
            found, problems = _ready_arm(comparison, arm, chosen)
            ready.append(found)
            complaints += [f"arm {arm.name}: {line}" for line in problems]
        except MedsegError as error:
            complaints.append(f"arm {arm.name}: {error}")
    if len(ready) == len(comparison.arms):
        complaints += _judged_alike(ready)
    refuse(complaints)
    return ready, chosen


def refuse(complaints: Sequence[str]) -> None:
    """Refuse a comparison with everything that is wrong with it, numbered.

    Raises:
        ConfigError: there is something.
    """
    different = list(dict.fromkeys(complaints))
    if len(different) == 1:
        raise ConfigError(different[0])
    if different:
        numbered = [f"({number}) {line}" for number, line in enumerate(different, start=1)]
        raise ConfigError(f"{len(different)} things are wrong, and nothing was trained: {'; '.join(numbered)}")


def _repeated_names(comparison: Comparison) -> Iterator[str]:
    seen: set[str] = set()
    for arm in comparison.arms:
        if same_name(arm.name) in seen:
            yield f"two arms are called {arm.name}; give one of them another name"
        seen.add(same_name(arm.name))


def with_iterations(pipeline: Pipeline, iterations: int | None) -> Pipeline:
    """The pipeline with so many iterations in every stage, of each network; see `Stage.with_iterations`."""
    if iterations is None:
        return pipeline
    stages = tuple(stage.with_iterations(iterations) for stage in pipeline.stages)
    return pipeline.model_copy(update={"stages": stages})


def _ready_arm(comparison: Comparison, arm: Arm, device: torch.device) -> tuple[ReadyArm, list[str]]:
    own = methods.locate_methods(arm.method)
    pipeline = with_iterations(settings.load(arm.task, arm.overrides, own), comparison.iterations)
    start = open_start(arm.init_from) if arm.init_from else None
    data_sets = tuple(split_arm(comparison, arm, pipeline))
    problems: list[str] = []
    with methods.use_methods(own):
        for data in data_sets:
            check_all_streams(pipeline, data.learnt)
        for data in _with_all_cases(data_sets):
            check_files(pipeline, data.learnt)
            check_test_files(data.judged)
        scarcest = min(data_sets, key=lambda data: data.key.labels or 0)
        plan_pipeline(pipeline, scarcest.learnt, device, None, start)
    for data in data_sets:
        problems += find_leaks(data)
        if data.judged.labels != data.learnt.labels:
            problems.append(f"learns the classes {data.learnt.labels} and is judged on {data.judged.labels}")
    return ReadyArm(arm, pipeline, data_sets, start), problems


def _with_all_cases(data_sets: Sequence[DataSet]) -> list[DataSet]:
    """The data sets that together have every case: those of the most labels, of two folds where there are folds."""
    most = max(data.key.labels or 0 for data in data_sets)
    return [data for data in data_sets if (data.key.labels or 0) == most][:2]


def _judged_alike(ready: Sequence[ReadyArm]) -> Iterator[str]:
    """Differences are paired: all arms are judged on the same cases."""
    first = ready[0]
    for other in ready[1:]:
        for mine, theirs in zip(first.data_sets, other.data_sets, strict=True):
            if mine.judged.has_background != theirs.judged.has_background:
                yield f"of arms {first.arm.name} and {other.arm.name} one alone has no background (data.has_background)"
                break
            if _references(mine) != _references(theirs):
                fold = "" if mine.key.fold is None else f" in fold {mine.key.fold}"
                yield (
                    f"arm {other.arm.name} is judged on other cases than {first.arm.name}{fold}; "
                    "name one manifest for all with --test"
                )
                break


def _references(data: DataSet) -> dict[str, str]:
    """Case name -> SHA-256 of its reference label, or the class of the whole image."""
    found = {}
    for case in data.judged.test:
        label = data.judged.label(case)
        if label is not None:
            found[case.name] = digest_of(label)
        elif case.image_class is not None:
            found[case.name] = f"class {case.image_class}"
    return found
