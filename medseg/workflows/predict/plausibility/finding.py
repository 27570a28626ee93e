"""What looks implausible about one case."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["field of view", "modality", "intensities", "volume", "absent"]


@dataclass(frozen=True)
class Finding:
    """One thing about an image or its result that no image of the training had.

    Args:
        kind: of thing.
        of: the structure or the channel that it is about; empty: the image as a whole.
        text: a phrase with what was found and what the training had.
    """

    kind: Kind
    of: str
    text: str

    def plain(self) -> dict[str, str]:
        """As values for JSON."""
        return asdict(self)


def findings_of(plain: Any) -> list[Finding]:
    """Findings that a report keeps; none of what is no list of such."""
    found = []
    for each in plain if isinstance(plain, list) else ():
        if isinstance(each, dict) and set(each) == {"kind", "of", "text"}:
            found.append(Finding(**each))
    return found


def number(value: float) -> str:
    """A measured number for people: three digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
