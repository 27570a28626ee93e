"""The supervised term of every method by its name: cross-entropy, or what a paper puts in its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from torch import Tensor

from medseg.ops import losses
from medseg.ops.locally_adaptive import LocallyAdaptiveLoss
from medseg.options import typed

PixelLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Logits `(B, classes, *spatial)`, label `(B, 1, *spatial)`, covered `(B, classes)` or None -> scalar."""

PIXEL_LOSSES = ("cross_entropy", "locally_adaptive")


def pixel_loss(name: str, spatial_dims: int, options: Mapping[str, Any] | None = None) -> PixelLoss:
    """A loss by its name.

    Args:
        name: one of `PIXEL_LOSSES`.
        spatial_dims: 2 or 3.
        options: keywords of `medseg.ops.locally_adaptive.LocallyAdaptiveLoss`.

    Raises:
        ConfigError: an option of another type.
        ValueError: an unknown loss or option, or a value that it refuses.
    """
    given = dict(options or {})
    if name not in PIXEL_LOSSES:
        raise ValueError(f"loss {name!r} is not known; one of {', '.join(PIXEL_LOSSES)}")
    if name == "cross_entropy":
        if given:
            raise ValueError(f"loss cross_entropy has no options, got {', '.join(given)}")
        return losses.cross_entropy
    _, *accepted = inspect.signature(LocallyAdaptiveLoss).parameters
    unknown = sorted(set(given) - set(accepted))
    if unknown:
        raise ValueError(f"loss {name} has no option {unknown[0]!r}; it has {', '.join(accepted)}")
    hints = get_type_hints(LocallyAdaptiveLoss.__init__)
    return LocallyAdaptiveLoss(spatial_dims, **typed(given, hints, f"loss {name}"))
