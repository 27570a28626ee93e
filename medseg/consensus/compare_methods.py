"""Several methods on one study, side by side: how long each takes and how far its answer lies from the chosen one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.consensus.fuse import load_fuser, resolve_method, run
from medseg.consensus.statistics.report_data import contingencies, dice_by_class
from medseg.consensus.study import MISSING, Fused, Rater, Study
from medseg.errors import ConfigError, MedsegError

Facts = dict[str, Any]


def compare(
    study: Study,
    methods: Sequence[str],
    reference: np.ndarray | None = None,
    answers: Mapping[str, Fused] | None = None,
) -> list[Facts]:
    """Run every method with its own defaults and measure the answers.

    Args:
        study: the raters; methods that look at the image need one.
        methods: names of `FUSERS`; the first is the one that the others are compared with.
        reference: `(X, Y, Z)` uint8 true classes, `MISSING` where there is no truth; no method sees it.
        answers: method -> answer that need not be found again. Its seconds are those of its own log.

    Returns:
        One JSON-ready entry per method, in order: `method`, by its name in `FUSERS`; `error`, None or why it has no
        answer (then all else is None or empty); `seconds` (wall) and `cpu_seconds`, None for a given answer;
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
    found = {resolve_method(name): fused for name, fused in (answers or {}).items()}
    rows: list[Facts] = []
    chosen: np.ndarray | None = None
    for name in dict.fromkeys(map(resolve_method, methods)):
        if name in found:
            fused, row = _given_answer(name, found[name])
        else:
            fused, row = _new_answer(study, name)
        if not rows and fused is not None:
            chosen = fused.labels
        rows.append(row | _measure(study, fused, chosen, reference))
    return rows


def _given_answer(name: str, fused: Fused) -> tuple[Fused | None, Facts]:
    seconds = float(sum(fused.facts.get("seconds", {}).values()))
    return fused, _row(name, seconds=seconds, warnings=fused.facts.get("warnings", []))


def _new_answer(study: Study, name: str) -> tuple[Fused | None, Facts]:
    """The method's answer, or why there is none, which must not cost the others their row."""
    load_fuser(name)  # loading a module is not the method's time
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        fused = run(study, name)
    except MedsegError as error:
        return None, _row(name, error=str(error))
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return fused, _row(name, seconds=seconds, cpu_seconds=cpu_seconds, warnings=fused.facts.get("warnings", []))


def _row(
    name: str,
    *,
    error: str | None = None,
    seconds: float | None = None,
    cpu_seconds: float | None = None,
    warnings: Sequence[str] = (),
) -> Facts:
    return {
        "method": name,
        "error": error,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "warnings": list(warnings),
    }


def _measure(study: Study, fused: Fused | None, chosen: np.ndarray | None, reference: np.ndarray | None) -> Facts:
    """How far an answer lies from the chosen one and from the reference, and how large its structures are."""
    row: Facts = {"dice_to_chosen": None, "volumes_ml": {}, "differing_voxels": None, "undecided_voxels": None}
    if reference is not None:
        row["dice_to_reference"] = None
    if fused is None:
        return row
    counts = np.bincount(fused.labels.reshape(-1), minlength=MISSING + 1)
    voxel_ml = float(np.prod(study.spacing_mm)) / 1000
    row["volumes_ml"] = {name: float(counts[c] * voxel_ml) for c, name in enumerate(study.classes) if c}
    row["undecided_voxels"] = int(counts[MISSING])
    if chosen is not None:
        row["dice_to_chosen"] = _dice(study, fused.labels, chosen)
        row["differing_voxels"] = int(np.count_nonzero(fused.labels != chosen))
    if reference is not None:
        row["dice_to_reference"] = _dice(study, fused.labels, reference)
    return row


def _dice(study: Study, labels: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    pair = Study((Rater("", labels),), study.classes, study.spacing_mm)
    return dice_by_class(contingencies(pair, other)[0], study.classes)
