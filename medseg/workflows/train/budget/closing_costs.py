"""What is done after the last step of a training: the facts that a bundle keeps, pictures, and the page."""

from __future__ import annotations

import time

from medseg.config.pipeline import DataSpec
from medseg.workflows.train.budget.measure_costs import Workplace, typical_case
from medseg.workflows.train.facts.measure import cases_to_open, measure_image, measure_label
from medseg.workflows.train.postprocessing.run import MOST_PICTURES, draw_validation_case
from medseg.workflows.train.self_training.validation_scores import read_reference

PAGE_SECONDS = 4.0
"""To import the library that draws, and for curves and page."""


def measure_closing(place: Workplace) -> float:
    """Seconds from the export of the bundle until the command ends, without the predictions of validation cases.

    Args:
        place: the pipeline, its data and folders.

    Raises:
        DataError: a file that cannot be read.
    """
    manifest, data = place.manifest, DataSpec(**place.pipeline.data)
    labelled, images = cases_to_open(place.pipeline, manifest, data)
    seconds = PAGE_SECONDS
    for cases, opened in ((labelled, measure_label), (images, measure_image)):
        if cases:
            case, share = typical_case(manifest, cases)
            began = time.monotonic()
            opened(manifest, case)
            seconds += len(cases) * share * (time.monotonic() - began)
    validation = [case for case in manifest.validation if case.label]
    if validation and place.pipeline.postprocessing == "auto":
        case, share = typical_case(manifest, validation)
        reference = read_reference(manifest, case)
        picture = place.scratch / "picture.png"
        draw_validation_case(picture, manifest, case, reference, reference)  # the first one imports the library
        began = time.monotonic()
        draw_validation_case(picture, manifest, case, reference, reference)
        seconds += min(len(validation), MOST_PICTURES) * share * (time.monotonic() - began)
    return seconds
