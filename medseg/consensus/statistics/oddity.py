"""One sentence on what is odd about raters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KINDS = (
    "exchanged", "inverted", "mirrored", "empty", "nothing in common", "elsewhere", "much less", "much more",
    "slices left out", "not looked for", "same structure", "identical",
)  # fmt: skip
"""All that an oddity can be, in the order in which they are told."""


@dataclass(frozen=True)
class Oddity:
    """One sentence about raters.

    Args:
        kind: one of `KINDS`.
        raters: names of those it is about.
        classes: names of the structures it is about.
        text: the sentence.
    """

    kind: str
    raters: tuple[str, ...]
    classes: tuple[str, ...]
    text: str

    def as_json(self) -> dict[str, Any]:
        """The same for a report."""
        return {**asdict(self), "raters": list(self.raters), "classes": list(self.classes)}
