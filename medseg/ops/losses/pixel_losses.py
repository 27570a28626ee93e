"""The supervised terms that all methods share: Dice, and cross-entropy or what a paper puts in its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_type_hints

from torch import Tensor

from medseg.method import Clock, Networks
from medseg.ops.losses import segmentation as losses
from medseg.ops.losses.hard_examples import HardExampleLoss
from medseg.ops.losses.locally_adaptive import LocallyAdaptiveLoss
from medseg.options import typed
from medseg.portable.regions import Members, region_cross_entropy, region_dice

PixelLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Logits `(B, classes, *spatial)`, label `(B, 1, *spatial)`, covered `(B, classes)` or None -> scalar."""

SIGMOID = "binary_cross_entropy"

PIXEL_LOSSES = ("cross_entropy", SIGMOID, "locally_adaptive", "hard_examples")

KNOWN = ("spatial_dims", "labels", "spacing_mm")
"""Keywords of losses that are no options, since the data say them."""

_PLAIN: dict[str, PixelLoss] = {
    "cross_entropy": losses.cross_entropy,
    SIGMOID: losses.binary_cross_entropy,
}


def pixel_loss(
    name: str,
    spatial_dims: int,
    options: Mapping[str, Any] | None = None,
    *,
    labels: Sequence[str] = (),
    spacing_mm: Sequence[float] = (),
) -> PixelLoss:
    """A loss by its name.

    Args:
        name: one of `PIXEL_LOSSES`.
        spatial_dims: 2 or 3.
        options: keywords of `medseg.ops.losses.locally_adaptive.LocallyAdaptiveLoss`, or of
            `medseg.ops.losses.hard_examples.HardExampleLoss`.
        labels: names of the classes, background first; for options that name them.
        spacing_mm: of voxels along each axis; for options in millimetres.

    Raises:
        ConfigError: an option of another type.
        ValueError: an unknown loss or option, or a value that it refuses.
    """
    given = dict(options or {})
    if name not in PIXEL_LOSSES:
        raise ValueError(f"loss {name!r} is not known; one of {', '.join(PIXEL_LOSSES)}")
    if name in _PLAIN:
        if given:
            raise ValueError(f"loss {name} has no options, got {', '.join(given)}")
        return _PLAIN[name]
    if name == "hard_examples":
        return HardExampleLoss(**_checked(HardExampleLoss, given, name))
    checked = _checked(LocallyAdaptiveLoss, given, name)
    return LocallyAdaptiveLoss(spatial_dims, labels=labels, spacing_mm=spacing_mm, **checked)


def _checked(kind: Callable[..., PixelLoss], given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Options that a loss has, of the types that it asks for."""
    accepted = [each for each in inspect.signature(kind).parameters if each not in KNOWN]
    unknown = sorted(set(given) - set(accepted))
    if unknown:
        raise ValueError(f"loss {name} has no option {unknown[0]!r}; it has {', '.join(accepted)}")
    return typed(given, get_type_hints(vars(kind)["__init__"]), f"loss {name}")


class SupervisedTerms:
    """Dice and a pixel loss of labelled images, with their weights.

    Args:
        networks: of the method; the background has no Dice term.
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy, or of the loss that takes its place.
        loss: one of `PIXEL_LOSSES`.
        loss_options: keywords of that loss.
        sigmoid: whether the method can make its probabilities by a sigmoid for each class, as `SIGMOID` wants it, and
            not by a softmax alone.

    Raises:
        ConfigError, ValueError: as `pixel_loss`; `SIGMOID` of a method with a softmax.
    """

    def __init__(
        self,
        networks: Networks,
        *,
        dice: float,
        cross_entropy: float,
        loss: str,
        loss_options: Mapping[str, Any] | None,
        sigmoid: bool = False,
    ) -> None:
        if loss == SIGMOID and not sigmoid:
            accepted = ", ".join(each for each in PIXEL_LOSSES if each != SIGMOID)
            raise ValueError(
                f"loss {SIGMOID} is for a sigmoid for each class, and this method has a softmax: {accepted}"
            )
        self.has_background = networks.has_background
        self.dice, self.cross_entropy, self.name = dice, cross_entropy, loss
        self.loss = pixel_loss(
            loss, networks.spatial_dims, loss_options, labels=networks.labels, spacing_mm=networks.spacing_mm
        )

    def __call__(
        self, logits: Tensor, label: Tensor, covered: Tensor | None = None, clock: Clock | None = None
    ) -> dict[str, Tensor]:
        """Terms `dice`, and `cross_entropy` or the name of the loss in its place.

        Args:
            logits: as in `PixelLoss`, like `label` and `covered`.
            label: class indices.
            covered: the classes that each label covers.
            clock: where in the run it is, for losses that begin otherwise than they go on; None: at its end.
        """
        loss = self.loss
        if clock is not None and isinstance(loss, LocallyAdaptiveLoss):
            loss = partial(loss, fraction=clock.fraction)
        return {
            "dice": self.dice * losses.soft_dice(logits, label, covered, has_background=self.has_background),
            self.name: self.cross_entropy * loss(logits, label, covered),
        }


class RegionTerms:
    """Dice and cross-entropy of a sigmoid for each of several regions, which overlap, with their weights.

    Args:
        members: of each region the class indices in a label.
        dice: weight of the Dice term.
        cross_entropy: weight of the binary cross-entropy.
        loss: "cross_entropy" or `SIGMOID`, which are the same here and have no options.
        loss_options: of the loss; none are accepted.

    Raises:
        ValueError: another loss, or options.
    """

    def __init__(
        self,
        members: Members,
        *,
        dice: float,
        cross_entropy: float,
        loss: str,
        loss_options: Mapping[str, Any] | None = None,
    ) -> None:
        if loss not in _PLAIN:
            raise ValueError(f"loss {loss} is for classes that do not overlap, and the labels have regions: {SIGMOID}")
        if loss_options:
            raise ValueError(f"loss {loss} has no options, got {', '.join(loss_options)}")
        self.members, self.dice, self.cross_entropy = members, dice, cross_entropy

    def __call__(
        self, logits: Tensor, label: Tensor, covered: Tensor | None = None, clock: Clock | None = None
    ) -> dict[str, Tensor]:
        """Terms `dice` and `cross_entropy`.

        Args:
            logits: `(B, regions, *spatial)`.
            label: `(B, 1, *spatial)` class indices, 255 = ignore.
            covered: `(B, classes)` bool, the background first; None: every label covers every region.
            clock: where in the run it is, which changes nothing.
        """
        known = None if covered is None else covered[:, 1:]
        return {
            "dice": self.dice * region_dice(logits, label, self.members, known),
            "cross_entropy": self.cross_entropy * region_cross_entropy(logits, label, self.members, known),
        }
