"""What the figures of a fused study mean, in plain words."""

from __future__ import annotations

from typing import Any

METHODS = {
    "gcssl": (
        "Experts count by how consistently their outlines follow the image. Where an expert left something out, what "
        "the same expert drew on similar tissue stands in. Voxels on which all agree are kept; the contradicted ones "
        "are decided together, so that boundaries are short and prefer edges of the image."
    ),
    "majority": "Each voxel got the label that most experts who annotated it gave; nobody counts more than another.",
    "staple": "Experts count by an estimate of their sensitivity and specificity, found together with the answer.",
    "ml-staple": "Experts count by an estimate of how they confuse classes, found together with the answer.",
    "simple": "Experts who differ much from the current estimate are dropped, round by round; the others vote.",
    "sba": "The outlines were averaged as distances to the boundary; nobody counts more than another.",
}

SAME_SIZE = 3.0
"""Per cent by which a volume may differ and still count as the same."""

NOT_TO_TRUST = (
    "<b>Shared mistakes.</b> If most experts are wrong in the same way, every method follows them.",
    "<b>No contrast.</b> Where the image shows no edge, nothing tells experts apart; the result is close to a vote.",
    "<b>Consistent bias.</b> Somebody who always draws two millimetres too wide is consistent, and hardly punished.",
    "<b>Fine structures.</b> Short boundaries are preferred, less so where structures are thin; what is a voxel or two "
    "wide can still be lost. A lower smoothness keeps more of it.",
    "<b>Two experts.</b> With two there is no majority; where they contradict one another the image decides alone.",
    "<b>Confidence is not probability.</b> It is the share of the votes that the label won, not the chance of its "
    "being right.",
)


def about_method(method: str) -> str:
    """One or two sentences on how a method decides; empty for one that is not known here."""
    return METHODS.get({"voting-itk": "majority"}.get(method, method.removesuffix("-fast")), "")


def about_expert(row: dict[str, Any], table: dict[str, Any], rivals: list[float], region: float) -> str:
    """What is known of one expert.

    Args:
        row: of `experts` in the report.
        table: of `against_consensus` in the report.
        rivals: weights of all experts.
        region: share of the labelled region that the expert annotated.
    """
    words = [_trust(float(row["weight"]), rivals)]
    if row.get("kappa") is not None:
        words.append(_consistency(float(row["kappa"])))
    bias = size_against_consensus(table["overall"])
    if row.get("empty"):
        words.append("found nothing, which counts as a vote against every structure")
    elif bias is not None:
        words.append(_size(bias))
    if region < 0.995:
        words.append(f"annotated {region:.0%} of the region")
    return "; ".join(w for w in words if w) + "."


def size_against_consensus(overall: dict[str, Any]) -> float | None:
    """By how many per cent an expert's structures together are larger than the consensus."""
    whole = overall["consensus_ml"]
    return 100 * (overall["expert_ml"] / whole - 1) if whole else None


def _trust(weight: float, rivals: list[float]) -> str:
    if max(rivals) - min(rivals) <= 0.02 * sum(rivals) / len(rivals):
        return "counts like the others"
    if weight <= 0.05 * max(rivals):
        return "hardly counts"
    if weight == max(rivals):
        return "counts most"
    return "counts least" if weight == min(rivals) else "counts in between"


def _consistency(kappa: float) -> str:
    if kappa >= 0.8:
        return "the outlines follow the image very consistently"
    if kappa >= 0.5:
        return "the outlines follow the image fairly consistently"
    if kappa >= 0.2:
        return "the outlines follow the image only loosely"
    return "the outlines have little to do with what the image shows"


def _size(bias: float) -> str:
    if abs(bias) <= SAME_SIZE:
        return "draws as much as the consensus"
    return f"draws {abs(bias):.0f} % {'more' if bias > 0 else 'less'} than the consensus"


def about_agreement(value: float | None) -> str:
    """The usual words for kappa and alpha (Landis and Koch), which are a convention and no more."""
    if value is None:
        return "cannot be computed"
    steps = ((0.0, "no better than chance"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
    return next((word for limit, word in steps if value <= limit), "almost perfect")
