"""Sizes of structures, intensities and fields of view of the images that a model learnt from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medseg import methods
from medseg.bundle.training_facts import (
    PERCENTILES,
    ChannelFacts,
    Spread,
    StructureFacts,
    measures,
    percentiles_of,
)
from medseg.config.pipeline import DataSpec, Pipeline
from medseg.manifest.labelling import is_pseudo
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.method import IGNORE
from medseg.planning.fingerprint import along_ras_axes
from medseg.portable.io.read import read_header, read_volume
from medseg.workflows.train.self_training.validation_scores import read_reference

LABELS, IMAGES = 200, 40
"""Cases that are opened at most, evenly spread over all."""

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Files that do not say how large a pixel is."""

Tell = Callable[[int, int], None]


def measure(pipeline: Pipeline, manifest: Manifest, data: DataSpec, tell: Tell) -> dict[str, Any]:
    """Open labels and images that the pipeline learns from.

    Args:
        pipeline: resolved.
        manifest: the data set, as it was before any rule labelled cases.
        data: what the plan decided about the data.
        tell: called with how many files are done, and of how many.

    Returns:
        Fields of `TrainingFacts`.

    Raises:
        DataError: a file that cannot be read.
    """
    labelled, images = cases_to_open(pipeline, manifest, data)
    total = len(labelled) + len(images)
    has_spacing = not any(_is_picture(case) for case in images)
    unit = "ml" if has_spacing else "share"
    sizes = StructureSizes(manifest, unit)
    for done, case in enumerate(labelled):
        tell(done, total)
        sizes.add(case)
    percentiles, spacings, lengths = [], [], []
    for done, case in enumerate(images, len(labelled)):
        tell(done, total)
        percentiles.append(measure_image(manifest, case))
        spacing, shape = along_ras_axes(read_header(manifest.images(case)[0]))
        spacings.append(spacing)
        lengths.append(np.multiply(spacing, shape))
    return {
        "unit": unit,
        "structures": sizes.facts(),
        "channels": _channels(np.array(percentiles), data, photographs=manifest.shows_colours),
        "field_of_view_mm": _spreads(lengths) if has_spacing else (),
        "spacing_mm": _spreads(spacings) if has_spacing else (),
    }


def cases_to_open(pipeline: Pipeline, manifest: Manifest, data: DataSpec) -> tuple[list[Case], list[Case]]:
    """The cases whose labels, and those whose images are measured."""
    streams = cases_by_stream(pipeline, manifest)
    labelled = evenly_spread(_measurable(streams.get("labeled", []), manifest, data), LABELS)
    return labelled, evenly_spread([case for cases in streams.values() for case in cases], IMAGES)


def cases_by_stream(pipeline: Pipeline, manifest: Manifest) -> dict[str, list[Case]]:
    """The cases that any stage learns from or labels: "labeled", "weak" and "unlabeled", as far as they are used."""
    used: set[str] = set()
    for stage in pipeline.stages:
        used |= {stream.name for stream in methods.find_streams(stage.method.name, stage.method.options)}
        for labelling in (stage.rounds, stage.then):
            used |= set(labelling.cases) if labelling is not None else set()
    found = streams_of(manifest)
    if "all" in used:
        used |= set(found)
    return {name: found[name] for name in ("labeled", "weak", "unlabeled") if name in used}


def _measurable(cases: Sequence[Case], manifest: Manifest, data: DataSpec) -> list[Case]:
    """Cases whose label says how large structures are: none of photographs, whose objects are near or far."""
    if data.target == "images" or manifest.shows_colours:
        return []
    return [case for case in cases if case.label is not None and not is_pseudo(case)]


def evenly_spread(cases: Sequence[Case], most: int) -> list[Case]:
    """At most so many, evenly spread."""
    if len(cases) <= most:
        return list(cases)
    return [cases[index] for index in np.linspace(0, len(cases) - 1, most).round().astype(int)]


def _is_picture(case: Case) -> bool:
    return case.image[0].lower().endswith(PICTURES)


class StructureSizes:
    """The sizes of structures, label after label.

    Args:
        manifest: the data set.
        unit: "ml" or "share", see `TrainingFacts.unit`.
    """

    def __init__(self, manifest: Manifest, unit: str) -> None:
        self.manifest, self.unit = manifest, unit
        self.sizes: dict[int, list[float]] = {value: [] for value in manifest.structures}
        self.subjects: dict[int, set[str]] = {value: set() for value in manifest.structures}

    def add(self, case: Case) -> None:
        """Measure a label; one that leaves a part of the image out says nothing of whole structures."""
        counts = measure_label(self.manifest, case)
        if counts[IGNORE]:
            return
        affine = read_header(self.manifest.images(case)[0]).affine
        unit_size = abs(float(np.linalg.det(affine[:3, :3]))) / 1000 if self.unit == "ml" else 1 / counts.sum()
        covered = self.manifest.covered(case) or (True,) * len(self.manifest.labels)
        index_of = {value: index for index, value in enumerate(self.manifest.label_values)}
        for value, members in self.manifest.members.items():
            if not covered[index_of[value]]:
                continue
            count = sum(int(counts[index_of[member]]) for member in members)
            self.sizes[value].append(count * unit_size)
            if count:
                self.subjects[value].add(case.subject or case.name)

    def facts(self) -> dict[int, StructureFacts]:
        """What all labels together say; structures that none tells apart are missing."""
        found = {}
        for value, sizes in self.sizes.items():
            there = [size for size in sizes if size > 0]
            if sizes:
                found[value] = StructureFacts(
                    cases=len(sizes),
                    absent=len(sizes) - len(there),
                    subjects=len(self.subjects[value]),
                    size=Spread.of(there) if there else None,
                )
        return found


def measure_label(manifest: Manifest, case: Case) -> np.ndarray:
    """Voxels of each class index in a label, `(256,)`; 255 where nobody labelled."""
    return np.bincount(read_reference(manifest, case).ravel(order="K"), minlength=IGNORE + 1)


def measure_image(manifest: Manifest, case: Case) -> list[np.ndarray]:
    """Percentiles of each channel of an image, as it is stored."""
    found = []
    for path in manifest.images(case):
        found += [percentiles_of(channel) for channel in read_volume(path)[0]]
    return found


def _channels(percentiles: np.ndarray, data: DataSpec, *, photographs: bool) -> tuple[ChannelFacts, ...]:
    """What images say of each channel.

    Args:
        percentiles: `(images, channels, 5)`.
        data: of the model.
        photographs: whether they are in colour.
    """
    found = []
    for channel, rule in enumerate(data.intensities if len(percentiles) else ()):
        of_images = percentiles[:, channel]
        compared = [measures(each, rule, photograph=photographs) for each in of_images]
        bright = [value for value, _ in compared if value is not None]
        contrast = [value for _, value in compared if value is not None]
        spreads = {str(q): Spread.of(of_images[:, number]) for number, q in enumerate(PERCENTILES)}
        found.append(
            ChannelFacts(
                images=len(of_images),
                percentiles=spreads,
                brightness=Spread.of(bright) if bright else None,
                contrast=Spread.of(contrast) if contrast else None,
            )
        )
    return tuple(found)


def _spreads(rows: Sequence[Any]) -> tuple[Spread, ...]:
    """Of each of three axes."""
    return tuple(Spread.of(column) for column in np.array(rows).T)
