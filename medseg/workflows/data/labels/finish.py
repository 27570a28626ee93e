"""The names of the classes of a manifest, found in its label files, and copies of those that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError, DataError
from medseg.manifest.case import Case
from medseg.manifest.manifest import Manifest
from medseg.progress import say
from medseg.workflows.data.convert_series import write_annotations
from medseg.workflows.data.labels.converted import FoundValues, codes_of, write_colored, write_copies
from medseg.workflows.data.labels.palettes import read_palette
from medseg.workflows.data.labels.structures import merge_structures
from medseg.workflows.data.layouts.found import ANNOTATION, STRUCTURES

LARGEST = 65535
"""Of a value in labels of which copies can be made."""


def finish_labels(
    cases: Sequence[dict[str, Any]],
    given: Mapping[int, str],
    colors: str | None,
    series: Mapping[str, Path],
    source: Path,
    folder: Path,
) -> dict[str, Any]:
    """What a manifest says of its classes, once every label is one file of values that manifests know.

    Args:
        cases: whose labels are looked at, made of masks of single structures, or copied.
        given: value in the files -> name, as the user says it.
        colors: table of the colours of masks, or the name of a palette.
        series: name of a case -> folder of its DICOM series.
        source: that paths are relative to.
        folder: of label files that are written.

    Returns:
        `labels`, and `background` where there is none.

    Raises:
        ConfigError: names that do not fit what is there.
        DataError: a file that cannot be read or is no label.
        OutputError: a file cannot be written.
    """
    made = [key for key in (STRUCTURES, ANNOTATION) if any(key in case for case in cases)]
    if made and (colors is not None or len(made) > 1 or any("label" in case for case in cases)):
        what = "has masks of single structures or DICOM annotations beside other labels"
        raise DataError(what, path=source, hint="accepted is one kind of labels; list the others in a data set apart")
    if STRUCTURES in made:
        return {"labels": merge_structures(cases, given, source, folder)}
    if ANNOTATION in made:
        return {"labels": write_annotations(cases, given, series, source, folder)}
    files = [source / case["label"] for case in cases if "label" in case]
    if colors is not None:
        return _of_colors(cases, files, colors, given, source, folder)
    found = FoundValues()
    labels = found_labels(files, found)
    codes = codes_of(found)
    if codes is None:
        return {"labels": with_names(labels, given)}
    _use(cases, write_copies(files, codes, source, folder), source)
    say(f"labels were written anew, with values from 0 to {max(codes.values())}, into {folder}")
    return {"labels": with_names(_names_of_codes(codes), _coded(given, codes))}


def _of_colors(
    cases: Sequence[dict[str, Any]],
    files: Sequence[Path],
    colors: str,
    given: Mapping[int, str],
    source: Path,
    folder: Path,
) -> dict[str, Any]:
    if given:
        raise ConfigError("--label and --colors both name the classes; give one of them")
    palette = read_palette(colors)
    _use(cases, write_colored(files, palette, source, folder), source)
    say(f"colours were written as values from 0 to {max(palette.labels)} into {folder}")
    content: dict[str, Any] = {"labels": {str(value): name for value, name in palette.labels.items()}}
    return content if palette.has_background else {"background": None, **content}


def _use(cases: Sequence[dict[str, Any]], copies: Mapping[Path, Path], source: Path) -> None:
    """Let cases have the copies of their labels, under the names that they had."""
    for case in cases:
        if "label" in case:
            case.setdefault("case", Case.model_validate(case).name)
            case["label"] = Manifest.relative(copies[source / case["label"]], source)


def _names_of_codes(codes: Mapping[int, int]) -> dict[str, str]:
    if set(codes.values()) == {0, 1}:
        return {"0": "background", "1": "foreground"}
    return {"0": "background", **{str(code): f"class {value}" for value, code in codes.items() if code}}


def _coded(given: Mapping[int, str], codes: Mapping[int, int]) -> dict[int, str]:
    """Names by the values of copies, of which 1 is also known by its own value where 255 became 1."""
    if set(codes.values()) == {0, 1} and 1 in given:
        return dict(given)
    return {codes.get(value, value): name for value, name in given.items()}


def found_labels(files: Iterable[Path], found: FoundValues | None = None) -> dict[str, str]:
    """Names for every value that occurs in label files; 255 is to be ignored and gets none.

    Args:
        files: of labels.
        found: gets what they hold, where copies may be made of them; None: they must be labels as they are.

    Raises:
        DataError: for a file that cannot be read or holds no whole numbers from 0 to 255.
    """
    may_copy = found is not None
    found = found if found is not None else FoundValues()
    for file in files:
        found.add(file)
        strange = sorted(value for value in found.counts if not 0 <= value <= (LARGEST if may_copy else 255))
        if strange or (found.is_grey and not may_copy):
            what = f"{strange[0]}" if strange else "grey levels of a mask"
            raise DataError(f"is no label: it holds {what}", path=file, hint="accepted are 0 to 254 and 255")
    present = set(found.counts)
    classes = sorted(present - {0, 255})
    if not classes and not (may_copy and 255 in present):
        hint = "save masks as 0 and 1: 255 means 'ignore'" if 255 in present else "draw something"
        raise DataError(f"the labels hold only {sorted(present)}", path=file.parent, hint=hint)
    names = {v: f"class {v}" for v in classes} if len(classes) > 1 else dict.fromkeys(classes, "foreground")
    return {"0": "background", **{str(v): name for v, name in names.items()}}


def with_names(labels: Mapping[Any, str], given: Mapping[int, str], *, looked: bool = True) -> dict[str, str]:
    """Classes with the names that the user gave; a value that is in no file is taken too, and told.

    Args:
        labels: value -> name.
        given: value -> other name.
        looked: whether the label files were opened.
    """
    named = {int(value): name for value, name in labels.items()} | dict(given)
    absent = [f"{value} ({name})" for value, name in given.items() if str(value) not in map(str, labels)]
    if absent and looked:
        say(f"warning: no label file holds {', '.join(absent)}")
    if given:
        unnamed = [str(value) for value in sorted(named) if value and value not in given]
        if unnamed:
            say(f"warning: --label gives no name for {', '.join(unnamed)}")
    return {str(value): name for value, name in sorted(named.items())}
