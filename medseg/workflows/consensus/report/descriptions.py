"""What the report says in words about a method, a rater, and a coefficient of agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

METHODS = {
    "gcssl": (
        "Raters count by how consistently their outlines follow the image. Where a rater left something out, "
        "the same rater's labels on similar tissue stand in. Voxels on which all agree are kept; the contradicted ones "
        "are decided together, so that boundaries are short and prefer edges of the image."
    ),
    "majority": "Each voxel got the label that most raters who annotated it gave; nobody counts more than another.",
    "staple": "Raters count by an estimate of their sensitivity and specificity, found together with the answer.",
    "ml-staple": "Raters count by an estimate of how they confuse classes, found together with the answer.",
    "simple": "Raters who differ much from the current estimate are dropped, round by round; the others vote.",
    "sba": "The outlines were averaged as distances to the boundary; nobody counts more than another.",
}

SAME_SIZE = 3.0
"""Per cent by which a volume may differ and still count as the same."""

FULLY_ANNOTATED = 0.995
"""Share of the region from which on an annotation counts as complete."""

LANDIS_AND_KOCH = (
    (0.0, "no better than chance"),
    (0.2, "slight"),
    (0.4, "fair"),
    (0.6, "moderate"),
    (0.8, "substantial"),
)
"""The largest kappa of each degree of agreement; above the last it is almost perfect."""


def describe_method(method: str) -> str:
    """One or two sentences on how a method decides; empty for one that has none here."""
    return METHODS.get(method, "")


def describe_rater(rater: dict[str, Any], metrics: dict[str, Any], weights: Sequence[float], annotated: float) -> str:
    """One sentence on a rater: weight, consistency with the image, size of the annotation, and completeness.

    Args:
        rater: entry of `raters` in the report.
        metrics: entry of `against_consensus` in the report.
        weights: of all raters.
        annotated: share of the labelled region that the rater annotated.
    """
    parts = [_describe_weight(float(rater["weight"]), weights)]
    if rater.get("kappa") is not None:
        parts.append(_describe_consistency(float(rater["kappa"])))
    difference = size_difference(metrics["overall"])
    if rater.get("empty"):
        parts.append("found nothing, which counts as a vote against every structure")
    elif difference is not None:
        parts.append(_describe_size(difference))
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
    mean = sum(weights) / len(weights)
    if max(weights) - min(weights) <= 0.02 * mean:
        return "counts like the others"
    if weight <= 0.05 * max(weights):
        return "hardly counts"
    if weight == max(weights):
        return "counts most"
    if weight == min(weights):
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


def _describe_size(difference: float) -> str:
    if abs(difference) <= SAME_SIZE:
        return "outlined as much as the consensus"
    direction = "more" if difference > 0 else "less"
    return f"outlined {abs(difference):.0f} % {direction} than the consensus"


def describe_agreement(value: float | None) -> str:
    """The usual words for kappa and alpha (Landis and Koch 1977), which are a convention and no more."""
    if value is None:
        return "cannot be computed"
    for limit, words in LANDIS_AND_KOCH:
        if value <= limit:
            return words
    return "almost perfect"
