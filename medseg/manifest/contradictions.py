"""What does not go together in a manifest, found without opening a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from medseg.manifest.regions import wrong_regions
from medseg.portable.io.channel_names import listed

if TYPE_CHECKING:
    from medseg.manifest.case import Case
    from medseg.manifest.manifest import Manifest


def contradictions(manifest: Manifest, sections: Sequence[str]) -> Iterator[str]:
    """What does not go together in a manifest, a line each that begins with the place."""
    if manifest.ignore_index in manifest.labels:
        yield f"ignore_index: {manifest.ignore_index} is also the value of '{manifest.labels[manifest.ignore_index]}'"
    yield from wrong_regions(manifest.labels, manifest.regions, has_background=manifest.has_background)
    seen: dict[str, str] = {}
    for where, section, case in manifest.places():
        if case.name in seen:
            other = seen[case.name]
            yield f"{where}: is called '{case.name}' like {other}; name one of them by a \"case\" key"
        seen[case.name] = where
        if len(case.image) not in (1, manifest.channels):
            files = listed([PurePath(file).name for file in case.image])
            yield f"{where}.image: has {len(case.image)} files, modality has {manifest.channels} channels: {files}"
        if section in ("training", "validation") and not _is_judged(case):
            yield f'{where}: has neither label, annotations nor tags; such cases belong into "unlabeled"'
        if case.classes is not None and case.label is None:
            yield f"{where}.classes: says what a label covers, and there is no label"
        if case.classes is not None and not manifest.has_background:
            yield f"{where}.classes: what a label does not cover is background in it, and background is null"
        unknown = list(_unknown_classes(manifest, where, case))
        yield from unknown or _odd_tags(manifest, where, case)
    if not seen:
        yield f"has no case; accepted are lists called {', '.join(sections)}"


def _unknown_classes(manifest: Manifest, where: str, case: Case) -> Iterator[str]:
    accepted = {*manifest.labels, *manifest.labels.values(), *map(str, manifest.labels)}
    listed = [("tags", case.tags), ("classes", case.classes)]
    for number, annotation in enumerate(case.annotations):
        listed.append((f"annotations[{number}].classes", annotation.classes))
    for key, classes in listed:
        unknown = [name for name in classes or () if name not in accepted]
        if unknown:
            yield f"{where}.{key}: unknown classes {unknown}; known are {list(manifest.classes)}"


def _odd_tags(manifest: Manifest, where: str, case: Case) -> Iterator[str]:
    """Tags that name the background or a class twice, as those do that are meant as a 0 or 1 for each class."""
    if case.tags is None:
        return
    found = case.tags if isinstance(case.tags, dict) else list(case.tags)
    indices = [manifest.index_of(each) for each in case.tags]
    twice = [index for index in indices if indices.count(index) > 1]
    name = next(iter(manifest.structures.values()))
    accepted = f'accepted are the classes that are in the image, such as ["{name}"], or {{"{name}": true or false}}'
    if manifest.has_background and 0 in indices:
        none = '"background": null says that there is none'
        yield f"{where}.tags: {found} names the background, {manifest.classes[0]} ({none}); {accepted}"
    elif twice:
        yield f"{where}.tags: {found} names {manifest.classes[twice[0]]} twice; {accepted}"


def _is_judged(case: Case) -> bool:
    """Whether somebody said something of a case, were it that nothing is visible."""
    return bool(case.label) or "annotations" in case.model_fields_set or case.tags is not None
