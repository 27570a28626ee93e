"""Folds of a cross-validation and smaller numbers of labels, by subject: cases of one subject are never parted.

Who is drawn depends on the seed and the subjects' names alone, not on the order of the cases or on the other subjects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from medseg.errors import ConfigError, ManifestError
from medseg.manifest.case import IMAGE_CLASS
from medseg.manifest.manifest import Case, Manifest

SHOWN = 3
"""Names that a message spells out."""

COUNTS = {"numTraining": "training", "numTest": "test"}
"""Counts that Decathlon files carry -> the list that is counted."""


def subject_of(case: Case) -> str:
    """Whose image a case is; its own name where the manifest says nothing."""
    return case.name if case.subject is None else case.subject


def draw_lot(seed: int, subject: str) -> bytes:
    """A subject's lot: the same on every machine, whatever other subjects there are."""
    return hashlib.sha256(f"{seed}:{subject}".encode()).digest()


def split_folds(manifest: Manifest, folds: int, seed: int = 0) -> tuple[tuple[str, ...], ...]:
    """The subjects of each fold, each of which has a labelled training case.

    Where cases say their `fold`, that is taken and the seed decides nothing; else subjects are dealt out in the order
    of their lots, so that folds differ by one subject at most.

    Args:
        manifest: the data set.
        folds: how many, from 2.
        seed: of the lots.

    Raises:
        ConfigError: fewer than two folds.
        ManifestError: fewer subjects than folds; a `fold` that is missing or out of range; a subject in two folds; an
            empty fold.

    Examples:
        >>> from medseg.manifest.manifest import Manifest
        >>> cases = [{"image": f"{name}.nii.gz", "label": f"{name}_seg.nii.gz"} for name in "abcde"]
        >>> manifest = Manifest.model_validate({"labels": {"0": "background", "1": "liver"}, "training": cases})
        >>> split_folds(manifest, 2)
        (('a', 'b', 'd'), ('c', 'e'))
    """
    if folds < 2:
        raise ConfigError(f"{folds} folds: accepted are 2 and more")
    labelled = [case for case in manifest.training if case.is_labelled]
    subjects = sorted({subject_of(case) for case in labelled})
    if len(subjects) < folds:
        what = f"{len(subjects)} labelled subjects are too few for {folds} folds"
        raise ManifestError(what, path=manifest.path, hint="ask for fewer folds")
    given = _given_folds(manifest, folds)
    if not given:
        order = sorted(subjects, key=lambda subject: draw_lot(seed, subject))
        given = {subject: place % folds for place, subject in enumerate(order)}
    parts = [tuple(subject for subject in subjects if given[subject] == fold) for fold in range(folds)]
    empty = [fold for fold, part in enumerate(parts) if not part]
    if empty:
        what = f"no labelled training case has the fold {empty[0]}, and {folds} folds are asked for"
        raise ManifestError(what, path=manifest.path, hint=f"folds are numbered from 0 to {folds - 1}")
    return tuple(parts)


def fold_manifest(manifest: Manifest, folds: int, fold: int, seed: int = 0, *, section: str = "test") -> Manifest:
    """The data set of one fold: its labelled cases are held out, the other folds are trained on.

    Whatever else there is of the subjects held out leaves every other list but `test`: their unlabelled images would
    flatter the result.

    Args:
        manifest: the data set.
        folds: how many, from 2.
        fold: the one to hold out, from 0.
        seed: of the lots.
        section: where the labelled cases of the fold go. "test": in place of the manifest's own test cases, whose
            validation cases stay. "validation": the manifest's own validation cases are first counted as training
            ones, so that each labelled case is held out in one fold.

    Raises:
        ConfigError: there is no such fold or section.
        ManifestError: as `split_folds`.
    """
    if section not in ("test", "validation"):
        raise ConfigError(f"cases are held out in the list 'test' or 'validation', not {section!r}")
    if not 0 <= fold < folds:
        raise ConfigError(f"there is no fold {fold}; accepted are 0 to {folds - 1}")
    if section == "validation":
        manifest = pool_labelled(manifest)
    parts = split_folds(manifest, folds, seed)
    held_out = set(parts[fold])
    given = _given_folds(manifest, folds)
    held_out |= {subject for subject, number in given.items() if number == fold}
    lists = {}
    for name in ("training", "validation", "unlabeled"):
        lists[name] = tuple(case for case in getattr(manifest, name) if subject_of(case) not in held_out)
    lists[section] = tuple(case for case in manifest.training if case.is_labelled and subject_of(case) in held_out)
    return with_lists(manifest, lists)


def pool_labelled(manifest: Manifest) -> Manifest:
    """The data set with its validation cases among the training ones."""
    return with_lists(manifest, {"training": (*manifest.training, *manifest.validation), "validation": ()})


def cut_labels(manifest: Manifest, count: int, seed: int = 0) -> Manifest:
    """The data set with the labels of so many subjects; the training cases of the others become unlabelled.

    For one seed the labels of 4 subjects are among those of 8. What the manifest says of the others (label,
    annotations, tags) is dropped, so that nothing can open it.

    Args:
        manifest: the data set.
        count: subjects that keep their labelled training cases, from 1; of two labelled frames of one both stay.
        seed: of the lots that decide who keeps them.

    Raises:
        ManifestError: more than there are, or none.
    """
    labelled = [case for case in manifest.training if case.is_labelled]
    order = sorted({subject_of(case) for case in labelled}, key=lambda subject: draw_lot(seed, subject))
    if not 1 <= count <= len(order):
        what = f"labels of {count} subjects are asked for, and {len(order)} have a labelled case under 'training'"
        raise ManifestError(what, path=manifest.path, hint=f"accepted are 1 to {len(order)}")
    kept = set(order[:count])
    training, cut = [], []
    for case in manifest.training:
        if case.is_labelled and subject_of(case) not in kept:
            cut.append(_without_labels(case))
        else:
            training.append(case)
    return with_lists(manifest, {"training": tuple(training), "unlabeled": (*manifest.unlabeled, *cut)})


def with_lists(manifest: Manifest, lists: dict[str, tuple[Case, ...]]) -> Manifest:
    """The data set with other lists of cases, and with the counts of a Decathlon file brought up to them.

    Args:
        manifest: the data set.
        lists: name of a list of the manifest -> its cases.
    """
    changes: dict[str, object] = {name: cases for name, cases in lists.items() if cases != getattr(manifest, name)}
    for key, section in COUNTS.items():
        if section in changes and key in (manifest.model_extra or {}):
            changes[key] = len(lists[section])
    return manifest.model_copy(update=changes)


def _without_labels(case: Case) -> Case:
    """The case as an unlabelled one of the same name."""
    changes = {"label": None, "classes": None, "annotations": (), "tags": None}
    if case.image_class is not None:
        changes[IMAGE_CLASS] = None
    new = case.model_copy(update=changes)
    return new if new.name == case.name else new.model_copy(update={"case": case.name})


def _given_folds(manifest: Manifest, folds: int) -> dict[str, int]:
    """Subject -> fold, where the manifest says it; empty where no case that may be trained on does.

    Raises:
        ManifestError: the folds that it says are no cross-validation of so many folds.
    """
    cases = [*manifest.training, *manifest.unlabeled]
    if all(case.fold is None for case in cases):
        return {}
    _refuse_incomplete(manifest, cases, folds)
    found: dict[str, int] = {}
    for case in cases:
        if case.fold is None:
            continue
        subject = subject_of(case)
        if found.setdefault(subject, case.fold) != case.fold:
            what = f"subject {subject} is in the folds {found[subject]} and {case.fold}"
            raise ManifestError(what, path=manifest.path, hint="keep a subject in one fold")
    return found


def _refuse_incomplete(manifest: Manifest, cases: Sequence[Case], folds: int) -> None:
    without = [case.name for case in manifest.training if case.is_labelled and case.fold is None]
    if without:
        what = f"some cases say their fold, and these labelled ones do not: {_named(without)}"
        raise ManifestError(what, path=manifest.path, hint='give each a "fold", or none')
    outside = [f"{case.name} ({case.fold})" for case in cases if case.fold is not None and not 0 <= case.fold < folds]
    if outside:
        what = f"{folds} folds are asked for, and the manifest has others: {_named(outside)}"
        raise ManifestError(what, path=manifest.path, hint=f"accepted are the folds 0 to {folds - 1}")


def _named(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
