"""A figure of classified images that a generation adds to the labelled ones: some of each class, of each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from medseg.manifest.manifest import Case, Manifest
from medseg.portable.io.read import read_header
from medseg.workflows.reports.overlay import BACKGROUND, FOREGROUND, encode_png, show_stored
from medseg.workflows.train.self_training.labelling.pseudo_label_statistics import Counts
from medseg.workflows.train.self_training.report.label_sheet import picture_of
from medseg.workflows.train.self_training.report.map_slices import evenly_chosen

SHOWN = 8
"""Images of each class and round."""

Added = Mapping[str, tuple[int, Sequence[Sequence[Path]]]]
"""Class -> how many images of it a rule added, and the files of some of them."""


def choose_added(manifest: Manifest, cases: Sequence[Case], counts: Mapping[str, Counts]) -> Added:
    """Some of the images that a rule gave each class, evenly chosen; none where no whole images have classes.

    Args:
        manifest: of the images.
        cases: that were to be labelled.
        counts: name of a case that got a label -> what was counted of it.
    """
    if all(case.image_class is None for case in manifest.training):
        return {}
    of_class: dict[str, list[Case]] = {name: [] for name in manifest.classes}
    for case in cases:
        if case.name in counts:
            index = int(np.argmax(counts[case.name]["fused"]))
            of_class[manifest.classes[index]].append(case)
    chosen = {}
    for name, found in of_class.items():
        chosen[name] = (len(found), [manifest.images(case) for case in evenly_chosen(found, SHOWN)] if found else [])
    return chosen


def draw_added_images(rounds: Mapping[int, Added]) -> bytes:
    """PNG: for each class a row of each round, with some of the images that the round adds.

    Args:
        rounds: number of a round -> what it adds.

    Raises:
        DataError: an image that cannot be read.
    """
    classes = list(next(iter(rounds.values())))
    rows = [(name, number) for name in classes for number in rounds]
    figure = Figure(figsize=(1.1 * SHOWN + 1.6, 1.1 * len(rows)), dpi=80, layout="constrained")
    figure.set_facecolor(BACKGROUND)
    axes = figure.subplots(len(rows), SHOWN, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for row, (name, number) in zip(axes, rows, strict=True):
        count, files = rounds[number][name]
        row[0].set_title(f"{name}, round {number}: {count}", fontsize=7, color=FOREGROUND, loc="left")
        for ax, images in zip(row, files, strict=False):
            middle = read_header(images[0]).shape[2] // 2
            show_stored(ax, picture_of(images, middle))
    return encode_png(figure)
