"""Images kept during a training, so that a class which few images hold can be fetched when it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.ops.processes import sum_over_processes

PATCHES = ("images", "labels", "places")

Patch = tuple[Tensor, Tensor | None, Tensor | None]
"""Image `(Cin, *patch)`, label `(1, *patch)` or None, place in the body `(n, n + 1)` or None."""


class DonorBank(nn.Module):
    """The last patches that hold each class.

    Checkpoints have the numbers of the patches alone, see the key "number" of `medseg.stream.Stream`, where all have
    one: then `recall` makes the patches anew. Else they have the patches.

    Processes that train together have to store the same patches in the same order.

    Args:
        classes: number of classes with background.
        slots: patches that are kept of each class.
    """

    filled: Tensor
    newest: Tensor
    numbers: Tensor
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
        self.register_buffer("numbers", torch.full((classes, slots), -1))  # -1: not known
        # (classes, slots, Cin or 1, *patch) and (classes, slots, n, n + 1), once a patch is known
        for name in PATCHES:
            dtype = torch.uint8 if name == "labels" else torch.float32
            self.register_buffer(name, torch.zeros(0, dtype=dtype), persistent=False)

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
        self,
        value: int,
        image: Tensor,
        label: Tensor | None = None,
        place: Tensor | None = None,
        number: int | None = None,
    ) -> None:
        """Keep a patch in the place of the oldest one of its class.

        Args:
            value: the class.
            image: `(Cin, *patch)`.
            label: `(1, *patch)` class indices, 255 = ignore; None: images alone are kept.
            place: in the body, `(n, n + 1)`; None: it is not known.
            number: of the sample; None: it is not known.
        """
        slot = int(self.newest[value])
        self._put(value, slot, (image, label, place))
        self.numbers[value, slot] = -1 if number is None else number
        self.filled[value, slot] = True
        self.newest[value] = (slot + 1) % self.slots

    def _put(self, value: int, slot: int, patch: Patch) -> None:
        for name, tensor in zip(PATCHES, patch, strict=True):
            if tensor is None:
                continue
            kept = getattr(self, name)
            if kept.numel() == 0:
                kept = kept.new_zeros(self.classes, self.slots, *tensor.shape)
                setattr(self, name, kept)
            kept[value, slot] = tensor.to(kept.device, kept.dtype)

    @torch.no_grad()
    def recall(self, patch_of: Callable[[int], Patch]) -> None:
        """Put the patches in their places again that a checkpoint has the numbers of.

        Args:
            patch_of: number of a sample -> the patch that was stored of it.
        """
        known = self.filled & (self.numbers >= 0)
        for number in self.numbers[known].unique().tolist():  # a patch holds several classes
            patch = patch_of(number)
            for value, slot in (known & (self.numbers == number)).nonzero().tolist():
                self._put(value, slot, patch)

    def forget(self, places: Sequence[tuple[int, int]]) -> None:
        """Remove patches which no longer seem to hold their class; of all processes, each of which has to call it.

        Args:
            places: class and slot of each.
        """
        found = torch.zeros(self.filled.shape, device=self.filled.device)
        for value, slot in places:
            found[value, slot] = 1
        self.filled &= sum_over_processes(found) == 0

    def _save_to_state_dict(self, state: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """The patches too, where some have no number."""
        super()._save_to_state_dict(state, prefix, keep_vars)
        if bool((self.filled & (self.numbers < 0)).any()):
            for name in PATCHES:
                state[f"{prefix}{name}"] = getattr(self, name).detach()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *more: Any) -> None:
        """Patches of a checkpoint have the size that they had there; earlier versions kept no numbers."""
        state.setdefault(f"{prefix}numbers", torch.full_like(self.numbers, -1))
        for name in PATCHES:
            kept, found = getattr(self, name), state.pop(f"{prefix}{name}", None)
            if found is not None:
                setattr(self, name, found.to(kept.device, kept.dtype, copy=True))
        super()._load_from_state_dict(state, prefix, *more)
