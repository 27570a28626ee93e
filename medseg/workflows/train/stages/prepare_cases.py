"""The cases of a stage, preprocessed."""

from __future__ import annotations

from collections.abc import Sequence

from medseg import methods
from medseg.config.pipeline import DataSpec, Stage
from medseg.cores import usable_cores
from medseg.data.cache import CachedVolume, VolumeCache
from medseg.data.cached_volume import ANNOTATED
from medseg.errors import DataError
from medseg.manifest.contradicted_tags import contradicted_tags
from medseg.manifest.learnable import nothing_to_tell_apart
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.method import STREAM_KEYS
from medseg.progress import is_new, say, say_once, show_progress

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
    keys = streams[name].keys if name in streams else ()
    maps = [key for key in keys if key not in STREAM_KEYS]
    workers = 1 if len(cases) < FEW_CASES else usable_cores()
    with show_progress(f"preprocessing {name} cases", kept="finished ones are saved", shown=shown) as progress:
        volumes = cache.prepare(manifest, cases, spec, maps=maps, workers=workers, progress=progress)
    if shown:
        _tell_oddities(manifest, volumes)
    if name == "labeled" and "label" in keys:  # else tags alone are learnt of these
        given = [volume for volume in volumes if volume.label_path is not None]
        if given:
            present = _classes_of_labels(manifest, given)
            _refuse_one_class(manifest, present)
            if shown and not _is_told_elsewhere(stage):
                _tell_absent(manifest, present)
    return volumes


def _tell_oddities(manifest: Manifest, volumes: Sequence[CachedVolume]) -> None:
    """One line for each kind of oddity of the files, and none for what was told before."""
    found: dict[str, list[str]] = {}
    for volume in volumes:
        notes = dict(volume.notes)
        contradicted = _describe_contradicted_tags(manifest, volume)
        if contradicted:
            notes["tags"] = contradicted
        for kind, note in notes.items():
            if is_new(note):
                found.setdefault(kind, []).append(note)
    for notes_of_kind in found.values():
        more = f" (and {len(notes_of_kind) - 1} more like this)" if len(notes_of_kind) > 1 else ""
        say(f"warning: {notes_of_kind[0]}{more}")


def _describe_contradicted_tags(manifest: Manifest, volume: CachedVolume) -> str:
    """What label and tags of a case say differently; a class may also be too small to be left in a coarser label."""
    if volume.presence is None or volume.label_path is None or volume.pseudo or manifest.regions:
        return ""
    labelled = {int(group) for group in volume.voxel_ranges if group != ANNOTATED}
    only_tagged, only_labelled = contradicted_tags(volume.presence, labelled, volume.covered)
    found = []
    for what, classes in (("tagged and not in the label", only_tagged), ("in the label and not tagged", only_labelled)):
        if classes:
            names = ", ".join(manifest.classes[index] for index in classes)
            found.append(f"{names} {what}")
    return f"{volume.source.name}: {'; '.join(found)}" if found else ""


def _is_told_elsewhere(stage: Stage) -> bool:
    """Whether rounds tell of absent classes, or the network that the stage starts from knows them."""
    return stage.rounds is not None or len(stage.views) > 1 or methods.find(stage.method.name).asks_previous


def _tell_absent(manifest: Manifest, present: set[int]) -> None:
    """Say once which structures no label has."""
    absent = [name for value, name in manifest.structures.items() if value not in present]
    if absent:
        say_once(f"warning: no training label has {', '.join(absent)}: it cannot be learnt")


def _classes_of_labels(manifest: Manifest, given: Sequence[CachedVolume]) -> set[int]:
    """Label values that labels have, all together."""
    present: set[int] = set()
    for volume in given:
        present |= {manifest.label_values[int(group)] for group in volume.voxel_ranges if group != ANNOTATED}
    if len(present) == 1 and manifest.has_background and any((volume.label == 0).any() for volume in given):
        present.add(manifest.label_values[0])
    return present


def _refuse_one_class(manifest: Manifest, present: set[int]) -> None:
    """Refuse labels that teach nothing.

    Args:
        manifest: of the labels.
        present: their values.

    Raises:
        DataError: all of them together hold one class, or no structure.
    """
    nothing = nothing_to_tell_apart(manifest, present)
    if nothing:
        hint = f"see medseg data check {manifest.path}"
        raise DataError(nothing, path=manifest.path, hint=hint)
