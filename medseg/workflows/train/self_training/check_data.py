"""What must hold of a data set before hours are spent on rounds: every file sound, no case on two sides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from medseg.errors import DataError
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.progress import counting
from medseg.records import Record, digest_of
from medseg.workflows.data.check_case import Finding, check_case
from medseg.workflows.data.check_dataset import check_set
from medseg.workflows.data.problems import Problem


def warn(line: str) -> None:
    """One line on standard error."""
    Console(stderr=True).print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)


def check_rounds(manifest: Manifest, file: Path) -> list[str]:
    """Open every file that the rounds will use, once per content; labels of unlabelled cases stay closed.

    Args:
        manifest: the data set.
        file: the record that these files were found good.

    Returns:
        What is worth a warning; said when it is found, and not again by a resumed run.

    Raises:
        DataError: a case on two sides, or a file that cannot be used.
    """
    _refuse_leaks(manifest)
    groups = _groups(manifest)
    cases = [(section, case) for section, group in groups.items() for case in group]
    record = Record(file, inputs={"files": files_of(manifest)}, settings={})
    notes = record.notes()
    if notes is not None:
        return list(notes["warnings"])
    findings = []
    with counting("checking the data") as progress:
        progress(0, len(cases))
        for done, (section, case) in enumerate(cases, 1):
            findings.append(check_case(manifest, section, visible(section, case), headers_only=False))
            progress(done, len(cases))
    _refuse_other_modality(manifest, findings)
    problems = [p for found in findings for p in found.problems] + check_set(_used(manifest), findings)
    for problem in problems:
        if problem.severity == "error":
            raise DataError(f"{place_of(problem)}{problem.message}", path=file_of(manifest, problem))
    warnings = [f"{place_of(p)}{p.message}" for p in problems if p.code in ("class_absent", "empty")]
    for line in warnings:
        warn(line)
    record.finish({"warnings": warnings})
    return warnings


def files_of(manifest: Manifest) -> dict[str, dict[str, list[str]]]:
    """Stream, or "validation" -> case -> hashes of the files that training opens: images, and labels where known."""
    streams = streams_of(manifest)
    groups = {**streams, "validation": [case for case in manifest.validation if case.label]}
    return {name: {case.name: _digests(manifest, name, case) for case in cases} for name, cases in groups.items()}


def _groups(manifest: Manifest) -> dict[str, list[Case]]:
    streams = streams_of(manifest)
    return {
        "training": streams["labeled"],
        "validation": [case for case in manifest.validation if case.label],
        "unlabeled": streams["unlabeled"],
    }


def _used(manifest: Manifest) -> Manifest:
    """The manifest without what the rounds do not open."""
    groups = {section: tuple(visible(section, case) for case in cases) for section, cases in _groups(manifest).items()}
    return manifest.model_copy(update={**groups, "test": ()})


def visible(section: str, case: Case) -> Case:
    """What training may open of a case: of an unlabelled one the image alone."""
    return case.model_copy(update={"label": None, "annotations": ()}) if section == "unlabeled" else case


def _digests(manifest: Manifest, section: str, case: Case) -> list[str]:
    label = manifest.label(visible(section, case))
    return [digest_of(path) for path in (*manifest.images(case), *([label] if label else []))]


def place_of(problem: Problem) -> str:
    """The case that a problem is of, before its message."""
    return f"{problem.section} case {problem.case}: " if problem.case else ""


def file_of(manifest: Manifest, problem: Problem) -> Path:
    """The file that a problem is of, or else the manifest."""
    return manifest.resolve(problem.file) if problem.file else manifest.path


def _refuse_leaks(manifest: Manifest) -> None:
    """No image and no subject among the unlabelled cases and elsewhere, nor in training and test."""
    sides = {**_groups(manifest), "test": list(manifest.test)}
    seen: dict[object, tuple[str, Case]] = {}
    for section, cases in sides.items():
        for case in cases:
            for what, mark in _marks(manifest, case):
                other, twin = seen.setdefault(mark, (section, case))
                if other != section:
                    raise DataError(
                        f"{what} of {section} case {case.name} is also that of {other} case {twin.name}",
                        path=manifest.path,
                        hint="keep every image and every subject in one list",
                    )


def _marks(manifest: Manifest, case: Case) -> Iterator[tuple[str, object]]:
    for path in manifest.images(case):
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"cannot be opened ({error.strerror})", path=path, hint="mend the manifest") from error
        yield "the image", (status.st_dev, status.st_ino)  # the same file by whatever path
    if case.subject is not None:
        yield f"the subject {case.subject}", case.subject


def _refuse_other_modality(manifest: Manifest, findings: list[Finding]) -> None:
    """CT has negative values (fat, air); where every labelled image has, one without is no CT in Hounsfield units."""
    if set(manifest.modalities) != {"CT"}:
        return
    labelled = [i.low for found in findings if found.section == "training" for i in found.intensities]
    if not labelled or max(labelled) >= 0:
        return
    for found in findings:
        if found.section == "unlabeled" and any(i.low >= 0 for i in found.intensities):
            raise DataError(
                f"unlabelled case {found.name} holds no negative value, as every labelled CT does: another modality, "
                "or no Hounsfield units",
                path=found.header.path if found.header else manifest.path,
                hint="leave it out, or convert it",
            )
