"""Reading pipelines: a task's name or YAML and `--set` become a checked pipeline; nothing in them is executed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import medseg
from medseg.atomic import real_path, write_whole
from medseg.config.former_pipelines import as_now
from medseg.config.known_keys import did_you_mean, unknown_key
from medseg.config.literals import Place, begins_expression, is_expression, is_instruction, named, texts
from medseg.config.pipeline import Pipeline
from medseg.config.repeated_stages import write_out
from medseg.config.yaml_values import load_yaml
from medseg.errors import ConfigError
from medseg.methods import OwnMethod, methods_in_use
from medseg.workflows.train.stages.methods import check_methods, insert_own_methods

NAMES = (("data", "labels"), ("data", "modality"))
_HERE = Path(medseg.__file__).resolve().parent


def pipeline_folder() -> Path:
    """Where the shipped pipelines are: inside the wheel, or beside the package in a checkout."""
    inside = _HERE / "pipelines"
    return inside if inside.is_dir() else _HERE.parent / "pipelines"


def shipped() -> dict[str, Path]:
    """Task name -> YAML of every shipped pipeline."""
    return {path.stem: path for path in sorted(pipeline_folder().glob("*.yaml"))}


def shipped_pretraining() -> dict[str, Path]:
    """Task name -> YAML of every shipped pre-training (`medseg pretrain`)."""
    return {path.stem: path for path in sorted((pipeline_folder() / "pretrain").glob("*.yaml"))}


def read_task(task: str, tasks: Mapping[str, Path] | None = None) -> tuple[dict[str, Any], str]:
    """The plain dictionary of a task, and where it came from.

    Args:
        task: a shipped name or the path of a YAML.
        tasks: name -> YAML of those that are meant; by default the shipped pipelines.

    Raises:
        ConfigError: no such task, no readable YAML, or one with an expression in it.
    """
    tasks = shipped() if tasks is None else tasks
    path = tasks.get(task, Path(task))
    if path.is_dir():
        path = path / "pipeline.yaml"  # a run folder
    if not path.is_file():
        others = {"medseg train": shipped(), "medseg pretrain": shipped_pretraining()}
        where = next((command for command, names in others.items() if task in names), None)
        hint = f"{where} has it" if where else None
        meant = did_you_mean(task, tasks)
        raise ConfigError(
            f"task {task!r} is not known{meant or ';'} one of {', '.join(tasks)}, or the path of a YAML", hint=hint
        )
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not a readable YAML ({' '.join(str(error).split())[:160]})", path=path) from error
    if not isinstance(content, dict):
        raise ConfigError(f"a pipeline is a mapping with 'name' and 'stages', got {type(content).__name__}", path=path)
    refuse_expressions(content, str(path))
    return content, str(path)


def refuse_expressions(content: Any, source: str) -> None:
    """Refuse what a configuration of MONAI would evaluate, wherever it stands.

    The names of structures and modalities are those of the manifest, and may have such signs inside.

    Args:
        content: of a pipeline.
        source: the file or the option that it is from.

    Raises:
        ConfigError: with the place.
    """
    try:
        for place, text, is_key in texts(content):
            if is_key and is_instruction(place[-1]):
                raise _expression_error(place[:-1], f"has the key {text!r}", source)
            if not is_key and _is_evaluated(place, text):
                raise _expression_error(place, f"is {text!r}", source)
    except ValueError as error:
        raise ConfigError(str(error), path=source) from error


def _is_evaluated(place: Place, text: str) -> bool:
    """Whether MONAI would evaluate a text at its place in a pipeline."""
    return begins_expression(text) if place[:2] in NAMES else is_expression(text)


def _expression_error(place: Place, found: str, source: str) -> ConfigError:
    return ConfigError(
        f"{named(place) or 'the pipeline'} {found}",
        path=source,
        hint="a pipeline holds values alone: no text with $ or @, none that begins with %, no key with _",
    )


def apply(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=c` edits to a plain dictionary, in place; values are read as YAML.

    Raises:
        ConfigError: no `=`, an expression, or a path through something that is neither mapping nor list.
    """
    for text in overrides:
        path, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"--set {text!r}: expected a.b=value")
        keys = path.strip().split(".")
        try:
            parsed = load_yaml(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text!r}: {value!r} is no YAML value") from error
        nested: Any = parsed
        for key in reversed(keys):
            nested = {key: nested}
        refuse_expressions(nested, f"--set {text!r}")
        node: Any = content
        for key in keys[:-1]:
            index = _index(node, key, text)
            if isinstance(node, dict) and node.get(key) is None:
                node[key] = {}
            node = node[index]
        node[_index(node, keys[-1], text)] = parsed
    return content


def _bring_up_to_date(content: dict[str, Any], overrides: Sequence[str], source: str) -> None:
    """Bring stages of former pipelines to today's form where an override speaks of it, in place.

    Raises:
        ConfigError: a stage that has no such form.
    """
    stages = content.get("stages")
    for text in overrides:
        keys = text.partition("=")[0].strip().split(".")
        number = keys[1] if len(keys) > 3 and keys[0] == "stages" and keys[2] == "rounds" else ""
        if not (number.isdigit() and isinstance(stages, list) and int(number) < len(stages)):
            continue
        stage = stages[int(number)]
        if isinstance(stage, dict) and isinstance(stage.get("rounds"), int):
            try:
                stages[int(number)] = as_now(stage)
            except ValueError as error:
                raise ConfigError(f"stages.{number}: {error}", path=source) from error


def _index(node: Any, key: str, text: str) -> Any:
    """The index of `key` in a mapping or a list.

    Raises:
        ConfigError: the list has no such item, or the node is neither.
    """
    if isinstance(node, dict):
        return key
    if isinstance(node, list):
        if key.isdigit() and int(key) < len(node):
            return int(key)
        raise ConfigError(f"--set {text!r}: there is no {key!r} here (a list of {len(node)})")
    raise ConfigError(f"--set {text!r}: there is no {key!r} here")


def check(content: dict[str, Any], source: str) -> Pipeline:
    """The checked pipeline.

    Raises:
        ConfigError: with the path of the first mistake.
    """
    return _check(content, source)[0]


def _check(content: dict[str, Any], source: str) -> tuple[Pipeline, list[str]]:
    """The checked pipeline, and where each of its stages stands in what was written."""
    places: list[str] = []
    try:
        written_out, places = write_out(content)
        return Pipeline(**written_out), places
    except TypeError as error:
        raise ConfigError(str(error), path=source) from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            place = first["loc"]
            raise ConfigError(unknown_key(Pipeline, place, _as_written(place, places)), path=source) from error
        where = ".".join(str(part) for part in _as_written(first["loc"], places))
        found = "" if first["type"] == "missing" else f", got {first['input']!r}"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{where}: {first['msg']}{found}{more}", path=source) from error
    except ValueError as error:
        raise ConfigError(str(error), path=source) from error


def _as_written(place: tuple[int | str, ...], places: list[str]) -> tuple[int | str, ...]:
    """The place of a mistake in a pipeline as it was written, whose repeated stages are written once."""
    if len(place) < 2 or place[0] != "stages" or not isinstance(place[1], int) or place[1] >= len(places):
        return place
    return (places[place[1]], *place[2:])


def load(
    task: str,
    overrides: Sequence[str] = (),
    own: Sequence[OwnMethod] | None = None,
    *,
    shipped_tasks: Mapping[str, Path] | None = None,
) -> Pipeline:
    """A checked pipeline from a task and overrides; each stage's method is one of medseg or one that the user named.

    Args:
        task: a shipped name, the path of a YAML, or a run folder.
        overrides: `a.b=c` edits.
        own: methods that the user named; by default those that the running command was given.
        shipped_tasks: name -> YAML of the tasks that are meant; by default the shipped pipelines.

    Raises:
        ConfigError: with the path of the first mistake.
    """
    content, source = read_task(task, shipped_tasks)
    own = methods_in_use() if own is None else own
    insert_own_methods(content, own)
    _bring_up_to_date(content, overrides, source)
    apply(content, overrides)
    pipeline, places = _check(content, source)
    check_methods(pipeline, own, source, places)
    return pipeline


def check_resumable(run: Path) -> None:
    """See that the methods of a run that has begun are here, as they were, before it is resumed.

    Raises:
        ConfigError: a method of the user's own that was not named again, or whose file is another one.
    """
    if (run / "pipeline.yaml").is_file() and any(run.glob("**/last.pt")):
        load(str(run))


def dump(pipeline: Pipeline, path: Path, *, manifest: Path | None = None) -> None:
    """Write a pipeline as YAML that `load` reads back to an equal one.

    Args:
        pipeline: what to write.
        path: the YAML.
        manifest: that it was planned for, for its first line; see `refuse_another_plan`.
    """
    content = yaml.safe_dump(pipeline.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    write_whole(path, content if manifest is None else f"{_planned_for(manifest)}\n{content}")


def refuse_another_plan(path: Path, manifest: Path) -> None:
    """See that a plan takes the place of one for the same manifest only.

    Raises:
        ConfigError: another file is there.
    """
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8") as stream:
            first = stream.readline().rstrip("\n")
    except (OSError, ValueError):  # no text, so no plan
        first = ""
    if first != _planned_for(manifest):
        what = f"is there already and is no plan for {manifest}"
        raise ConfigError(what, path=path, hint="choose another --output, or remove it")


def _planned_for(manifest: Path) -> str:
    return f"# planned for {json.dumps(str(real_path(manifest)), ensure_ascii=False)}"
