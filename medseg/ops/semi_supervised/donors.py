"""Images kept during a training, so that a class which few images hold can be fetched when it is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.ops.processes import sum_over_processes


class DonorBank(nn.Module):
    """The last patches that hold each class; part of the checkpoints.

    Processes that train together have to store the same patches in the same order.

    Args:
        classes: number of classes with background.
        slots: patches that are kept of each class.
    """

    filled: Tensor
    newest: Tensor
    images: Tensor
    labels: Tensor
    places: Tensor

    def __init__(self, classes: int, slots: int) -> None:
        super().__init__()
        if slots < 1:
            raise ValueError(f"{slots} donors of each class: must be at least 1")
        self.classes, self.slots = classes, slots
        self.register_buffer("filled", torch.zeros(classes, slots, dtype=torch.bool))
        self.register_buffer("newest", torch.zeros(classes, dtype=torch.long))
        self.register_buffer("images", torch.zeros(0))  # (classes, slots, Cin, *patch), once a patch is known
        self.register_buffer("labels", torch.zeros(0, dtype=torch.uint8))  # (classes, slots, 1, *patch)
        self.register_buffer("places", torch.zeros(0))  # (classes, slots, n, n + 1)

    def holds(self, value: int) -> bool:
        """Whether there is a patch with this class."""
        return bool(self.filled[value].any())

    def draw(self, value: int) -> int:
        """The slot of one of the patches with this class."""
        slots = self.filled[value].nonzero().flatten()
        return int(slots[int(torch.randint(len(slots), ()))])

    def place(self, value: int, slot: int) -> Tensor | None:
        """Where in the body a patch lies, `(n, n + 1)`; None: it is not known."""
        return self.places[value, slot] if self.places.numel() else None

    @torch.no_grad()
    def store(
        self, value: int, image: Tensor, label: Tensor | None = None, place: Tensor | None = None
    ) -> None:  # fmt: skip
        """Keep a patch in the place of the oldest one of its class.

        Args:
            value: the class.
            image: `(Cin, *patch)`.
            label: `(1, *patch)` class indices, 255 = ignore; None: images alone are kept.
            place: in the body, `(n, n + 1)`; None: it is not known.
        """
        if self.images.numel() == 0:
            self.images = image.new_zeros(self.classes, self.slots, *image.shape, dtype=torch.float32)
            if label is not None:
                self.labels = label.new_zeros(self.classes, self.slots, *label.shape, dtype=torch.uint8)
            if place is not None:
                self.places = place.new_zeros(self.classes, self.slots, *place.shape, dtype=torch.float32)
        slot = int(self.newest[value])
        self.images[value, slot] = image.float()
        if label is not None:
            self.labels[value, slot] = label.to(torch.uint8)
        if place is not None:
            self.places[value, slot] = place.float()
        self.filled[value, slot] = True
        self.newest[value] = (slot + 1) % self.slots

    def forget(self, places: Sequence[tuple[int, int]]) -> None:
        """Remove patches which no longer seem to hold their class; of all processes, each of which has to call it.

        Args:
            places: class and slot of each.
        """
        found = torch.zeros(self.filled.shape, device=self.filled.device)
        for value, slot in places:
            found[value, slot] = 1
        self.filled &= sum_over_processes(found) == 0

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *more: Any) -> None:
        """The patches of a checkpoint have the size that they had there."""
        for name in ("images", "labels", "places"):
            if f"{prefix}{name}" in state:
                found = state[f"{prefix}{name}"]
                setattr(self, name, torch.zeros_like(found, device=getattr(self, name).device))
        super()._load_from_state_dict(state, prefix, *more)
