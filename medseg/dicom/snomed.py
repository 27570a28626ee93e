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


class Coded(NamedTuple):
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


def code_of(name: str) -> Coded:
    """The code of a label's name, in any spelling: "Left Kidney", "kidney_left", "LIVER"."""
    from pydicom.sr.codedict import codes

    words = [word for word in re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()) if word]
    sides = [word for word in words if word in SIDES]
    rest = [word for word in words if word not in SIDES]
    if (whole := _found("".join(words))) is not None:
        return Coded(*whole)
    side = getattr(codes.cid244, SIDES[sides[0]]) if len(sides) == 1 else None
    if side is not None and (kind := _found("".join(rest))) is not None:
        return Coded(*kind, side)
    lesion, organ = _found("".join(rest[-1:])), _found("".join(rest[:-1]))
    if lesion and organ and lesion[0] == codes.cid7150.MorphologicallyAbnormalStructure:
        return Coded(*lesion, side, organ[1])
    return Coded(codes.cid7150.Tissue, codes.cid7191.Tissue, known=False)


def _found(word: str) -> tuple[Any, Any] | None:
    known = _known()
    return known.get(ALSO.get(word, word)) or known.get(word.removesuffix("s"))


@lru_cache(maxsize=1)
def _known() -> dict[str, tuple[Any, Any]]:
    """Lower-case keyword -> category and type; the first group that has it decides."""
    from pydicom.sr.codedict import codes

    found: dict[str, tuple[Any, Any]] = {}
    for group, category in GROUPS.items():
        concepts = getattr(codes, group)
        for keyword in concepts.dir():
            if keyword != "Background":
                found.setdefault(keyword.lower(), (getattr(codes.cid7150, category), getattr(concepts, keyword)))
    return found
