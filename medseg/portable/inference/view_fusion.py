"""One label map from the label maps of several views, and where the views agree.

The rule of the vote: the label that most views give; of labels with equally many votes the one whose most confident
supporter is the most confident; of what is equal still, the smallest label. With three views that is: two of three, and
where all differ the label of the largest probability that any view gives to any class. That largest one is always some
view's own largest, so a view's label and its probability are all that needs to be kept of it: three bytes a voxel
instead of four for each class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .restore_grid import channel_argmax

BLOCK = 2**18  # voxels at a time: what is computed of them stays in the cache


def fuse_votes(labels: Sequence[Tensor], confidences: Sequence[Tensor], silent: int | None = None) -> Tensor:
    """Plurality of the views, ties to the most confident one.

    Args:
        labels: for each view `(*spatial)` uint8, or all of them in one tensor `(V, *spatial)`.
        confidences: likewise float16 in [0, 1], the probability of each of these labels.
        silent: a label that views give without a vote for it: it is the answer only where all of them give it.

    Returns:
        `(*spatial)` uint8, in the memory layout of the first view's.

    Raises:
        ValueError: the views are of different shapes, or not one confidence for each label.
    """
    _same_shape([*labels, *confidences])
    if len(labels) != len(confidences) or any(c.dtype != torch.float16 for c in confidences):
        raise ValueError(f"{len(labels)} views need as many float16 confidences")
    fused = torch.empty_like(labels[0])
    for here in _blocks(fused):
        votes = [here(label) for label in labels]
        agreeing = _count_agreeing(votes)
        confidences_here = [here(confidence) for confidence in confidences]
        if silent is not None:  # the smallest of keys: no supporter, no confidence
            for view, vote in enumerate(votes):
                confidences_here[view] = confidences_here[view].masked_fill(vote == silent, 0)
                agreeing[view] = agreeing[view].masked_fill(vote == silent, 0)
        here(fused).copy_(_winner(votes, agreeing, confidences_here))
    return fused


def _count_agreeing(votes: Sequence[Tensor]) -> list[Tensor]:
    """For each view the number of others that give the same label, uint8."""
    agreeing = [torch.zeros_like(votes[0]) for _ in votes]
    for view, vote in enumerate(votes):
        for other in range(view):
            same = vote == votes[other]
            agreeing[view] += same
            agreeing[other] += same
    return agreeing


def _winner(votes: Sequence[Tensor], agreeing: Sequence[Tensor], confidences: Sequence[Tensor]) -> Tensor:
    """The label of the largest of (votes, confidence, smallness of the label), packed into one number.

    The bits of floating-point numbers that are not negative are ordered as the numbers are. The most confident
    supporter of a label speaks for all of them, so that no view needs to know the others' confidences.
    """
    best: Tensor | None = None
    for vote, others, confidence in zip(votes, agreeing, confidences, strict=True):
        key = others.int().bitwise_left_shift_(24)
        key += confidence.view(torch.int16).int().bitwise_left_shift_(8)
        key += 255 - vote.int()
        best = key if best is None else torch.maximum(best, key, out=best)
    assert best is not None
    return 255 - best.bitwise_and_(255)


def unanimous(labels: Sequence[Tensor]) -> Tensor:
    """Where all views give the same label, bool `(*spatial)`."""
    _same_shape(labels)
    found = torch.ones_like(labels[0], dtype=torch.bool)
    for other in labels[1:]:
        found &= other == labels[0]
    return found


def all_differ(labels: Sequence[Tensor]) -> Tensor:
    """Where no two views give the same label, bool `(*spatial)`."""
    _same_shape(labels)
    found = torch.ones_like(labels[0], dtype=torch.bool)
    for view, label in enumerate(labels):
        for other in labels[:view]:
            found &= label != other
    return found


def all_confident(labels: Sequence[Tensor], confidences: Sequence[Tensor], label: int, least: float) -> Tensor:
    """Where every view gives this label with at least this probability, bool `(*spatial)`.

    Args:
        labels: as for `fuse_votes`.
        confidences: as for `fuse_votes`.
        label: which one.
        least: probability in [0, 1].

    Raises:
        ValueError: the views are of different shapes.
    """
    _same_shape([*labels, *confidences])
    found = torch.ones_like(labels[0], dtype=torch.bool)
    for of_view, confidence in zip(labels, confidences, strict=True):
        found &= (of_view == label) & (confidence >= least)
    return found


def fuse_mean(probabilities: Sequence[Tensor | np.ndarray], mean: np.ndarray | None = None) -> Tensor:
    """The class of the largest mean probability, the first of equals; not the vote.

    Args:
        probabilities: for each view `(C, *spatial)`, uint8 in steps of 1/255 or floating point; may be memory-mapped,
            of which a few planes at a time are looked at.
        mean: of views in uint8, gets their mean, whose first maximum is the class at every voxel; None: not wanted.

    Returns:
        `(*spatial)` uint8 class indices.

    Raises:
        ValueError: the views are of different shapes; unless Python runs with `-O`, also probabilities that do not sum
            to 1.
    """
    maps = [torch.as_tensor(each) for each in probabilities]
    _same_shape(maps)
    fused = torch.empty_like(maps[0][0], dtype=torch.uint8)
    for here in _blocks(fused, BLOCK // len(maps[0]) + 1):
        total: Tensor | None = None
        for of_view in maps:
            part = torch.stack([here(channel) for channel in of_view])
            if __debug__:
                _check_sums(part)
            part = part.int() if part.dtype == torch.uint8 else part.float()
            total = part if total is None else total.add_(part)
        assert total is not None
        winner = channel_argmax(total)
        here(fused).copy_(winner)
        if mean is not None:
            stored = _mean_bytes(total, len(maps), winner)
            for channel, of_class in enumerate(torch.from_numpy(mean)):
                here(of_class).copy_(stored[channel])
    return fused


def _mean_bytes(total: Tensor, count: int, winner: Tensor) -> Tensor:
    """Rounded means of `count` bytes, uint8; where rounding makes equals, the winner gets one step more."""
    stored = ((2 * total + count) // (2 * count)).to(torch.uint8)
    raised = (channel_argmax(stored) != winner).to(torch.uint8)
    return stored.scatter_add_(0, winner.long()[None], raised[None])


def _check_sums(part: Tensor) -> None:
    """Each byte was rounded by up to half a step, and one may have been raised by a step."""
    if not part.numel():
        return
    whole, tolerance = 1.0, 0.01
    if part.dtype == torch.uint8:
        whole, tolerance = 255.0, len(part) / 2 + 1
    off = float((part.float().sum(0) - whole).abs().max())
    if not off <= tolerance:  # NaN too
        raise ValueError(f"the probabilities of a view do not sum to 1: {off / whole:.3g} is missing or too much")


def _same_shape(views: Sequence[Tensor]) -> None:
    shapes = {tuple(view.shape) for view in views}
    if len(shapes) != 1:
        found = ", ".join(str(shape) for shape in sorted(shapes)) or "nothing"
        raise ValueError(f"the views are of different shapes: {found}")


class _Block:
    """Takes the same part of every tensor that is asked of it."""

    def __init__(self, axis: int, start: int, length: int) -> None:
        self.axis, self.start, self.length = axis, start, length

    def __call__(self, volume: Tensor) -> Tensor:
        return volume.narrow(self.axis, self.start, self.length)


def _blocks(volume: Tensor, voxels: int = BLOCK) -> Iterator[_Block]:
    """Parts that lie together in memory: along the axis of the largest stride."""
    axis = max(range(volume.ndim), key=volume.stride)
    size = volume.shape[axis]
    step = max(1, voxels * size // max(1, volume.numel()))
    for start in range(0, size, step):
        yield _Block(axis, start, min(step, size - start))
