"""What the report says in words about a method and about a rater."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

METHODS = {
    "gcssl": (
        "Raters count by how far they agree with the panel and how consistently their outlines follow the image. What "
        "several drew and another overlooked counts for more than votes against it, as far as such omissions are "
        "independent of one another. Where one vote would decide, the boundary is the mean of outlines that lie near "
        "one another. Where a rater left something out, "
        "the same rater's labels on similar tissue stand in. Voxels on which all agree are kept; the contradicted ones "
        "are decided together, so that boundaries are short and prefer edges of the image."
    ),
    "majority": "Each voxel got the label that most raters who annotated it gave; nobody counts more than another.",
    "staple": "Raters count by an estimate of their sensitivity and specificity, found together with the answer.",
    "ml-staple": "Raters count by an estimate of how they confuse classes, found together with the answer.",
    "simple": "Raters who differ much from the current estimate are dropped, round by round; the others vote.",
    "sba": "The outlines were averaged as distances to the boundary; nobody counts more than another.",
}

FULLY_ANNOTATED = 0.995
"""Share of the region from which on an annotation counts as complete."""
ALIKE = 0.02
"""Relative difference of weights that says nothing. With other seeds of the forest a weight has a standard deviation of
up to 0.4 % (five seeds; panels of vessels, atria and abdomens), and two weights differ by more than one of them."""


def describe_method(method: str) -> str:
    """One or two sentences on how a method decides; empty for one that has none here."""
    return METHODS.get(method, "")


def describe_rater(rater: dict[str, Any], weights: Sequence[float], annotated: float) -> str:
    """One sentence on a rater: weight, consistency with the image, and completeness.

    Args:
        rater: entry of `raters` in the report.
        weights: of all raters.
        annotated: share of the labelled region that the rater annotated.
    """
    parts = [_describe_weight(float(rater["weight"]), weights)]
    if rater.get("kappa") is not None:
        parts.append(_describe_consistency(float(rater["kappa"])))
    if rater.get("empty"):
        parts.append("found nothing, which counts as a vote against every structure")
    if annotated < FULLY_ANNOTATED:
        parts.append(f"annotated {annotated:.0%} of the region")
    return "; ".join(parts) + "."


def size_difference(overall: dict[str, Any]) -> float | None:
    """By how many per cent a rater's structures together are larger than the consensus; None where it is empty."""
    consensus = overall["consensus_ml"]
    if not consensus:
        return None
    return float(100 * (overall["rater_ml"] / consensus - 1))


def _describe_weight(weight: float, weights: Sequence[float]) -> str:
    most, least = max(weights), min(weights)
    if most - least <= ALIKE * most:
        return "counts like the others"
    if weight <= 0.05 * most:
        return "hardly counts"
    if weight >= (1 - ALIKE) * most:
        with_most = sum(each >= (1 - ALIKE) * most for each in weights)
        return "counts most" if with_most == 1 else f"is one of {with_most} who count most"
    if weight == least:
        return "counts least"
    return "counts in between"


def _describe_consistency(kappa: float) -> str:
    if kappa >= 0.8:
        return "the outlines follow the image very consistently"
    if kappa >= 0.5:
        return "the outlines follow the image fairly consistently"
    if kappa >= 0.2:
        return "the outlines follow the image only loosely"
    return "the outlines have little to do with what the image shows"
