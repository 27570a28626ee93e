"""The fields of a manifest: what users of MONAI write, brought to one form, and readable mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from medseg.structure_names import named_twice

SHOWN = 3  # problems that are spelled out; more would not fit on a line

SUFFIX = re.compile(r"(\.seg)?\.(nii\.gz|nii|nrrd|mha|mhd|png|jpe?g|tiff?)$", re.IGNORECASE)

PICTURE = re.compile(r"\.(png|jpe?g|tiff?)$", re.IGNORECASE)
"""Endings of single slices in pixels, whose files say no spacing."""

MODALITIES = {
    "CT": "ct cta cect ncct cbct",
    "MR": "mr mri cmr lge t1 t1w t1c t1ce t1gd t2 t2w flair adc dwi swi pd cine",
    "PT": "pt pet fdg",
    "US": "us ultrasound",
    "XR": "xr xray cr dx",
}
"""DICOM's modality -> the words that name it in manifests."""


def dicom_modality(text: str) -> str:
    """CT, MR, PT, US, XR, or OT for whatever else the text says."""
    words = set(re.split(r"[^a-z0-9]+", text.lower()))
    return next((code for code, names in MODALITIES.items() if words & set(names.split())), "OT")


def stem(path: str) -> str:
    """File name without the ending of an image."""
    name = PurePath(path).name
    return SUFFIX.sub("", name) or name


def is_picture(path: str | PurePath) -> bool:
    """Whether a file is a photograph or another image of pixels without a spacing, by its ending.

    Examples:
        >>> is_picture("a.PNG"), is_picture("a.nii.gz")
        (True, False)
    """
    return PICTURE.search(str(path)) is not None


def unit_of(files: Iterable[str | PurePath]) -> str:
    """The unit of lengths in images: px where all of them are pictures, which have no spacing, else mm.

    Examples:
        >>> unit_of(["a.png", "b.jpg"]), unit_of(["a.png", "b.nii.gz"]), unit_of([])
        ('px', 'mm', 'mm')
    """
    kinds = [is_picture(file) for file in files]
    return "px" if kinds and all(kinds) else "mm"


def checked_path(text: str) -> str:
    """A path that stays where it says: relative without `..`, or absolute.

    Raises:
        ValueError: for URLs, drive letters, backslashes, `..` and what is no path.
    """
    if re.match(r"[a-zA-Z][\w+.-]*://|(file|data|https?|s3|gs):", text):
        raise ValueError(f"'{text}' is a URL; accepted are paths of files")
    if "\\" in text or re.match(r"[a-zA-Z]:", text):
        raise ValueError(f"'{text}' has a drive letter or backslashes; accepted are paths with forward slashes")
    if not text.strip() or not text.isprintable():
        raise ValueError(f"{text!r} is no path of a file")
    if ".." in PurePath(text).parts:
        raise ValueError(f"'{text}' leaves its folder by '..'; move the file, or give its whole path")
    return text


def whole_path(path: str | Path) -> Path:
    """The path from the root without `..`, as `checked_path` accepts it: links are followed where there is a `..`."""
    whole = Path(path).absolute()
    return whole.parent.resolve() / whole.name if ".." in whole.parts else whole


def listed(value: Any) -> Any:
    """One string as a list of one."""
    return [value] if isinstance(value, str) else value


def value_to_name(value: Any) -> Any:
    """`{"background": 0}` as `{0: "background"}`.

    Raises:
        ValueError: for one value of two classes.
    """
    if not isinstance(value, Mapping):
        return value
    if not value or not all(type(v) is int for v in value.values()):
        if len({str(k).strip().lstrip("+0") for k in value}) < len(value):
            raise ValueError(f"names one value twice: {list(value)}")
        return value
    names = {v: k for k, v in value.items()}
    if len(names) < len(value):
        raise ValueError(f"gives one value to two classes: {dict(value)}")
    return names


def checked_labels(labels: dict[int, str], *, has_background: bool) -> dict[int, str]:
    """Value -> name of the classes, in the order of the values.

    Raises:
        ValueError: a value that is none, too few classes, or a name that is empty or there twice.
    """
    outside = [v for v in labels if not 0 <= v <= 254]
    if outside:
        raise ValueError(f"has the values {outside}; accepted are 0 to 254")
    if not has_background:
        if len(labels) < 2:
            raise ValueError(f"is {labels}; accepted are at least two classes where there is no background")
    elif 0 not in labels or len(labels) < 2:
        raise ValueError(f"is {labels}; accepted is 0 for the background and at least one class")
    if named_twice(labels.values()) or not all(name.strip() for name in labels.values()):
        raise ValueError(f"has an empty name or the same name twice, but for capitals: {list(labels.values())}")
    return dict(sorted(labels.items()))


def with_known_names(content: Any) -> Any:
    """A data list of MONAI, whose test cases are called "testing", by the names of a manifest."""
    if isinstance(content, Mapping) and "testing" in content and not content.get("test"):
        return {("test" if key == "testing" else key): value for key, value in content.items() if key != "test"}
    return content


def unknown_lists(others: Mapping[str, Any] | None) -> list[str]:
    """Keys of a manifest that are none of its lists of cases and hold such a list, such as "Testing".

    Args:
        others: what the manifest holds besides the keys that are known.
    """
    return [key for key, value in (others or {}).items() if isinstance(value, list) and any(map(_is_case, value))]


def _is_case(entry: Any) -> bool:
    if isinstance(entry, Mapping):
        return "image" in entry
    return isinstance(entry, str) and SUFFIX.search(entry) is not None


def numbered(value: Any) -> Any:
    """`"CT"` and `["T1", "T2"]` as `{"0": ...}`."""
    value = listed(value)
    return {str(n): v for n, v in enumerate(value)} if isinstance(value, list) else value


def first_of(problems: Sequence[str]) -> str:
    """The first few problems on one line, and how many more there are."""
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def readable(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as `training[3].image: what is wrong`."""
    where = ""
    for part in error["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    what = error["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("valid dict", "dict")
    if error["type"] == "missing" and error["loc"] == ("labels",):
        what = "is missing: names of the label values; 'medseg data init' finds the values in the label files"
    found = error.get("input")
    if error["type"] not in ("value_error", "missing") and isinstance(found, str | int | float | list):
        what += f", found {found!r:.60}"
    return f"{where}: {what}" if where else what


_STRINGS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
STRING_OR_LIST = [{"type": "string"}, _STRINGS]
"""What a field that takes one string or several is in the schema."""

FilePath = Annotated[str, AfterValidator(checked_path)]
ImagePaths = Annotated[
    tuple[FilePath, ...],
    Field(min_length=1),
    BeforeValidator(listed),
    WithJsonSchema({"anyOf": STRING_OR_LIST}),
]
Labels = Annotated[
    dict[int, str],
    BeforeValidator(value_to_name),
    WithJsonSchema(
        {"type": "object", "minProperties": 2, "additionalProperties": {"type": ["string", "integer", "array"]}}
    ),
]
Modality = Annotated[
    dict[str, str],
    BeforeValidator(numbered),
    WithJsonSchema({"anyOf": [{"type": "object", "additionalProperties": {"type": "string"}}, *STRING_OR_LIST]}),
]


def checked_background(value: Any) -> Any:
    """The value of the background, 0, or None.

    Raises:
        ValueError: any other.
    """
    if value is not None and (type(value) is not int or value != 0):
        raise ValueError(f"is {value!r}; accepted is 0, or null where every voxel belongs to a structure")
    return value


Background = Annotated[Literal[0] | None, BeforeValidator(checked_background)]
