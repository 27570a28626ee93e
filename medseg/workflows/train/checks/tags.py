"""What tags cannot teach: a class that every image has, or none, or that few images are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from medseg.manifest.manifest import Case, Manifest

FEWEST_IMAGES = 6
"""Of a class; with fewer, self-training found none of its images (docs/methods/crest.md)."""


def class_warnings(manifest: Manifest, cases: Sequence[Case]) -> Iterator[str]:
    """Warnings of classes of whole images with few or no labelled ones.

    Args:
        manifest: of the cases, as `medseg.manifest.classification.classified` gave it.
        cases: labelled ones of training.
    """
    found = Counter(case.image_class for case in cases if case.image_class is not None)
    if not found:
        return
    few = []
    for value, name in manifest.labels.items():
        if found[value] < FEWEST_IMAGES:
            few.append(f"{name} ({found[value]})")
    if few:
        yield f"classes with fewer than {FEWEST_IMAGES} labelled images are hardly learnt: {', '.join(few)}"


def tag_warnings(manifest: Manifest, cases: Sequence[Case], who: str) -> Iterator[str]:
    """Warnings of classes of which the tags of some cases teach nothing, and of a set without a single negative.

    Args:
        manifest: of the cases.
        cases: from whose tags a method learns.
        who: the method.
    """
    told = [presence for case in cases if (presence := manifest.presence(case)) is not None]
    if not told:
        return
    for index in range(int(manifest.has_background), len(manifest.labels)):
        known = [presence[index] for presence in told if index in presence]
        name = manifest.classes[index]
        if not any(known):
            yield f"no image is tagged with {name}: {who} cannot learn it"
        elif all(known):
            yield f"{name} is in every image whose tags tell of it: it teaches {who} nothing"
    if all(any(presence.values()) for presence in told):
        yield f"no image is tagged with nothing ([]): {who} sees no background by itself"
