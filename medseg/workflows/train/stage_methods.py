"""The methods of stages: those of medseg, and those that the user named; a file cannot choose another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from medseg.config import Pipeline
from medseg.errors import ConfigError
from medseg.methods import METHODS, REMEDY, RENAMED_OPTIONS, OwnMethod, methods_in_use
from medseg.progress import say


def insert_own_methods(content: dict[str, Any], own: Sequence[OwnMethod]) -> None:
    """Let stages have the methods that the user named: those that say their name, or the only stage the only one.

    Args:
        content: of a pipeline, not checked yet; changed in place.
        own: what the user named.
    """
    names = [each.name for each in own]
    methods = _methods_of(content)
    for method in methods:
        if not isinstance(method, dict):
            continue
        name = str(method.get("name")).rpartition(":")[2]
        if name in names:
            method["name"] = name
        elif len(own) == len(methods) == 1:
            method["name"] = own[0].name
            method.pop("sha256", None)
            # what is trained is not what the pipeline was written for
            content["description"] = f"{content.get('name')}, with the method {own[0].name}"
            content["name"] = own[0].name


def rename_options(content: dict[str, Any], source: str) -> None:
    """Give options of methods that have a former name the present one, with one warning for each.

    A value under the former name counts: it comes from `--set` or from a pipeline of an earlier run.

    Args:
        content: of a pipeline, not checked yet; changed in place.
        source: the file that it is from.
    """
    for method in _methods_of(content):
        if not isinstance(method, dict) or not isinstance(method.get("options"), dict):
            continue
        name, options = str(method.get("name")), method["options"]
        for old, new in RENAMED_OPTIONS.get(name, {}).items():
            if old in options:
                _warn_of_rename(name, old, new, source)
                options[new] = options.pop(old)


@cache  # a command reads its pipeline several times
def _warn_of_rename(method: str, old: str, new: str, source: str) -> None:
    say(f"warning: {source}: the option {old} of method {method} is now called {new}; use that name")


def _methods_of(content: dict[str, Any]) -> list[Any]:
    """The `method` of each stage of a pipeline that is not checked yet."""
    stages = content.get("stages")
    if not isinstance(stages, list):
        return []
    return [stage.get("method") for stage in stages if isinstance(stage, dict)]


def check_methods(pipeline: Pipeline, own: Sequence[OwnMethod], source: str) -> None:
    """Refuse a stage whose method is neither one of `METHODS` nor named by the user.

    Args:
        pipeline: as it was read.
        own: what the user named.
        source: the file that it is from.

    Raises:
        ConfigError: with what to do.
    """
    by_name = {each.name: each for each in own}
    for each in own:
        if each.name in METHODS:
            raise ConfigError(f"{each.option}: {each.name} is a method of medseg", hint="rename the class")
    for number, stage in enumerate(pipeline.stages):
        _check_stage(stage.method.name, stage.method.sha256, by_name, f"stages.{number}.method", source)
    used = [stage.method.name for stage in pipeline.stages]
    for each in own:
        if each.name not in used:
            raise ConfigError(
                f"{each.option}: no stage has the method {each.name}; the stages have {', '.join(used)}",
                path=source,
                hint=f"--set stages.N.method.name={each.name}",
            )


def _check_stage(name: str, recorded: str | None, own: dict[str, OwnMethod], where: str, source: str) -> None:
    if name in METHODS:
        return
    if name not in own and recorded:
        raise ConfigError(
            f"{where}: it was trained with a method of your own, {name} (SHA-256 {recorded[:12]})",
            path=source,
            hint=f"name its file again: --method FILE.py:{name}",
        )
    if name not in own:
        message = f"{where}.name: method {name!r} is not known; one of {', '.join(METHODS)}"
        raise ConfigError(message, path=source, hint=REMEDY)
    found = own[name].sha256
    if recorded and found and recorded != found:
        raise ConfigError(
            f"{where}: {own[name].file} is not as it was: SHA-256 {found[:12]}, recorded is {recorded[:12]}",
            path=source,
            hint=f"give the old file, or train anew with --set {where}.sha256=null and another --output",
        )


def add_hashes(pipeline: Pipeline) -> Pipeline:
    """The pipeline with the SHA-256 of the files of the user's methods in use, as a run folder records it."""
    hashes = {each.name: each.sha256 for each in methods_in_use()}
    stages = []
    for stage in pipeline.stages:
        method = stage.method.model_copy(update={"sha256": hashes.get(stage.method.name)})
        stages.append(stage.model_copy(update={"method": method}))
    return pipeline.model_copy(update={"stages": tuple(stages)})
