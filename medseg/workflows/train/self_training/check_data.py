"""Checks of a data set before hours are spent on rounds: every file sound, no case in two lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medseg.errors import DataError
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.progress import say
from medseg.records import Record, digest_of
from medseg.workflows.data.check_case import Finding
from medseg.workflows.data.check_dataset import check_set
from medseg.workflows.train.checks.files import cases_of_training, file_of, hide_labels, open_cases, place_of


def check_rounds(manifest: Manifest, file: Path) -> list[str]:
    """Open every file that the rounds will use, once per content; labels of unlabelled cases stay closed.

    Args:
        manifest: the data set.
        file: the record that these files were found good.

    Returns:
        Warnings, printed when they are found, and not again by a resumed run.

    Raises:
        DataError: a case in two lists, or a file that cannot be used.
    """
    _refuse_leaks(manifest)
    record = Record(file, inputs={"files": files_of(manifest)}, settings={})
    notes = record.notes()
    if notes is not None:
        return list(notes["warnings"])
    findings = open_cases(manifest, cases_of_training(manifest), "checking the data", headers_only=False)
    _refuse_other_modality(manifest, findings)
    problems = []
    for finding in findings:
        problems += finding.problems
    problems += check_set(_without_unused(manifest), findings)
    for problem in problems:
        if problem.severity == "error":
            raise DataError(f"{place_of(problem)}{problem.message}", path=file_of(manifest, problem))
    warnings = [f"{place_of(p)}{p.message}" for p in problems if p.code in ("class_absent", "empty")]
    for line in warnings:
        say(f"warning: {line}")
    record.finish({"warnings": warnings})
    return warnings


def files_of(manifest: Manifest) -> dict[str, dict[str, list[str]]]:
    """Hashes of the files that training opens: images, and labels where training sees them.

    Returns:
        Stream, or "validation" -> case -> hashes.
    """
    groups = {**streams_of(manifest), "validation": [case for case in manifest.validation if case.is_labelled]}
    hashes: dict[str, dict[str, list[str]]] = {}
    for name, cases in groups.items():
        hashes[name] = {case.name: _hash_files(manifest, name, case) for case in cases}
    return hashes


def _hash_files(manifest: Manifest, section: str, case: Case) -> list[str]:
    files = list(manifest.images(case))
    label = manifest.label(hide_labels(section, case))
    if label:
        files.append(label)
    found = [digest_of(path) for path in files]
    return found if case.image_class is None else [*found, f"class {case.image_class}"]


def _without_unused(manifest: Manifest) -> Manifest:
    """The manifest without what the rounds do not open."""
    sections: dict[str, tuple[Case, ...]] = {"test": ()}
    for section, cases in cases_of_training(manifest).items():
        sections[section] = tuple(hide_labels(section, case) for case in cases)
    return manifest.model_copy(update=sections)


def _refuse_leaks(manifest: Manifest) -> None:
    """Refuse an image or a subject that is among the unlabelled cases and elsewhere, or in training and test."""
    sections = {**cases_of_training(manifest), "test": list(manifest.test)}
    seen: dict[object, tuple[str, Case]] = {}
    for section, cases in sections.items():
        for case in cases:
            for name, identity in _identities(manifest, case):
                other, twin = seen.setdefault(identity, (section, case))
                if other != section:
                    raise DataError(
                        f"{name} of {section} case {case.name} is also that of {other} case {twin.name}",
                        path=manifest.path,
                        hint="keep every image and every subject in one list",
                    )


def _identities(manifest: Manifest, case: Case) -> Iterator[tuple[str, object]]:
    """A name and an identity for each image and the subject of a case."""
    for path in manifest.images(case):
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"cannot be opened ({error.strerror})", path=path, hint="mend the manifest") from error
        yield "the image", (status.st_dev, status.st_ino)  # the same file by whatever path
    if case.subject is not None:
        yield f"the subject {case.subject}", case.subject


def _refuse_other_modality(manifest: Manifest, findings: list[Finding]) -> None:
    """Refuse unlabelled images without negative values where every labelled CT has some (fat, air)."""
    if set(manifest.modalities) != {"CT"}:
        return
    lowest = []
    for finding in findings:
        if finding.section == "training":
            lowest += [intensity.low for intensity in finding.intensities]
    if not lowest or max(lowest) >= 0:
        return
    for finding in findings:
        if finding.section == "unlabeled" and any(intensity.low >= 0 for intensity in finding.intensities):
            raise DataError(
                f"unlabelled case {finding.name} holds no negative value, as every labelled CT does: another modality, "
                "or no Hounsfield units",
                path=finding.header.path if finding.header else manifest.path,
                hint="leave it out, or convert it",
            )
