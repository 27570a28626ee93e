"""Images that have one class each: their only tag, checked, takes the place of a label.

A label file of a single value does as well. No class is the background: each image has one of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from medseg.errors import ManifestError
from medseg.manifest.case import IMAGE_CLASS, Case
from medseg.manifest.manifest import Manifest

SECTIONS = ("training", "validation", "test")
"""Lists whose cases have a class."""

HINT = 'give "tags" one class, such as ["{}"], or list the image under "unlabeled"'


def classified(manifest: Manifest) -> Manifest:
    """The data set for a classification of images: each case with a single tag counts as labelled with its class.

    Args:
        manifest: of cases with one tag each or with a label file of one value, and of images under `unlabeled`.

    Raises:
        ManifestError: a case under `training`, `validation` or `test` with several tags or none, naming the first and
            counting the others; fewer than two classes.
    """
    structures = manifest.structures
    if len(structures) < 2:
        found = ", ".join(structures.values())
        raise ManifestError(f"has the class {found} alone; images are told apart by at least two", path=manifest.path)
    problems: list[str] = []
    lists: dict[str, tuple[Case, ...]] = {}
    for section in SECTIONS:
        cases = []
        for number, case in enumerate(getattr(manifest, section)):
            problem = describe_problem(manifest, case)
            if problem:
                problems.append(f"{section}[{number}]: {case.name} {problem}")
            else:
                cases.append(_with_class(manifest, case))
        lists[section] = tuple(cases)
    if problems:
        more = f" (and {len(problems) - 1} more like this)" if len(problems) > 1 else ""
        hint = HINT.format(next(iter(structures.values())))
        raise ManifestError(f"{problems[0]}{more}", path=manifest.path, hint=hint)
    return manifest.model_copy(update={**lists, "labels": structures, "background": None})


def class_index(manifest: Manifest, case: Case) -> int | None:
    """The index of the class of a whole image of a set that `classified` gave; None: the case has none."""
    return None if case.image_class is None else manifest.label_values.index(case.image_class)


def value_of(manifest: Manifest, case: Case) -> int | None:
    """The value of the class that is the only tag of a case; None where it has several or none."""
    tagged = _tagged(manifest, case)
    return tagged[0] if len(tagged) == 1 else None


def describe_problem(manifest: Manifest, case: Case) -> str:
    """What is wrong with the tags of a case that has no label file; empty: nothing."""
    if case.label is not None or value_of(manifest, case) is not None:
        return ""
    names = [manifest.labels[value] for value in _tagged(manifest, case)]
    found = f"has the tags {', '.join(names)}" if names else "has no tag"
    return f"{found}; each image has exactly one class"


def says_classes_only(cases: Sequence[Case]) -> bool:
    """Whether tags are all that is said of some cases, so that there is nothing but the class of an image to judge."""
    return any(case.tags is not None for case in cases) and not any(case.label or case.annotations for case in cases)


def _tagged(manifest: Manifest, case: Case) -> list[int]:
    """Values of the classes, not the background, that the tags say are in the image."""
    presence = manifest.presence(case) or {}
    return [manifest.label_values[index] for index, there in sorted(presence.items()) if there]


def _with_class(manifest: Manifest, case: Case) -> Case:
    value = value_of(manifest, case)
    if case.label is not None or value is None:
        return case
    return case.model_copy(update={IMAGE_CLASS: value, "tags": (manifest.labels[value],)})
