"""Colours in which viewers show segments: those of 3D Slicer's anatomy table where a structure is known by its name."""

from __future__ import annotations

import re

from medseg.dicom.structures import Color

ANATOMY: dict[str, tuple[int, int, int]] = {
    "adrenal": (249, 186, 150),
    "aorta": (224, 97, 76),
    "artery": (216, 101, 79),
    "atrium": (203, 142, 127),
    "bladder": (222, 154, 132),
    "bone": (241, 214, 145),
    "brain": (250, 250, 225),
    "colon": (204, 168, 143),
    "duodenum": (255, 253, 229),
    "esophagus": (211, 171, 143),
    "gallbladder": (139, 150, 98),
    "heart": (206, 110, 84),
    "kidney": (185, 102, 83),
    "liver": (221, 130, 101),
    "lung": (197, 165, 145),
    "muscle": (192, 104, 88),
    "myocardium": (192, 104, 88),
    "oesophagus": (211, 171, 143),
    "pancreas": (249, 180, 111),
    "portal": (0, 151, 206),
    "prostate": (230, 158, 140),
    "spleen": (157, 108, 162),
    "stomach": (216, 132, 105),
    "tumor": (144, 238, 144),
    "tumour": (144, 238, 144),
    "vein": (0, 151, 206),
    "vena": (0, 151, 206),
    "ventricle": (152, 55, 13),
    "vertebra": (255, 255, 207),
}
"""A word of a structure's name -> red, green, blue."""

OTHERS: tuple[tuple[int, int, int], ...] = (
    (86, 180, 233), (245, 158, 66), (95, 208, 104), (255, 93, 108), (192, 140, 255),
    (255, 225, 77), (255, 138, 209), (47, 224, 208), (184, 196, 255), (215, 168, 110),
)  # fmt: skip
"""Of structures that the table does not know, in their order."""


def color_of(name: str, place: int) -> Color:
    """Red, green and blue in [0, 1] for a structure.

    Args:
        name: of it, in English.
        place: among the structures of its file, from 0; decides where the name is not known.

    Examples:
        >>> [round(255 * part) for part in color_of("Right Kidney", 3)]
        [185, 102, 83]
        >>> [round(255 * part) for part in color_of("lesion", 1)]
        [245, 158, 66]
    """
    words = re.findall(r"[a-z]+", name.lower())
    known = [ANATOMY[word.rstrip("s")] for word in words if word.rstrip("s") in ANATOMY]
    known += [ANATOMY[word] for word in words if word in ANATOMY]
    red, green, blue = known[-1] if known else OTHERS[place % len(OTHERS)]
    return red / 255, green / 255, blue / 255
