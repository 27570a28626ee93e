"""The cases of a stage, preprocessed."""

from __future__ import annotations

from medseg import methods
from medseg.config.pipeline import DataSpec, Stage
from medseg.cores import usable_cores
from medseg.data.cache import CachedVolume, VolumeCache
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.method import STREAM_KEYS
from medseg.progress import show_progress

FEW_CASES = 24
"""Fewer are preprocessed sooner in this process: a worker process takes seconds to start."""


def case_groups(stage: Stage, manifest: Manifest) -> dict[str, list[Case]]:
    """The cases of each stream that the batch has, and of "validation"."""
    batch = stage.schedule.batch or {}
    groups = {stream: cases for stream, cases in streams_of(manifest).items() if stream in batch}
    groups["validation"] = [case for case in manifest.validation if case.is_labelled]
    return groups


def prepare_cases(
    cache: VolumeCache,
    manifest: Manifest,
    cases: list[Case],
    spec: DataSpec,
    group: tuple[Stage, str],
    *,
    shown: bool,
) -> list[CachedVolume]:
    """Preprocess what is not in the cache yet.

    Args:
        cache: of the run.
        manifest: that the cases are of.
        cases: of one group.
        spec: how they are presented to the network.
        group: the stage, and the name of the group, a stream or "validation".
        shown: whether progress is shown.
    """
    stage, name = group
    declared = methods.find_streams(stage.method.name, stage.method.options)
    streams = {stream.name: stream for stream in declared}
    maps = [key for key in streams[name].keys if key not in STREAM_KEYS] if name in streams else []
    workers = 1 if len(cases) < FEW_CASES else usable_cores()
    with show_progress(f"preprocessing {name} cases", kept="finished ones are saved", shown=shown) as progress:
        return cache.prepare(manifest, cases, spec, maps=maps, workers=workers, progress=progress)
