"""Checks that need the whole set: duplicates, subjects in two splits, misspelt keys, kind of data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import combinations
from typing import Any

from medseg.atomic import real_path, same_name
from medseg.errors import ManifestError
from medseg.manifest.learnable import nothing_to_tell_apart
from medseg.manifest.manifest import SECTIONS, Annotation, Case, Manifest
from medseg.manifest.splits import split_folds
from medseg.portable.io.labels import rounding_note
from medseg.workflows.data.check_case import Finding
from medseg.workflows.data.problems import Problem, Severity

LEAKS = {
    ("training", "validation"): "error",
    ("training", "test"): "error",
    ("validation", "test"): "error",
    ("validation", "unlabeled"): "warning",
    ("test", "unlabeled"): "warning",
}
"""Lists that must not share a subject: even unlabelled images of a test subject flatter its result."""

THICK = 2.0
"""Largest over smallest spacing from which slices count as thick."""

OTHERS_KEYS = {
    "numTraining",
    "numTest",
    "tensorImageSize",
    "reference",
    "licence",
    "license",
    "release",
    "relase",
}
"""What Decathlon files carry beside the lists, one misspelt in the original."""


def check_set(manifest: Manifest, findings: Sequence[Finding]) -> list[Problem]:
    """Everything that no case shows alone.

    Args:
        manifest: the manifest.
        findings: one per case, in the manifest's order.
    """
    problems = [*_same_files(manifest), *_same_voxels(findings), *_subjects(manifest), *_keys(manifest)]
    problems += [*_folds(manifest), *_same_names(manifest)]
    problems += [*_counts(manifest), *_slices(findings), *_intensities(manifest, findings), *_rounded(findings)]
    return problems + list(_absent_classes(manifest, findings))


def _all(manifest: Manifest) -> Iterator[tuple[str, Case]]:
    for section in SECTIONS:
        for case in getattr(manifest, section):
            yield section, case


def _whole(severity: Severity, code: str, message: str) -> Problem:
    return Problem("", "", "", severity, code, message)


def _same_files(manifest: Manifest) -> Iterator[Problem]:
    """One file in two places; an image twice is two names for one case."""
    seen: dict[Any, str] = {}
    for section, case in _all(manifest):
        for file in case.image:
            path = real_path(manifest.resolve(file))
            if path in seen:
                what = f"is also an image of {seen[path]}"
                yield Problem(case.name, file, section, "error", "duplicate", what)
            seen[path] = f"{section} {case.name}"
    labels: dict[Any, str] = {}
    for section, case in _all(manifest):
        if case.label is not None:
            path = real_path(manifest.resolve(case.label))
            if path in labels:
                what = f"is also the label of {labels[path]}"
                yield Problem(case.name, case.label, section, "warning", "duplicate_label", what)
            labels[path] = f"{section} {case.name}"


def _same_names(manifest: Manifest) -> Iterator[Problem]:
    """Names that are one on disks of macOS and Windows, where results are called as the cases."""
    seen: dict[str, str] = {}
    for section, case in _all(manifest):
        other = seen.setdefault(same_name(case.name), case.name)
        if other != case.name:
            what = f"differs from the case {other} in capital letters only: not every disk tells their results apart"
            yield Problem(case.name, "", section, "warning", "case_names", what)


def _same_voxels(findings: Sequence[Finding]) -> Iterator[Problem]:
    """The same image under two names; in two lists it is a leak."""
    seen: dict[tuple[bytes, ...], Finding] = {}
    for found in findings:
        key = tuple(i.digest for i in found.intensities)
        if not key or all(i.low == i.high for i in found.intensities):
            continue
        other = seen.setdefault(key, found)
        if other is not found:
            severity: Severity = "error" if found.section != other.section else "warning"
            what = f"has the same voxels as {other.section} {other.name}"
            yield Problem(found.name, "", found.section, severity, "duplicate", what)


def _subjects(manifest: Manifest) -> Iterator[Problem]:
    where: dict[str, set[str]] = defaultdict(set)
    for section, case in _all(manifest):
        if case.subject is not None:
            where[case.subject].add(section)
    for subject, sections in where.items():
        for pair in combinations([s for s in SECTIONS if s in sections], 2):
            if pair in LEAKS:
                what = f"subject {subject} is in both {pair[0]} and {pair[1]}; keep a subject in one list"
                yield _whole(LEAKS[pair], "subject_leak", what)  # type: ignore[arg-type]


def _folds(manifest: Manifest) -> Iterator[Problem]:
    """Folds that are no cross-validation, such as a subject in two of them."""
    told = [case.fold for case in (*manifest.training, *manifest.unlabeled) if case.fold is not None]
    if not told:
        return
    try:
        split_folds(manifest, max(2, max(told) + 1))
    except ManifestError as error:
        yield _whole("warning", "folds", error.reason)


def _keys(manifest: Manifest) -> Iterator[Problem]:
    yield from _typos(manifest.model_extra, Manifest, "", "")
    for section, case in _all(manifest):
        yield from _typos(case.model_extra, Case, section, case.name)
        for annotation in case.annotations:
            yield from _typos(annotation.model_extra, Annotation, section, case.name)


def _typos(extra: dict[str, Any] | None, kind: type, section: str, case: str) -> Iterator[Problem]:
    """Unknown keys are kept, but one that looks like a field of the manifest was meant to be it."""
    fields = list(kind.model_fields)  # type: ignore[attr-defined]
    for key in extra or {}:
        meant = get_close_matches(key.lower(), fields, n=1, cutoff=0.75)
        if meant and key not in OTHERS_KEYS:
            what = f"the key '{key}' is not known and not used; was '{meant[0]}' meant?"
            yield Problem(case, "", section, "warning", "unknown_key", what)


def _counts(manifest: Manifest) -> Iterator[Problem]:
    for key, section in (("numTraining", "training"), ("numTest", "test")):
        count, there = (manifest.model_extra or {}).get(key), len(getattr(manifest, section))
        if isinstance(count, int) and count != there:
            yield _whole("warning", "count", f"{key} is {count}, the list '{section}' has {there} cases")


def _slices(findings: Sequence[Finding]) -> Iterator[Problem]:
    """Flat and thick images: one line when all are alike, else each flat one by name."""
    headers = [(found, found.header) for found in findings if found.header is not None]
    flat = [found for found, header in headers if min(header.shape) == 1]
    if flat and len(flat) == len(headers):
        yield _whole("warning", "single_slice", "every image is a single slice: the data are two-dimensional")
    else:
        for found in flat:
            what = "is a single slice among volumes; a network for volumes cannot be trained on it"
            yield Problem(found.name, "", found.section, "warning", "single_slice", what)
    deep = [header.spacing_mm for _, header in headers if min(header.shape) > 1]
    ratios = [max(spacing) / min(spacing) for spacing in deep]
    thick = sum(ratio > THICK for ratio in ratios)
    if thick:
        what = f"{thick} of {len(deep)} volumes have thick slices (spacing ratio up to {max(ratios):.3g})"
        yield _whole("warning", "thick_slices", f"{what}; planning takes them slice by slice")


def _intensities(manifest: Manifest, findings: Sequence[Finding]) -> Iterator[Problem]:
    """Numbers that do not look like the modality that is named."""
    if len(manifest.modalities) != 1:
        return
    ranges = [(i.low, i.high) for found in findings for i in found.intensities if i.low < i.high]
    if manifest.modalities == ("CT",):
        windowed = sum(low >= 0 and high <= 255 for low, high in ranges)
        if windowed:
            what = f"{windowed} of {len(ranges)} CT images lie within 0 to 255: no Hounsfield units"
            yield _whole("warning", "modality", f"{what}; results hold for images windowed the same way")
    elif manifest.modalities == ("MR",):
        hounsfield = sum(low <= -900 for low, _ in ranges)
        if hounsfield:
            what = f"{hounsfield} of {len(ranges)} MR images reach below -900, as Hounsfield units do"
            yield _whole("warning", "modality", f"{what}; is this CT?")


def _rounded(findings: Sequence[Finding]) -> Iterator[Problem]:
    """Label values that rounding made fractions of: said once for the whole set."""
    files = [each for found in findings for each in found.rounded]
    if files:
        file, example = files[0]
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        what = f"{file}{more}: {rounding_note(example)}"
        yield _whole("warning", "rounded", what)


def _absent_classes(manifest: Manifest, findings: Sequence[Finding]) -> Iterator[Problem]:
    labelled = [found.label_values for found in findings if found.section == "training" and found.label_values]
    if not labelled:
        return
    present = set().union(*labelled)
    nothing = nothing_to_tell_apart(manifest, present)
    if nothing:
        yield _whole("error", "nothing_to_learn", nothing)
        return
    absent = [manifest.labels[value] for value, members in manifest.members.items() if not present & set(members)]
    if absent:
        yield _whole("warning", "class_absent", f"no training label has {', '.join(absent)}: it cannot be learnt")
