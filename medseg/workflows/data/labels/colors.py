"""Masks whose colours are the classes: which colours they have, and their values as label files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.errors import DataError
from medseg.portable.io.labels import LOSSY, NO_LOSS
from medseg.portable.io.read import read_volume
from medseg.workflows.data.labels.palettes import Color, Palette, built_in

SHOWN = 5


@dataclass
class ColorCounts:
    """How often colours occur in files.

    Attributes:
        pixels: colour -> pixels.
        files: colour -> the first file that has it.
    """

    pixels: dict[Color, int] = field(default_factory=dict)
    files: dict[Color, Path] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """Count those of one more file."""
        codes, counts = np.unique(color_codes(path), return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            color = (code >> 16, code >> 8 & 255, code & 255)
            self.pixels[color] = self.pixels.get(color, 0) + count
            self.files.setdefault(color, path)

    def told(self, colors: Iterable[Color]) -> str:
        """Some of the colours with their counts, the most frequent first."""
        ordered = sorted(colors, key=lambda color: -self.pixels[color])
        parts = [f"{','.join(map(str, color))} ({self.pixels[color]} pixels)" for color in ordered[:SHOWN]]
        more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
        return ", ".join(parts) + more


def color_codes(path: Path) -> np.ndarray:
    """`(X, Y)`: the colour of each pixel as red * 65536 + green * 256 + blue; that of a palette is its colour.

    Raises:
        DataError: it is no image with colours of 8 bits, or a JPEG, which changes colours.
    """
    if path.name.lower().endswith(LOSSY):
        raise DataError("is a JPEG, which does not keep colours", path=path, hint=NO_LOSS)
    array, _ = read_volume(path)
    if array.dtype != np.uint8 or len(array) not in (1, 3) or array.shape[-1] != 1:
        raise DataError("is no image of colours", path=path, hint="accepted with --colors are PNG and TIFF of 8 bits")
    red, green, blue = np.broadcast_to(array[..., 0], (3, *array.shape[1:3])).astype(np.int32)
    return red << 16 | green << 8 | blue


def check_colors(files: Sequence[Path], palette: Palette) -> None:
    """See that every colour of the files is in a palette.

    Raises:
        DataError: others are there, listed with their counts.
    """
    counts = ColorCounts()
    for file in files:
        counts.add(file)
    unknown = [color for color in counts.pixels if color not in palette.values]
    if unknown:
        what = f"has {len(unknown)} colours that the table of colours does not have: {counts.told(unknown)}"
        first = counts.files[max(unknown, key=lambda color: counts.pixels[color])]
        raise DataError(what, path=first, hint="add lines for them; nothing is taken for the nearest colour")


def values_of(path: Path, palette: Palette) -> np.ndarray:
    """`(X, Y)` uint8: the values of a mask, all of whose colours are in the palette."""
    known = {red << 16 | green << 8 | blue: value for (red, green, blue), value in palette.values.items()}
    codes = color_codes(path)
    there, places = np.unique(codes, return_inverse=True)
    values = np.array([known[code] for code in there.tolist()], np.uint8)
    return values[places.reshape(codes.shape)]


def needs_table(path: Path) -> DataError:
    """The refusal of a mask in colour for which there is no table."""
    counts = ColorCounts()
    counts.add(path)
    fitting = [name for name, palette in built_in().items() if set(counts.pixels) <= set(palette.values)]
    fits = f"; all of them are in --colors {fitting[0]}" if fitting else ""
    what = f"is a mask in colour, with {len(counts.pixels)} colours: {counts.told(counts.pixels)}{fits}"
    return DataError(what, path=path, hint="say what they are by --colors FILE, a CSV of name,r,g,b, or voc or camvid")


class SamePalette:
    """Sees that an entry has the same colour in all masks with palettes, whose entries are taken as the values."""

    def __init__(self) -> None:
        self._colors: dict[int, tuple[Color, Path]] = {}

    def check(self, path: Path) -> None:
        """Look at one more file.

        Raises:
            DataError: an entry has another colour than in a file before.
        """
        for entry, color in stored_palette(path).items():
            other, file = self._colors.setdefault(entry, (color, path))
            if other != color:
                here, there = (",".join(map(str, each)) for each in (color, other))
                what = f"its value {entry} is the colour {here}, and {there} in {file.name}"
                hint = "say what the colours are by --colors FILE, or save the values as a grey PNG"
                raise DataError(what, path=path, hint=hint)


def stored_palette(path: Path) -> dict[int, Color]:
    """Entry -> colour of an image with a palette, of the entries that it uses; empty for other images."""
    from PIL import Image

    if not path.name.lower().endswith((".png", ".tif", ".tiff")):
        return {}
    with Image.open(path) as image:
        stored = image.getpalette("RGB") if image.mode == "P" else None
        if stored is None:
            return {}
        used = np.unique(np.asarray(image)).tolist()
    found = {}
    for entry in used:
        red, green, blue = stored[3 * entry : 3 * entry + 3]
        found[entry] = (red, green, blue)
    return found
