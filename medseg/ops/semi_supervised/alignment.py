"""Distribution alignment: what a network says of unlabelled images gets the shares of the classes that it should have.

C. Wei, K. Sohn, C. Mellina, A. Yuille, F. Yang: CReST: A Class-Rebalancing Self-Training Framework for Imbalanced
Semi-Supervised Learning, CVPR 2021, 10857-10866; arXiv 2102.09559.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medseg.ops.processes import gather_from_processes
from medseg.ops.semi_supervised.confidence_bank import class_fractions

UNLIKE = 3
"""Factor between the shares of a class in labels and predictions from which on alignment may do harm."""


NOT_ALIGNED = (
    "nothing is aligned: the shares of the classes are not known, since no patch whose label covers all of them was "
    "drawn as unlabelled ones are; that takes data.foreground below 1 and another data.sampling than classes"
)
"""Warning of a training whose sampler goes by the classes of labels alone."""


def alignment_exponent(generation: int, last: int, least: float) -> float:
    """Exponent t of a generation, from 1 in the first to `least` in the last; 1 where there is one alone."""
    if last == 0:
        return 1.0
    return 1 - generation / last * (1 - least)


def alignment_target(shares: Tensor, exponent: float) -> Tensor:
    """Shares of the classes to a power, normalised; with an exponent of 0 all classes that occur are alike."""
    flat = torch.where(shares > 0, shares.clamp(min=1e-12) ** exponent, 0)
    return flat / flat.sum()


def shares_in_predictions(probabilities: Tensor, inside: Tensor | None = None) -> Tensor:
    """Shares of the classes in what is predicted of the batch of all processes, `(classes,)`.

    Args:
        probabilities: `(B, classes, *spatial)`.
        inside: `(B, 1, *spatial)` bool, what shows the images; None: everything.
    """
    axes = tuple(range(2, probabilities.ndim))
    if inside is None:
        of_images = probabilities.mean(axes)
    else:
        of_images = (probabilities * inside).sum(axes) / inside.sum(axes).clamp(min=1)
    return gather_from_processes(of_images).mean(0)


def shares_in_labels(labeled: Mapping[str, Tensor], classes: int) -> Tensor | None:
    """Shares of the classes in the labels of the batch of all processes, `(classes,)`; None: no label tells them.

    Labels tell them that people made and that cover every class, of patches drawn as unlabelled ones are.

    Args:
        labeled: what the batch has of labelled images.
        classes: number of classes with background.
    """
    shares = class_fractions(labeled["label"], classes)
    counted = shares.sum(1) > 0
    if "evenly" in labeled:
        counted = counted & labeled["evenly"]
    if "predicted" in labeled:
        counted = counted & ~labeled["predicted"]
    if "covered" in labeled:
        counted = counted & labeled["covered"].all(1)
    shares, counted = gather_from_processes(shares), gather_from_processes(counted)
    return shares[counted].mean(0) if bool(counted.any()) else None


def align(probabilities: Tensor, target: Tensor, predicted: Tensor) -> Tensor:
    """Give `q (target / p_model)`, normalised.

    Args:
        probabilities: q, `(B, classes, *spatial)`.
        target: `(classes,)`.
        predicted: p_model, `(classes,)`.
    """
    ratio = (target + 1e-6) / (predicted + 1e-6)
    moved = probabilities * ratio.view(1, -1, *[1] * (probabilities.ndim - 2))
    return moved / moved.sum(1, keepdim=True)


def describe_unlike(names: Sequence[str], labelled: Tensor, predicted: Tensor) -> str | None:
    """A warning of the classes whose share in predictions is quite another than in labels; None: there are none.

    Args:
        names: of the classes.
        labelled: their shares in labels, `(classes,)`; a class of which there is none is not compared; all 0: they are
            not known, of which it warns too.
        predicted: the same in predictions.
    """
    if not bool(labelled.any()):
        return NOT_ALIGNED
    found = []
    for name, ours, theirs in zip(names, labelled.tolist(), predicted.tolist(), strict=True):
        if ours > 0 and max(ours, theirs) > UNLIKE * min(ours, theirs):
            found.append(f"{name} {theirs:.2g} instead of {ours:.2g}")
    if not found:
        return None
    return (
        "alignment assumes that unlabelled images have the classes in the shares of the labels; predicted is "
        f"{', '.join(found)}: without alignment it is CReST, which does not assume so"
    )
