"""What is compared: a YAML of arms, or tasks of the command line, become a `Comparison`; nothing is executed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from medseg.config.yaml_values import load_yaml
from medseg.errors import ConfigError
from medseg.workflows.compare.options import CompareOptions, check_effort, check_judged, check_labels, check_seeds
from medseg.workflows.train.settings import refuse_expressions, shipped

MEDSEG_DATA = "MEDSEG_DATA"
"""Environment variable: the folder in which manifests are looked for that are not beside the YAML."""

ARM_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}$"
"""Names of arms are names of folders."""


@dataclass(frozen=True)
class Arm:
    """One of what is compared.

    Args:
        name: of the arm.
        task: its pipeline: a shipped name, a YAML, or a run folder.
        overrides: its settings, `a.b=value`.
        data: its manifest.
        method: methods of the user's own, `FILE.py:Class`.
        init_from: run or bundle whose weights it starts from.
    """

    name: str
    task: str
    overrides: tuple[str, ...] = ()
    data: Path = Path()
    method: tuple[str, ...] = ()
    init_from: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how it is judged.

    Args:
        name: of the comparison.
        description: a sentence for the page.
        arms: in their order; the others are compared with the first.
        budget: time of each training, such as "15m".
        iterations: of every stage of every arm; with neither, the pipelines' own.
        test: manifest whose test cases judge; None: those of each arm's own manifest.
        seeds: of the trainings.
        labels: numbers of labelled subjects; none: all that there are.
        folds: of a cross-validation that judges instead of test cases.
        split_seed: of folds and of fewer labels.
        tolerance_mm: of the surface Dice.
    """

    name: str
    description: str
    arms: tuple[Arm, ...]
    budget: str | None = None
    iterations: int | None = None
    test: Path | None = None
    seeds: tuple[int, ...] = (0,)
    labels: tuple[int, ...] = ()
    folds: int | None = None
    split_seed: int = 0
    tolerance_mm: float = 1.0


def _as_overrides(given: Any) -> Any:
    """A mapping of settings as `--set` has them."""
    if not isinstance(given, Mapping):
        return given
    found = []
    for key, value in given.items():
        try:
            found.append(f"{key}={json.dumps(value)}")
        except TypeError:
            raise ValueError(f"{key} is {value!r}; accepted are numbers, words, lists and mappings") from None
    return tuple(found)


def _as_list(given: Any) -> Any:
    return [given] if isinstance(given, str | int) else given


Settings = Annotated[tuple[str, ...], BeforeValidator(_as_overrides)]


class _Item(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class ArmFile(_Item):
    """An arm as a YAML has it; `set` is a mapping of settings or a list of `a.b=value`."""

    name: str = Field(default="", pattern=f"^$|{ARM_NAME}")
    task: str
    set: Settings = ()
    data: str | None = None
    method: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    init_from: str | None = None


class ComparisonFile(_Item):
    """A YAML of arms; `set` are settings of every arm, before the arm's own."""

    name: str = Field(default="", pattern=f"^$|{ARM_NAME}")
    description: str = ""
    arms: tuple[ArmFile, ...] = Field(min_length=1)
    set: Settings = ()
    data: str | None = None
    test: str | None = None
    budget: str | None = None
    iterations: int | None = None
    seeds: Annotated[tuple[int, ...], BeforeValidator(_as_list)] = ()
    labels: Annotated[tuple[int, ...], BeforeValidator(_as_list)] = ()
    folds: int | None = Field(default=None, ge=2)
    split_seed: int = 0
    tolerance_mm: float = Field(default=1.0, ge=0, allow_inf_nan=False)


def read_comparison(options: CompareOptions) -> Comparison:
    """What is compared, by the options and the YAML that they name.

    Raises:
        ConfigError: no readable YAML, one with unknown keys, or no data set.
    """
    if options.comparison is None:
        found = _of_tasks(options)
    else:
        found = _of_file(read_file(options.comparison), options.comparison, options)
    _check_names(found.arms)
    return _override(replace(found, arms=_choose(found.arms, options.arms)), options)


def _choose(arms: Sequence[Arm], wanted: Sequence[str]) -> tuple[Arm, ...]:
    """The arms of these names, in the order in which they stand; without names all of them.

    Raises:
        ConfigError: a name that no arm has.
    """
    names = [arm.name for arm in arms]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(f"--arms {unknown[0]!r}: there is no such arm; accepted are {', '.join(names)}")
    return tuple(arm for arm in arms if not wanted or arm.name in wanted)


def _check_names(arms: Sequence[Arm]) -> None:
    """See that every arm's name, that of its task where the arm has none of its own, can be that of a folder.

    Raises:
        ConfigError: one cannot.
    """
    for arm in arms:
        if not re.fullmatch(ARM_NAME, arm.name):
            raise ConfigError(
                f"arm {arm.name!r} (task {arm.task}): the name of an arm has up to 60 letters, digits and _ . + -",
                hint="rename the task's file, or give the arm a name: in a YAML of arms",
            )


def read_file(path: Path) -> ComparisonFile:
    """A YAML of arms, checked.

    Raises:
        ConfigError: it is none.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", path=path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not a readable YAML ({' '.join(str(error).split())[:160]})", path=path) from error
    if not isinstance(content, dict):
        raise ConfigError(f"a comparison is a mapping with 'arms', got {type(content).__name__}", path=path)
    refuse_expressions(content, str(path))
    try:
        found = ComparisonFile.model_validate(content)
    except ValidationError as error:
        raise ConfigError("; ".join(_readable(problem) for problem in error.errors()), path=path) from None
    try:
        check_seeds(found.seeds, "seeds")
        check_labels(found.labels, "labels")
        check_effort(found.budget, found.iterations, "budget", "iterations")
        check_judged(found.test, found.folds, "test", "folds")
    except ConfigError as error:
        raise ConfigError(str(error), path=path) from None
    return found


def _readable(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        kind = ArmFile if problem["loc"][0] == "arms" else ComparisonFile
        return f"{place} is not known; accepted are {', '.join(kind.model_fields)}"
    if problem["type"] == "missing":
        return f"{place} is missing"
    return f"{place} is {problem['input']!r}: {problem['msg']}"


def _of_tasks(options: CompareOptions) -> Comparison:
    arms = [Arm(Path(task).stem if task not in shipped() else task, task) for task in options.tasks]
    if options.data is None:
        raise ConfigError("--data is missing: the manifest that the arms are trained on")
    arms = [replace(arm, data=options.data) for arm in arms]
    return Comparison("-".join(arm.name for arm in arms), "", tuple(arms))


def _of_file(file: ComparisonFile, path: Path, options: CompareOptions) -> Comparison:
    common = options.data
    if common is None and file.data is not None:
        common = find_file(file.data, path)
    arms, without = [], []
    for arm in file.arms:
        data = common if arm.data is None else find_file(arm.data, path)
        name = arm.name or Path(arm.task).stem
        if data is None:
            without.append(name)
            continue
        there = beside(arm.task, path)
        task = str(there) if arm.task not in shipped() and there.exists() else arm.task
        start = None if arm.init_from is None else beside(arm.init_from, path)
        own = tuple(_own_method(text, path) for text in arm.method)
        arms.append(Arm(name, task, (*file.set, *arm.set), data, own, start))
    if without:
        raise ConfigError(f"no data set for {', '.join(without)}", path=path, hint="say data: in the file, or --data")
    return Comparison(
        file.name or path.stem,
        file.description,
        tuple(arms),
        file.budget,
        file.iterations,
        None if file.test is None else find_file(file.test, path),
        file.seeds or (0,),
        file.labels,
        file.folds,
        file.split_seed,
        file.tolerance_mm,
    )


def _override(found: Comparison, options: CompareOptions) -> Comparison:
    """The comparison with what the command line says."""
    changes: dict[str, Any] = {}
    if options.budget is not None or options.iterations is not None:
        changes |= {"budget": options.budget, "iterations": options.iterations}
    if options.test is not None or options.folds is not None:
        changes |= {"test": options.test, "folds": options.folds}
    for name in ("split_seed", "tolerance_mm"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    if options.seeds:
        changes["seeds"] = check_seeds(options.seeds, "--seeds")
    if options.labels:
        changes["labels"] = check_labels(options.labels, "--labels")
    arms = []
    for arm in found.arms:
        arms.append(replace(arm, overrides=(*arm.overrides, *options.overrides)))
    return replace(found, arms=tuple(arms), **changes)


def find_file(name: str, path: Path) -> Path:
    """A manifest that a YAML names: beside it, or else in the folder that `MEDSEG_DATA` names.

    Args:
        name: as the YAML has it.
        path: of the YAML.
    """
    here = beside(name, path)
    folder = os.environ.get(MEDSEG_DATA)
    if here.exists() or not folder:
        return here
    there = Path(folder) / name
    return there if there.exists() else here


def beside(name: str, path: Path) -> Path:
    """A path that a YAML names, which starts from the YAML's folder."""
    return path.parent / Path(name).expanduser()


def _own_method(text: str, path: Path) -> str:
    file, _, name = text.rpartition(":")
    return f"{beside(file, path)}:{name}" if file else text
