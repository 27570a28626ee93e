"""Stands in for numpymaxflow, whose binary needs numpy 1; MONAI Label asks for it for scribbles only."""

from __future__ import annotations

from typing import Any, NoReturn


def maxflow(*_: Any, **__: Any) -> NoReturn:
    """Refuse: the app of medseg has no scribbles."""
    raise NotImplementedError("numpymaxflow cannot be imported here: it needs numpy below 2")
