"""The methods of stages: those of medseg, and those that the user named; a file cannot choose another."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from medseg.config.between_runs import MethodSpec
from medseg.config.pipeline import Pipeline
from medseg.errors import ConfigError
from medseg.methods import METHODS, REMEDY, RULES, OwnMethod, methods_in_use


def insert_own_methods(content: dict[str, Any], own: Sequence[OwnMethod]) -> None:
    """Let stages have the methods and rules that the user named: those that say their name.

    The only class that the user named takes the place of the method of the only stage, if no part of it says its name.

    Args:
        content: of a pipeline, not checked yet; changed in place.
        own: what the user named.
    """
    names = [each.name for each in own]
    methods, rules = _methods_of(content), _rules_of(content)
    found = False
    for spec in (*methods, *rules):
        name = str(spec.get("name")).rpartition(":")[2]
        if name in names:
            spec["name"] = name
            found = True
    if not found and len(own) == len(methods) == 1:
        methods[0]["name"] = own[0].name
        methods[0].pop("sha256", None)
        # what is trained is not what the pipeline was written for
        content["description"] = f"{content.get('name')}, with the method {own[0].name}"
        content["name"] = own[0].name


def _stages_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages of a pipeline that is not checked yet, those of repeated groups too."""
    stages = content.get("stages")
    found = []
    for stage in stages if isinstance(stages, list) else []:
        if isinstance(stage, dict) and "repeat" in stage:
            found += _stages_of(stage)
        elif isinstance(stage, dict):
            found.append(stage)
    return found


def _methods_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    methods = [stage.get("method") for stage in _stages_of(content)]
    return [method for method in methods if isinstance(method, dict)]


def _rules_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    rules = []
    for stage in _stages_of(content):
        for part in (stage.get("rounds"), stage.get("then")):
            rule = part.get("rule") if isinstance(part, dict) else None
            if isinstance(rule, dict):
                rules.append(rule)
    return rules


def check_methods(
    pipeline: Pipeline, own: Sequence[OwnMethod], source: str, places: Sequence[str] | None = None
) -> None:
    """Refuse a stage whose method or rule is neither one of medseg nor named by the user.

    Args:
        pipeline: as it was read.
        own: what the user named.
        source: the file that it is from.
        places: where its stages stand in there; by default one after the other.

    Raises:
        ConfigError: with what to do.
    """
    by_name = {each.name: each for each in own}
    for each in own:
        if each.name in METHODS or each.name in RULES:
            raise ConfigError(f"{each.option}: {each.name} is a name of medseg", hint="rename the class")
    used = []
    for place, spec, shipped in _named_classes(pipeline, places):
        _check_class(spec, shipped, by_name, place, source)
        used.append(spec.name)
    for each in own:
        if each.name not in used:
            raise ConfigError(
                f"{each.option}: no stage has the method {each.name}; the stages have {', '.join(used)}",
                path=source,
                hint=f"--set stages.N.method.name={each.name}",
            )


def _named_classes(
    pipeline: Pipeline, places: Sequence[str] | None
) -> Iterator[tuple[str, MethodSpec, Collection[str]]]:
    """Place, name and options of each method and rule, and the names that medseg has for such."""
    for number, stage in enumerate(pipeline.stages):
        place = places[number] if places else f"stages.{number}"
        yield f"{place}.method", stage.method, METHODS
        if stage.rounds is not None:
            yield f"{place}.rounds.rule", stage.rounds.rule, RULES
        if stage.then is not None:
            yield f"{place}.then.rule", stage.then.rule, RULES


def _check_class(
    spec: MethodSpec, shipped: Collection[str], own: dict[str, OwnMethod], place: str, source: str
) -> None:
    name, recorded, what = spec.name, spec.sha256, place.rpartition(".")[2]
    if name in shipped:
        return
    if name not in own and recorded:
        raise ConfigError(
            f"{place}: it was trained with a {what} of your own, {name} (SHA-256 {recorded[:12]})",
            path=source,
            hint=f"name its file again: --method FILE.py:{name}",
        )
    if name not in own:
        message = f"{place}.name: {what} {name!r} is not known; one of {', '.join(shipped)}"
        raise ConfigError(message, path=source, hint=REMEDY)
    found = own[name].sha256
    if recorded and found and recorded != found:
        raise ConfigError(
            f"{place}: {own[name].file} is not as it was: SHA-256 {found[:12]}, recorded is {recorded[:12]}",
            path=source,
            hint=f"give the old file, or train anew with --set {place}.sha256=null and another --output",
        )


def add_hashes(pipeline: Pipeline) -> Pipeline:
    """The pipeline with the SHA-256 of the files of the user's classes in use, as a run folder records it."""
    hashes = {each.name: each.sha256 for each in methods_in_use()}
    stages = []
    for stage in pipeline.stages:
        changes: dict[str, Any] = {"method": _with_hash(stage.method, hashes)}
        if stage.rounds is not None:
            rule = _with_hash(stage.rounds.rule, hashes)
            changes["rounds"] = stage.rounds.model_copy(update={"rule": rule})
        if stage.then is not None:
            rule = _with_hash(stage.then.rule, hashes)
            changes["then"] = stage.then.model_copy(update={"rule": rule})
        stages.append(stage.model_copy(update=changes))
    return pipeline.model_copy(update={"stages": tuple(stages)})


def _with_hash(spec: MethodSpec, hashes: Mapping[str, str | None]) -> MethodSpec:
    return spec.model_copy(update={"sha256": hashes.get(spec.name)})
