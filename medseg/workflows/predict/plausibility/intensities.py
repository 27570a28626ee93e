"""Images whose intensities are of another kind than those of training.

Compared is what the network sees. Images of MR have no unit, and a network that z-scores them sees the same whatever
their scale and offset, so that of these only the shape of the distribution is compared, and only in the one direction
in which scanners and fields of view do not differ: more background makes an image darker as a whole, but nothing that
is ordinary makes it as bright as inverting it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.bundle.training_facts import ChannelFacts, measures
from medseg.config.pipeline import DataSpec, Intensity
from medseg.workflows.predict.plausibility.finding import Finding, number

BRIGHTER = 0.4
"""By how much an image may be brighter than the brightest of training, of 1. Heart images of two kinds of MR (ACDC, LA)
differ by at most 0.4; inverting one of ACDC makes it brighter by 0.6."""

LESS_CONTRAST = 0.1
"""Of the image of training with the least: below, an image was rescaled."""

AIR_HU = -500.0
"""CT in Hounsfield units shows air, about -1000, in more than 1 % of the voxels; no other kind has such values."""


def intensity_findings(
    percentiles: Sequence[np.ndarray], data: DataSpec, channels: Sequence[ChannelFacts], *, is_cut: bool
) -> list[Finding]:
    """What is of another kind.

    Args:
        percentiles: of each channel of the image, see `training_facts.percentiles_of`.
        data: of the model.
        channels: what the model keeps of its training images.
        is_cut: whether the image shows much less than those of training: it may lack air, and be bright as a whole.
    """
    findings = []
    for index, (found, rule, facts) in enumerate(zip(percentiles, data.intensities, channels, strict=True)):
        name = "" if len(channels) == 1 else f"channel {index} ({data.modality[index]})"
        problem = _problem(found, rule, facts, is_cut=is_cut)
        if problem is not None:
            where = f"{name} has " if name else "has "
            findings.append(Finding("intensities", name, where + problem))
    return findings


def _problem(found: np.ndarray, rule: Intensity, facts: ChannelFacts, *, is_cut: bool) -> str | None:
    """What is odd about a channel, as a phrase after "has"; None: nothing."""
    of_kind = _other_unit(found, facts, is_cut=is_cut)
    if of_kind is not None:
        return of_kind
    bright, contrast = measures(found, rule)
    if facts.contrast is not None and contrast is not None:
        problem = _other_scale(found, contrast, rule, facts)
        if problem is not None:
            return problem
    elif found[-1] <= found[0] and facts.percentiles["99"].smallest > facts.percentiles["1"].largest:
        return f"the intensity {number(found[0])} nearly everywhere"
    if facts.brightness is None or bright is None or is_cut:
        return None
    if bright > facts.brightness.largest + BRIGHTER:
        return (
            f"a brightness of {bright:.2f} (0 dark, 1 bright), at most {facts.brightness.largest:.2f} in training: "
            "inverted, or of another kind?"
        )
    return None


def _other_unit(found: np.ndarray, facts: ChannelFacts, *, is_cut: bool) -> str | None:
    """Hounsfield units where training had none, or none where it had them."""
    trained = facts.percentiles["1"]
    values = f"intensities of {number(found[0])} to {number(found[-1])} (1st to 99th percentile)"
    if found[0] <= AIR_HU and trained.smallest > AIR_HU:
        return f"{values}, as of CT in Hounsfield units; training had none"
    if found[0] >= 0 and trained.largest <= AIR_HU and not is_cut:
        low, high = trained.median, facts.percentiles["99"].median
        return f"{values}, training {number(low)} to {number(high)}: no Hounsfield units?"
    return None


def _other_scale(found: np.ndarray, contrast: float, rule: Intensity, facts: ChannelFacts) -> str | None:
    """Hardly any contrast on a scale that is fixed, or far too much."""
    assert facts.contrast is not None
    low, high = facts.percentiles["1"].median, facts.percentiles["99"].median
    too_little = contrast < LESS_CONTRAST * facts.contrast.smallest
    too_much = rule.kind == "fixed" and contrast * LESS_CONTRAST > facts.contrast.largest
    if not (too_little or too_much):
        return None
    return (
        f"intensities of {number(found[0])} to {number(found[-1])} (1st to 99th percentile), "
        f"training {number(low)} to {number(high)}: another scale?"
    )
