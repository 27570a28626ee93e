"""A CSV with a line for each case: image, label, subject, fold, section."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.manifest.manifest import SECTIONS, Manifest
from medseg.progress import say
from medseg.workflows.data.layouts.found import PLACES, Found, name_apart, refuse_unlabelled

COLUMNS = ("image", "label", "subject", "fold", "section", "case")
CHANNEL = re.compile(r"image_([0-9]+)")
SHOWN = 3


def is_table(source: Path) -> bool:
    """Whether a file is a CSV, by its ending."""
    return source.suffix.lower() in (".csv", ".tsv")


def from_table(source: Path) -> Found:
    """The cases of a CSV. Paths are relative to it; several channels are columns `image_0`, `image_1`, ...

    A case without a label is `unlabeled`, and one without a section is for training. Columns are divided by commas,
    semicolons or tabs, whichever the first line has.

    Raises:
        DataError: the table cannot be read or has no column of images; or lines are wrong, naming the first of them.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as a table ({error})", path=source, hint="save it as CSV in UTF-8") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, restkey="")
    images = _columns(reader, source)
    found, problems = Found(), []
    seen: dict[str, int] = {}
    for row in reader:
        cells = {str(key).strip().lower(): str(value or "").strip() for key, value in row.items() if key}
        if not any(cells.values()) and "" not in row:
            continue
        problem = "has more cells than the first line" if "" in row else ""
        case, section, wrong = _case(cells, images, source.parent)
        problem = problem or wrong or _twice(case, seen, reader.line_num)
        if problem:
            problems.append(f"line {reader.line_num} {problem}")
        else:
            found.add(case, section)
    if problems:
        more = f" (and {len(problems) - SHOWN} more like this)" if len(problems) > SHOWN else ""
        raise DataError("; ".join(problems[:SHOWN]) + more, path=source)
    if not any(found.cases):
        raise DataError("has no line but the first", path=source, hint="accepted is a line for each case")
    refuse_unlabelled(found, source, "fill the column label of some lines")
    name_apart(list(found.cases))
    return found


def _columns(reader: csv.DictReader, source: Path) -> list[str]:
    """The columns of the images, in the order of the channels; unknown ones are named.

    Raises:
        DataError: there is none, or the numbers of channels have a gap.
    """
    names = [str(name or "").strip().lower() for name in reader.fieldnames or ()]
    channels = sorted((name for name in names if CHANNEL.fullmatch(name)), key=lambda name: int(name[6:]))
    accepted = f"accepted are {', '.join(COLUMNS)}, and image_0, image_1, ... of several channels"
    if len(set(names)) < len(names):
        raise DataError(f"its first line has a column twice: {', '.join(names)}", path=source, hint=accepted)
    if ("image" in names) == bool(channels) or channels != [f"image_{n}" for n in range(len(channels))]:
        what = f"its first line has the columns {', '.join(names) or 'of nothing'}"
        raise DataError(f"{what}, and needs either image or image_0, image_1, ...", path=source, hint=accepted)
    unknown = [name for name in names if name not in COLUMNS and name not in channels]
    if unknown:
        say(f"warning: {source}: the columns {', '.join(unknown)} are left out; {accepted}")
    return channels or ["image"]


def _case(cells: Mapping[str, str], images: list[str], folder: Path) -> tuple[dict[str, Any], str, str]:
    """A line as a case, the list that it belongs to, and what is wrong with it (empty: nothing)."""
    case: dict[str, Any] = {"image": []}
    for column in (*images, "label"):
        text = cells.get(column, "")
        if not text:
            if column != "label":
                return case, "", f"has no {column}"
            continue
        path = Path(os.path.normpath(folder / text))
        if not path.exists():
            return case, "", f"names the {column} {text}, and there is no such file"
        relative = Manifest.relative(path, folder)
        if column == "label":
            case["label"] = relative
        else:
            case["image"].append(relative)
    for key in ("subject", "case"):
        if cells.get(key):
            case[key] = cells[key]
    fold = cells.get("fold", "")
    if fold:
        if not fold.isdecimal():
            return case, "", f"has the fold '{fold}'; accepted are 0, 1, ..."
        case["fold"] = int(fold)
    section, problem = _section(cells.get("section", ""), "label" in case)
    return case, section, problem


def _section(text: str, is_labelled: bool) -> tuple[str, str]:
    """The list of the manifest that a cell names, and what is wrong with it."""
    named = {section: section for section in SECTIONS} | {"unlabelled": "unlabeled"}
    for section, names in PLACES.items():
        named |= dict.fromkeys(names, section)
    section = named.get(text.casefold() or "training")
    if section is None:
        return "", f"has the section '{text}'; accepted are {', '.join(SECTIONS)}"
    if text and section in ("training", "validation") and not is_labelled:
        return "", f"has the section {text} and no label; accepted without a label are test and unlabeled"
    if section == "unlabeled" and is_labelled:
        return "", "has the section unlabeled and a label; leave one of them out"
    return section, ""


def _twice(case: Mapping[str, Any], seen: dict[str, int], line: int) -> str:
    first = case["image"][0]
    before = seen.setdefault(first, line)
    return "" if before == line else f"has the image {first} of line {before}"
