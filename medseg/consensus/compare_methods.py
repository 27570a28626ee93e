"""Several fusers on one study, side by side: how long each takes and how far its answer lies from the chosen one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.consensus.fuse import fuser_called, resolve_method, run
from medseg.consensus.statistics.report_data import contingencies, dice_by_class
from medseg.consensus.study import MISSING, Fused, Rater, Study
from medseg.errors import ConfigError, MedsegError

Facts = dict[str, Any]


def compare(
    study: Study, methods: Sequence[str], reference: np.ndarray | None = None, known: Mapping[str, Fused] | None = None
) -> list[Facts]:
    """Run every method with its own defaults and measure the answers.

    Args:
        study: the raters; methods that look at the image need one.
        methods: names of `FUSERS`; the first is the one that the others are compared with.
        reference: `(X, Y, Z)` uint8 true classes, `MISSING` where the truth is not known; no method sees it.
        known: answers that need not be found again. Their seconds are those of their own account.

    Returns:
        One JSON-ready entry per method, in order: `method`, by its name in `FUSERS`; `error`, None or why it has no
        answer (then all else is None or empty); `seconds` (wall) and `cpu_seconds`, None for a known answer;
        `dice_to_chosen` and, with a reference, `dice_to_reference`, per class and `mean`, None where neither side has
        the class; `volumes_ml` per class; `differing_voxels` from the chosen answer; `undecided_voxels`; `warnings`.

    Raises:
        ConfigError: no method, or an unknown name.
        ValueError: a reference of another shape.
    """
    if not methods:
        raise ConfigError("no method to compare")
    if reference is not None and reference.shape != study.shape:
        raise ValueError(f"a reference of shape {reference.shape} for a study of {study.shape}")
    answers = {resolve_method(name): fused for name, fused in (known or {}).items()}
    rows: list[Facts] = []
    chosen: np.ndarray | None = None
    for name in dict.fromkeys(map(resolve_method, methods)):
        fused, row = _answer(study, name, answers.get(name))
        if not rows and fused is not None:
            chosen = fused.labels
        rows.append(row | _measured(study, fused, chosen, reference))
    return rows


def _answer(study: Study, name: str, fused: Fused | None) -> tuple[Fused | None, Facts]:
    """The fuser's answer, or why there is none, which must not cost the others their row."""
    row: Facts = {"method": name, "error": None, "seconds": None, "cpu_seconds": None, "warnings": []}
    if fused is not None:
        row["seconds"] = float(sum(fused.facts.get("seconds", {}).values()))
        return fused, row | {"warnings": list(fused.facts.get("warnings", []))}
    fuser_called(name)  # loading a module is not the method's time
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        fused = run(study, name)
    except MedsegError as error:
        return None, row | {"error": str(error)}
    row |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return fused, row | {"warnings": list(fused.facts.get("warnings", []))}


def _measured(study: Study, fused: Fused | None, chosen: np.ndarray | None, reference: np.ndarray | None) -> Facts:
    if fused is None:
        empty: Facts = {"dice_to_chosen": None, "volumes_ml": {}, "differing_voxels": None, "undecided_voxels": None}
        return empty | ({} if reference is None else {"dice_to_reference": None})
    counts = np.bincount(fused.labels.reshape(-1), minlength=MISSING + 1)
    millilitres = float(np.prod(study.spacing_mm)) / 1000
    row: Facts = {
        "dice_to_chosen": None if chosen is None else _dice(study, fused.labels, chosen),
        "volumes_ml": {name: float(counts[c] * millilitres) for c, name in enumerate(study.classes) if c},
        "differing_voxels": None if chosen is None else int(np.count_nonzero(fused.labels != chosen)),
        "undecided_voxels": int(counts[MISSING]),
    }
    return row if reference is None else row | {"dice_to_reference": _dice(study, fused.labels, reference)}


def _dice(study: Study, labels: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    pair = Study((Rater("", labels),), study.classes, study.spacing_mm)
    return dice_by_class(contingencies(pair, other)[0], study.classes)
