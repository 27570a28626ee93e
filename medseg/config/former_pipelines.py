"""Stages of pipelines as they were written before version 0.2, brought to today's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMER_RULE = {
    "ignore_disagreement": "ignore_disagreement",
    "sure_background": "background_confidence",
    "sure_rounds": "background_confidence_rounds",
    "background_confidence": "background_confidence",
    "background_confidence_rounds": "background_confidence_rounds",
}
FORMER_ROUNDS = ("student", "stop_dice")
"""Options of the method `dmpct` before version 0.2, and what they belong to now."""


def is_former(stage: Any) -> bool:
    """Whether a stage is in the form that DMPCT had before version 0.2, when it was a method."""
    method = stage.get("method") if isinstance(stage, Mapping) else None
    return isinstance(method, Mapping) and method.get("name") == "dmpct"


def as_now(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage as pipelines before version 0.2 have it, in today's form; any other as it is.

    There DMPCT was a method, whose options were also those of its rule, of the rounds and of the fusion of views, and
    `rounds` was a number.

    Raises:
        ValueError: a number of rounds for a method that had none.
    """
    method, rounds = stage.get("method"), stage.get("rounds")
    if not is_former(stage) or not isinstance(method, Mapping):
        if isinstance(rounds, int) and rounds > 0:
            raise ValueError(f"rounds is {rounds}; accepted is {{count: {rounds}, rule: {{name: dmpct}}}}")
        return {key: value for key, value in stage.items() if key != "rounds" or rounds}
    options = dict(method.get("options") or {})
    rule = {now: options.pop(former) for former, now in FORMER_RULE.items() if former in options}
    told = {key: options.pop(key) for key in FORMER_ROUNDS if key in options}
    now = {key: value for key, value in stage.items() if key != "rounds"}
    if "fusion" in options:
        now["fusion"] = rule["fusion"] = options.pop("fusion")
    now["method"] = {"name": "supervised", "options": {"dice": 0.0, **options}}
    if rounds:
        count = rounds if isinstance(rounds, Mapping) else {"count": rounds}
        now["rounds"] = {"rule": {"name": "dmpct", "options": rule}, **told, **count}
    return now
