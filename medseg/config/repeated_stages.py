"""Stages that a pipeline repeats, written out one after the other.

    stages:
      - method: {name: classifier}
      - repeat: 3
        stop_dice: 0.99
        stages:
          - method: {name: segmenter}
            then: {rule: {name: update}}

is a pipeline of four stages. After the last pass there is nothing to label where no stage follows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

KEYS = ("repeat", "stages", "stop_dice")


def write_out(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The content of a pipeline, its repeated stages written out.

    Args:
        content: as YAML gives it, not checked yet.

    Returns:
        The content with `repeats`, if there are any; and for each stage where it stands in the pipeline as it was
        written, such as "stages.1.stages.0".

    Raises:
        ValueError: a group that cannot be, with its place.
    """
    written = content.get("stages")
    if not isinstance(written, list):
        return dict(content), []
    stages: list[Any] = []
    places: list[str] = []
    repeats: list[dict[str, Any]] = []
    for number, item in enumerate(written):
        place = f"stages.{number}"
        if not isinstance(item, Mapping) or "repeat" not in item:
            stages.append(item)
            places.append(place)
            continue
        group = _checked(item, place)
        is_last = number == len(written) - 1
        repeats.append(
            {"first": len(stages), "stages": len(group), "passes": item["repeat"], "stop_dice": item.get("stop_dice")}
        )
        for _ in range(item["repeat"]):
            stages += copy.deepcopy(group)
            places += [f"{place}.stages.{inner}" for inner in range(len(group))]
        if is_last:
            stages[-1].pop("then", None)
    if not repeats:
        return dict(content), places
    return {**content, "stages": stages, "repeats": repeats}, places


def _checked(item: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """The stages of a group."""
    unknown = sorted(set(item) - set(KEYS))
    if unknown:
        raise ValueError(f"{place}.{unknown[0]}: a group of repeated stages has {', '.join(KEYS)}")
    count, stages = item["repeat"], item.get("stages")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{place}.repeat: accepted is a number of passes from 1, got {count!r}")
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError(f"{place}.stages: accepted is a list of the stages to repeat")
    for inner, stage in enumerate(stages):
        if "repeat" in stage:
            raise ValueError(f"{place}.stages.{inner}: a group inside a group; accepted are stages")
    stop = item.get("stop_dice")
    is_share = isinstance(stop, int | float) and not isinstance(stop, bool) and 0 < stop <= 1
    if stop is not None and not is_share:
        raise ValueError(f"{place}.stop_dice: accepted is a number above 0 and up to 1, got {stop!r}")
    if stop is not None and not any(stage.get("then") for stage in stages):
        raise ValueError(f"{place}.stop_dice compares pseudo-labels, and no stage of the group has 'then'")
    return stages
