"""How to fuse: the options of `medseg consensus`, checked before any file is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medseg.consensus.fuse import resolve_options
from medseg.errors import ConfigError

SOFT = ("uint8", "float16")


@dataclass(frozen=True)
class Options:
    """How to fuse, and what to write.

    Attributes:
        method: a name of `medseg.consensus.fuse.FUSERS`.
        fusing: its options.
        reading: how files are understood: fields of `medseg.consensus.io.formats.Reading`.
        compare: also run every other method, and report how they differ.
        reference: true labels, to measure against; they are not shown to any method.
        soft: "uint8" or "float16": also write each class's share of the votes.
        page: write `report.html`.
        viewer: with an interactive viewer in it.
        tolerance_mm: of the surface Dice.
    """

    method: str = "gcssl"
    fusing: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    compare: bool = False
    reference: Path | None = None
    soft: str | None = None
    page: bool = True
    viewer: bool = True
    tolerance_mm: float = 1.0

    def __post_init__(self) -> None:
        if self.soft not in (None, *SOFT):
            raise ConfigError(f"--export-soft {self.soft}: accepted are {' and '.join(SOFT)}")
        if not self.tolerance_mm > 0:
            raise ConfigError(f"--tolerance-mm {self.tolerance_mm}: a length > 0 is wanted")
        resolve_options(self.method, self.fusing)

    def plain(self) -> dict[str, Any]:
        """As values for JSON."""
        return {**asdict(self), "reference": None if self.reference is None else str(self.reference)}


def method_options(given: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Options of the method: those that were given, and `name=value` settings.

    Raises:
        ConfigError: a setting that is none, or an option given twice.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if isinstance(chosen.get("weights"), str):
        chosen["weights"] = _weights(chosen["weights"])
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--set {text}: accepted is NAME=VALUE, an option of the method")
        if name in chosen:
            raise ConfigError(f"--set {text}: {name} is given twice")
        chosen[name] = yaml.safe_load(value)
    return chosen


def _weights(text: str) -> str | list[float]:
    """A mode by name, or numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text


def reading_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `medseg.consensus.io.formats.Reading` from the words of the command line.

    Raises:
        ConfigError: words that mean nothing.
    """
    missing, channel = given["missing_value"], given["channel"]
    try:
        value = None if missing.lower() == "none" else int(missing)
    except ValueError:
        raise ConfigError(f"--missing-value {missing}: accepted is a label value, or none") from None
    names = dict(_pair("--label", text, "=") for text in given["label"] or ())
    if not all(number.isdigit() for number in names):
        raise ConfigError(f"--label {next(n for n in names if not n.isdigit())}: accepted is VALUE=NAME")
    if channel not in (None, "all") and not channel.isdigit():
        raise ConfigError(f"--channel {channel}: accepted is a number from 0, or all")
    return {
        "missing": value,
        "regions": {name: Path(file) for name, file in (_pair("--region", t, "=") for t in given["region"] or ())},
        "partial": tuple(_pair("--partial-protocol", text, ":") for text in given["partial"] or ()),
        "labels": {int(number): name for number, name in names.items()},
        "channel": int(channel) if channel and channel.isdigit() else channel,
        **{name: given[name] for name in ("probabilities", "resample", "nan", "series")},
    }


def _pair(option: str, text: str, between: str) -> tuple[str, str]:
    first, found, second = text.partition(between)
    if not (found and first and second):
        raise ConfigError(f"{option} {text}: accepted is A{between}B, see --help")
    return first, second
