"""What a pipeline makes of a data set before anything is planned: whole images to classify, or no background."""

from __future__ import annotations

from medseg.config.pipeline import Pipeline
from medseg.errors import ManifestError
from medseg.manifest.classification import classified
from medseg.manifest.contradictions import contradictions
from medseg.manifest.fields import first_of
from medseg.manifest.manifest import SECTIONS, Manifest


def taken_by(pipeline: Pipeline, manifest: Manifest) -> Manifest:
    """The data set as a pipeline takes it: with a class for each image, or, where it says so, without a background.

    Raises:
        ManifestError: it cannot be taken so.
    """
    if pipeline.classifies:
        return classified(manifest)
    if pipeline.data.get("has_background") is not False or not manifest.has_background:
        return manifest
    without = manifest.model_copy(update={"background": None})
    problems = list(contradictions(without, SECTIONS))
    if problems:
        raise ManifestError(first_of(problems), path=manifest.path, hint="data.has_background is false")
    return without
