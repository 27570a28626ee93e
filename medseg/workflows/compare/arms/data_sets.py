"""What each arm learns from and is judged on: by the number of labels and the fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medseg.atomic import make_folder
from medseg.config.pipeline import Pipeline
from medseg.errors import ManifestError, MedsegError
from medseg.manifest.manifest import Case, Manifest
from medseg.manifest.splits import SHOWN, cut_labels, fold_manifest, with_lists
from medseg.records import digest_of, hash_of
from medseg.workflows.compare.arms.read_arms import Arm, Comparison
from medseg.workflows.compare.scores.rows import RunKey
from medseg.workflows.train.data_set import taken_by

LEARNT = ("training", "validation", "unlabeled")


@dataclass(frozen=True)
class DataSet:
    """What runs that differ in their seed only have in common.

    Args:
        key: of the run of the first seed.
        learnt: what they learn from; it has no test cases.
        judged: what they are judged on: labelled test cases and nothing else.
    """

    key: RunKey
    learnt: Manifest
    judged: Manifest

    @cached_property
    def learnt_identity(self) -> str:
        """SHA-256 of what they learn from, by content."""
        return identity(self.learnt)

    @cached_property
    def judged_identity(self) -> str:
        """SHA-256 of what they are judged on, by content."""
        return identity(self.judged)


def list_keys(comparison: Comparison) -> list[RunKey]:
    """All runs, those of one seed next to each other, so that a comparison that is stopped early has pairs."""
    keys = []
    for seed in comparison.seeds:
        for labels in comparison.labels or (None,):
            for fold in range(comparison.folds) if comparison.folds else (None,):
                keys += [RunKey(arm.name, seed, labels, fold) for arm in comparison.arms]
    return keys


def split_arm(comparison: Comparison, arm: Arm, pipeline: Pipeline) -> list[DataSet]:
    """The data sets of an arm.

    Args:
        comparison: what is asked for.
        arm: one of its arms.
        pipeline: of the arm, which may take whole images, or a set without a background.

    Raises:
        ManifestError: it cannot be split so, or there is nothing to judge on.
    """
    manifest = taken_by(pipeline, Manifest.load(arm.data))
    other = None if comparison.test is None else _judging(taken_by(pipeline, Manifest.load(comparison.test)))
    found = []
    for labels in comparison.labels or (None,):
        for fold in range(comparison.folds) if comparison.folds else (None,):
            part = manifest
            if comparison.folds is not None and fold is not None:
                part = fold_manifest(part, comparison.folds, fold, comparison.split_seed, section="test")
            judged = other or _judging(part)
            part = with_lists(part, {"test": ()})
            if labels is not None:
                part = cut_labels(part, labels, comparison.split_seed)
            found.append(DataSet(RunKey(arm.name, comparison.seeds[0], labels, fold), part, judged))
    return found


def _judging(manifest: Manifest) -> Manifest:
    """The labelled test cases of a manifest.

    Raises:
        ManifestError: there are none.
    """
    cases = tuple(case for case in manifest.test if case.is_labelled)
    if not cases:
        raise ManifestError(
            "no labelled case under 'test' to judge on",
            path=manifest.path,
            hint="name another manifest with --test, or judge out of fold with --folds 5",
        )
    return with_lists(manifest, {"training": (), "validation": (), "unlabeled": (), "test": cases})


def identity(manifest: Manifest) -> str:
    """SHA-256 of a manifest with the content of its files in place of their names.

    Raises:
        DataError: a file cannot be read.
    """
    content = manifest.model_dump(mode="json", include={"labels", "regions", "modality", "ignore_index"})
    if not manifest.has_background and all(case.image_class is None for case in manifest.cases):
        content["background"] = None
    for section in (*LEARNT, "test"):
        content[section] = [_describe(manifest, section, case) for case in getattr(manifest, section)]
    return hash_of(content)


def _describe(manifest: Manifest, section: str, case: Case) -> dict[str, Any]:
    content = case.model_dump(mode="json", exclude_none=True)
    content["name"] = case.name
    content["image"] = digests_of_image(manifest, case)
    content["maps"] = {name: digest_of(manifest.resolve(file)) for name, file in case.maps.items()}
    content["annotations"] = [each.rater for each in case.annotations]
    content.pop("label", None)
    if case.label is not None and section != "unlabeled":  # nothing opens the labels of unlabelled cases
        content["label"] = digest_of(manifest.resolve(case.label))
    return content


def digests_of_image(manifest: Manifest, case: Case) -> list[str]:
    """SHA-256 of each file of a case's image."""
    return [digest_of(path) for path in manifest.images(case)]


def find_leaks(data: DataSet) -> Iterator[str]:
    """What a run would learn from that it is judged on: the same image, or another one of the same subject.

    Yields:
        A phrase for each kind of leak.

    Raises:
        DataError: a file cannot be read.
    """
    learnt: dict[str, Case] = {}
    subjects: dict[str, Case] = {}
    for section in LEARNT:
        for case in getattr(data.learnt, section):
            learnt.update(dict.fromkeys(digests_of_image(data.learnt, case), case))
            if case.subject is not None:
                subjects[case.subject] = case
    same_image, same_subject = [], []
    for case in data.judged.test:
        twins = [learnt[digest] for digest in digests_of_image(data.judged, case) if digest in learnt]
        if twins:
            same_image.append(f"{case.name} is {twins[0].name}")
        elif case.subject is not None and case.subject in subjects:
            same_subject.append(f"{case.name} and {subjects[case.subject].name} are of {case.subject}")
    if same_image:
        yield f"test cases whose images are learnt from: {_first(same_image)}"
    if same_subject:
        yield f"test cases whose subjects are learnt from: {_first(same_subject)}"


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def save(manifest: Manifest, path: Path) -> None:
    """Write a manifest, unless it is there with the same cases: runs that are resumed ask for the same words."""
    if path.exists():
        with suppress(MedsegError):  # its files were moved: then the new words are right
            if identity(Manifest.load(path)) == identity(manifest):
                return
    make_folder(path.parent)
    manifest.save(path)
