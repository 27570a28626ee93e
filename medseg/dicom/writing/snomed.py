"""SNOMED CT codes of segments from the names that people give their labels.

DICOM's own lists of what can be segmented (CID 7191, 7192, 7194 and 7197, as pydicom has them) are searched for the
name; a side in it becomes the modifier of the type. What is in none of them is coded as Tissue, and keeps its name as
the segment's label.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

GROUPS = {
    "cid7192": "AnatomicalStructure",
    "cid7194": "MorphologicallyAbnormalStructure",
    "cid7191": "Tissue",
    "cid7197": "BodySubstance",
}
"""Context group of types -> keyword of its category in CID 7150."""

ALSO = {
    "tumor": "neoplasm", "tumour": "neoplasm", "metastasis": "neoplasmsecondary", "oedema": "edema",
    "haemorrhage": "hemorrhage", "oesophagus": "esophagus", "urinarybladder": "bladder", "postcava": "inferiorvenacava",
    "ivc": "inferiorvenacava", "vessel": "bloodvessel", "vessels": "bloodvessel", "csf": "cerebrospinalfluid",
    "wm": "whitematter", "gm": "graymatter", "greymatter": "graymatter", "prostategland": "prostate",
    "adrenal": "adrenalgland", "fat": "adiposetissue",
    "bone": "bonetissue", "muscle": "muscletissue", "lymphnodes": "lymphnode", "lesions": "lesion",
}  # fmt: skip
"""Words of data sets -> words of the lists."""

SIDES = {"left": "Left", "right": "Right", "l": "Left", "r": "Right"}


class SegmentCode(NamedTuple):
    """What a segment is, as pydicom codes.

    Attributes:
        category: such as "Anatomical Structure".
        kind: such as "Liver".
        side: Left or Right, None if the name has none or the kind implies it.
        region: where a lesion lies, "Liver" of a "liver tumour"; None if the name does not say.
        known: False for the fallback.
    """

    category: Any
    kind: Any
    side: Any | None = None
    region: Any | None = None
    known: bool = True


def code_of(name: str) -> SegmentCode:
    """The code of a label's name, in any spelling: "Left Kidney", "kidney_left", "LIVER"."""
    from pydicom.sr.codedict import codes

    words = _split_words(name)
    whole = _look_up("".join(words))
    if whole is not None:
        return SegmentCode(*whole)
    sides = [word for word in words if word in SIDES]
    others = [word for word in words if word not in SIDES]
    side = None
    if len(sides) == 1:
        side = getattr(codes.cid244, SIDES[sides[0]])
        without_side = _look_up("".join(others))
        if without_side is not None:
            return SegmentCode(*without_side, side)
    lesion, organ = _look_up("".join(others[-1:])), _look_up("".join(others[:-1]))
    if lesion and organ and lesion[0] == codes.cid7150.MorphologicallyAbnormalStructure:
        return SegmentCode(*lesion, side, organ[1])
    return SegmentCode(codes.cid7150.Tissue, codes.cid7191.Tissue, known=False)


def _split_words(name: str) -> list[str]:
    """The words of a name in small letters: of "LeftKidney" and "kidney_left" two each."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()
    return [word for word in re.split(r"[^a-z0-9]+", spaced) if word]


def _look_up(word: str) -> tuple[Any, Any] | None:
    """Category and type of a word, also of a plural; None if it is in none of the lists."""
    types = _list_types()
    return types.get(ALSO.get(word, word)) or types.get(word.removesuffix("s"))


@lru_cache(maxsize=1)
def _list_types() -> dict[str, tuple[Any, Any]]:
    """Lower-case keyword -> category and type; the first group that has it decides."""
    from pydicom.sr.codedict import codes

    found: dict[str, tuple[Any, Any]] = {}
    for group, category in GROUPS.items():
        concepts = getattr(codes, group)
        for keyword in concepts.dir():
            if keyword != "Background":
                found.setdefault(keyword.lower(), (getattr(codes.cid7150, category), getattr(concepts, keyword)))
    return found
