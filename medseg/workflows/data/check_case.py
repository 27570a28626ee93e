"""The check of one case: its images, label, annotations, tags and maps, each file opened once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isinf
from pathlib import PurePath

import numpy as np

from medseg.manifest.contradicted_tags import contradicted_tags
from medseg.manifest.fields import stem
from medseg.manifest.manifest import Annotation, Case, Manifest
from medseg.ops.tags.saliency_values import SALIENCY_MAPS, saliency_problem
from medseg.portable.geometry import LARGEST_VOXELS, RESAMPLE, offset, same_order
from medseg.portable.io.channel_names import doubtful_channels, listed
from medseg.portable.io.labels import LOSSY, NO_LOSS, grey_levels, is_smeared
from medseg.portable.io.read import Header, VolumeError, read_header, read_volume
from medseg.workflows.data.problems import Problem, Severity
from medseg.workflows.data.voxel_statistics import Intensities, Values, intensities, values

SHOWN = 8  # values that are spelled out


@dataclass
class Finding:
    """What the check of a case found, for the checks of the whole set."""

    name: str
    section: str
    problems: list[Problem] = field(default_factory=list)
    files: int = 0
    header: Header | None = None  # of the first image
    intensities: list[Intensities] = field(default_factory=list)
    label_values: set[int] = field(default_factory=set)
    rounded: list[tuple[str, float]] = field(default_factory=list)  # label files, and a number that is none


def check_case(manifest: Manifest, section: str, case: Case, *, headers_only: bool) -> Finding:
    """Open every file of a case.

    Args:
        manifest: where classes, channels and paths come from.
        section: list that the case is in.
        case: the case.
        headers_only: leave the voxels unread.
    """
    checker = _Checker(manifest, case, Finding(case.name, section), headers_only)
    checker.images()
    if case.label is not None:
        found = checker.label(case.label, f"label {case.label}")
        if found is not None:
            checker.found.label_values = set(found.counts)
            checker.tags(found)
    for annotation in case.annotations:
        checker.annotation(annotation)
    for name, file in case.maps.items():
        checker.map(name, file)
    return checker.found


class _Checker:
    def __init__(self, manifest: Manifest, case: Case, found: Finding, headers_only: bool) -> None:
        self.manifest, self.case, self.found, self.headers_only = manifest, case, found, headers_only
        self.accepted = set(manifest.labels) | {manifest.ignore_index}

    def report(self, file: str, severity: Severity, code: str, message: str) -> None:
        found = self.found
        found.problems.append(Problem(found.name, file, found.section, severity, code, message))

    def open(self, file: str, *, indices: bool = False) -> tuple[np.ndarray | None, Header] | None:
        """Header, and voxels unless they are left unread; None for a file that cannot be used."""
        path = self.manifest.resolve(file)
        self.found.files += 1
        try:
            if self.headers_only:
                read: tuple[np.ndarray | None, Header] = (None, read_header(path, indices=indices))
            else:
                read = read_volume(path, indices=indices)
        except VolumeError as e:
            self.report(file, "error", "unreadable" if path.exists() else "missing", e.reason)
            return None
        for warning in read[1].warnings:
            self.report(file, "warning", "header", warning)
        return read

    def images(self) -> None:
        self.channel_names()
        headers: list[Header] = []
        for file in self.case.image:
            read = self.open(file)
            if read is None:
                continue
            array, header = read
            headers.append(header)
            if array is not None:
                self.intensities(file, array)
            self.same_grid(file, header, headers[0])
        if not headers:
            return
        self.found.header = headers[0]
        channels, wanted = sum(h.channels for h in headers), self.manifest.channels
        if len(headers) == len(self.case.image) and channels != wanted:
            what = f"has {channels} channels, modality has {wanted}; give modality one entry per channel"
            self.report(self.case.image[0], "error", "channels", what)

    def channel_names(self) -> None:
        """Numbers that are patients' and not channels'; who names the case has looked, and may number otherwise."""
        doubt = doubtful_channels([stem(file) for file in self.case.image])
        if doubt is None:
            return
        files = listed([PurePath(file).name for file in self.case.image])
        severity: Severity = "error" if self.case.case is None else "warning"
        remedy = 'list each as a case by itself; if they are the channels of one, name it by a "case" key'
        self.report(self.case.image[0], severity, "channel_names", f"{files} {doubt}; {remedy}")

    def same_grid(self, file: str, header: Header, first: Header) -> None:
        """Channels are stacked as stored, so that they must be stored in the same order too."""
        if header is first:
            return
        differing = difference(header, first)
        if not same_order(header, first) and (differing is None or differing[0] == "warning"):
            self.report(file, "error", "channel_grid", "is stored in another order than the first channel")
        elif differing:
            severity, _, message = differing
            self.report(file, severity, "channel_grid", message.replace("the image's", "the first channel's"))

    def intensities(self, file: str, array: np.ndarray) -> None:
        found = intensities(array)
        self.found.intensities.append(found)
        if found.non_finite:
            what = f"{found.non_finite} of {found.size} voxels are NaN or infinite; replace them on purpose"
            self.report(file, "error", "non_finite", what)
        if found.low == found.high:
            self.report(file, "warning", "constant", f"every voxel is {found.low:g}")

    def annotation(self, annotation: Annotation) -> None:
        """A label of one rater, who may have looked for some classes only."""
        found = self.label(annotation.label, f"rater {annotation.rater}")
        if found is None or annotation.classes is None:
            return
        looked_for = self.values_of(self.named(annotation.classes)) | self.no_structure
        beyond = sorted(set(found.counts) & self.accepted - looked_for)
        if beyond:
            what = f"rater {annotation.rater} annotated {self.names(beyond)}, which are not in 'classes'"
            self.report(annotation.label, "warning", "rater_classes", what)

    def label(self, file: str, what: str) -> Values | None:
        """Geometry and values of a label file; its values unless they were left unread."""
        if self.manifest.resolve(file) in self.manifest.images(self.case):
            self.report(file, "error", "label_is_image", "the image itself is given as its label")
            return None
        read = self.open(file, indices=True)
        if read is None:
            return None
        array, header = read
        if header.channels != 1:
            note = f"has {header.channels} channels; accepted is one whole number per voxel"
            self.report(file, "error", "label_channels", note)
            return None
        differing = difference(header, self.found.header) if self.found.header is not None else None
        if differing:
            self.report(file, *differing)
        return self.values(file, array) if array is not None else None

    def map(self, name: str, file: str) -> None:
        """A map on the image's grid, such as saliency: one number per voxel."""
        read = self.open(file)
        if read is None:
            return
        array, header = read
        what = f"map {name!r}"
        if header.channels != 1:
            self.report(file, "error", "map_channels", f"{what} has {header.channels} channels; accepted is 1")
            return
        differing = difference(header, self.found.header) if self.found.header is not None else None
        if differing:
            severity, code, message = differing
            self.report(file, severity, code, f"{what}: {message}")
        if array is None:
            return
        found = intensities(array)
        problem = saliency_problem(array) if name in SALIENCY_MAPS else ""
        if found.non_finite:
            message = f"{what}: {found.non_finite} of {found.size} voxels are NaN or infinite; replace them on purpose"
            self.report(file, "error", "non_finite", message)
        elif problem:
            self.report(file, "error", "saliency", f"{what}: {problem}")
        if found.low == found.high:
            self.report(file, "warning", "constant", f"{what}: every voxel is {found.low:g}")

    def values(self, file: str, array: np.ndarray) -> Values:
        found = values(array)
        if found.fractional:
            what = f"{found.fractional} voxels are no whole numbers, such as {found.example:.7g}"
            self.report(file, "error", "non_integer", f"{what}; save labels as whole numbers")
        if found.rounded is not None:
            self.found.rounded.append((file, found.rounded))
        if self.grey_levels(file, found):
            return found
        unknown = [value for value in found.counts if value not in self.accepted]
        if unknown:
            voxels = sum(found.counts[value] for value in unknown)
            listed = ", ".join(map(str, unknown[:SHOWN]))
            if len(unknown) > SHOWN:
                listed += ", ..."
            names = {**self.manifest.labels, **self.manifest.value_names}
            accepted = ", ".join(f"{value} {name}" for value, name in names.items())
            what = f"{voxels} voxels have unknown values {listed}; known are {accepted}, and {self.ignored}"
            self.report(file, "error", "unknown_values", what)
        self.emptiness(file, found)
        return found

    def grey_levels(self, file: str, found: Values) -> bool:
        """Whether a label has grey levels of a mask in place of label values, which is told."""
        if file.lower().endswith(LOSSY):
            what = f"is a JPEG, which does not keep label values: it holds {len(found.counts)}"
        elif is_smeared(found.counts):
            what = grey_levels(len(found.counts))
        else:
            return False
        self.report(file, "error", "grey_levels", f"{what}; {NO_LOSS}")
        return True

    @property
    def ignored(self) -> str:
        return f"{self.manifest.ignore_index} to ignore"

    @property
    def no_structure(self) -> set[int]:
        """Values that are no structure: to ignore, and the background if there is one."""
        return self.accepted - set(self.manifest.structures)

    def emptiness(self, file: str, found: Values) -> None:
        present = set(found.counts)
        if present == {self.manifest.ignore_index}:
            self.report(file, "error", "all_ignored", f"every voxel is {self.ignored}: nothing can be learnt from it")
        elif present <= self.no_structure and not found.fractional:
            what = "has no voxel of any class"
            if self.manifest.ignore_index in present:
                what += f", only background and {self.ignored}; masks of 0 and 255 must be saved as 0 and 1"
            self.report(file, "warning", "empty", what)

    def tags(self, found: Values) -> None:
        told = self.manifest.presence(self.case)
        if told is None or self.case.label is None:
            return
        labelled = {
            self.manifest.index_of(value)
            for value, members in self.manifest.members.items()
            if set(members) & set(found.counts)
        }
        sides = contradicted_tags(told, labelled, self.manifest.covered(self.case))
        for what, classes in zip(("in the tags but not in the label", "in the label only"), sides, strict=True):
            if classes:
                names = ", ".join(self.manifest.classes[index] for index in classes)
                self.report(self.case.label, "warning", "tags", f"{names}: {what}")

    def named(self, classes: Sequence[int | str]) -> set[int]:
        """Classes given by value or by name, as values."""
        by_name = {name: value for value, name in self.manifest.labels.items()}
        return {by_name[c] if c in by_name else int(c) for c in classes}

    def values_of(self, classes: set[int]) -> set[int]:
        """The values in label files that belong to some classes."""
        return {member for value in classes for member in self.manifest.members.get(value, (value,))}

    def names(self, found: Sequence[int]) -> str:
        return ", ".join(self.manifest.labels[v] for v in found)


def difference(label: Header, image: Header) -> tuple[Severity, str, str] | None:
    """How a file's grid differs from its image's.

    Returns:
        (severity, code, message), or None where they are the same within rounding.
    """
    found = offset(image, label)
    if isinf(found.voxels):
        message = f"its shape is {_times(label.shape)}, the image's is {_times(image.shape)}"
        return "error", "shape", message + "; resample it to the image"
    if found.is_none:
        return None
    code = "affine" if np.allclose(sorted(label.spacing_mm), sorted(image.spacing_mm), rtol=1e-2) else "spacing"
    if found.is_taken:
        return "warning", code, f"{OFF_GRID} up to {found} from the image's: taken as if they lay on it"
    what = f"{OFF_GRID} up to {found} from the image's"
    if code == "spacing":
        what += f": its spacing is {_times(label.spacing_mm)} mm, the image's {_times(image.spacing_mm)} mm"
    return "error", code, f"{what}; accepted is {LARGEST_VOXELS:g} voxels at most; {RESAMPLE}"


OFF_GRID = "its corners lie"


def _times(numbers: tuple) -> str:
    return " x ".join(f"{n:.4g}" if isinstance(n, float) else str(n) for n in numbers)
