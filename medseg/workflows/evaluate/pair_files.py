"""Files of an evaluation: predictions and references by name, and whether a folder is free for the tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError, DataError
from medseg.portable.io.channel_names import group_channels, without_mark
from medseg.portable.io.find_cases import by_name, images_in, passed_over
from medseg.progress import say
from medseg.records import differing, read_record

TABLES = ("metrics.json", "metrics.csv", "metrics.md", "montage.png", "report.html")
"""What an evaluation leaves in its folder; the first says of what it is, so that the tables need no other record."""


def files_by_name(folder: Path) -> dict[str, Path]:
    """Name without ending -> label file.

    Raises:
        DataError: two files differ in their endings only.
    """
    others = passed_over(folder)
    if others:
        say(f"warning: {folder}: {others}")
    try:
        return by_name(images_in(folder))
    except ValueError as error:
        raise DataError(str(error), path=folder) from error


def by_reference(files: Mapping[str, Path], references: Collection[str]) -> dict[str, Path]:
    """Predictions by the names of their references, which may lack the `_0000` of nnU-Net's images.

    Either may have a mark of labels, such as `_seg` or `_gt`, that the other lacks, where only one file is meant then.
    """
    groups = group_channels(files, (1,), labels=references)
    found = {case: files[name] for case, (name,) in groups.items()}
    free = [name for name in found if name not in references]
    for reference in references:
        alike = [name for name in free if without_mark(name) == without_mark(reference)]
        others = [name for name in references if without_mark(name) == without_mark(reference)]
        if reference not in found and len(alike) == len(others) == 1:
            found[reference] = found[alike[0]]
    return found


def refuse_another(folder: Path, source: Mapping[str, Any]) -> None:
    """See that a folder does not hold the tables of something else.

    Args:
        folder: it need not exist.
        source: what is compared, as its `metrics.json` would say under `input`; what is None there may be anything.

    Raises:
        ConfigError: it does.
    """
    there = [folder / name for name in TABLES if (folder / name).exists()]
    if not there:
        return
    before = read_record(folder / TABLES[0]).get("input")
    if not isinstance(before, dict):
        what = "is there already and does not say what was evaluated"
        raise ConfigError(what, path=there[0], hint="choose another --output, or remove it")
    decided = {key: value for key, value in source.items() if value is not None}
    others = [key for key in differing(before, decided) if key in decided]
    if others:
        key = others[0]
        what = f"holds the evaluation of {key} {before.get(key)} and not of {source[key]}"
        raise ConfigError(what, path=folder, hint="choose another --output, or remove it")
