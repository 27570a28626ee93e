"""What the colours of masks stand for: tables of a user, and the palettes of Pascal VOC and CamVid."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import ConfigError
from medseg.structure_names import named_twice, structure_key

Color = tuple[int, int, int]
IGNORE = 255
IGNORED = ("void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown")
"""Names of pixels that nobody judged."""

HINT = "accepted is a CSV with the columns name,r,g,b, voc or camvid"

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of Pascal VOC (Everingham et al., IJCV 2010) in the order of their values."""

VOC_VOID = (224, 224, 192)

CAMVID = {
    "Animal": (64, 128, 64), "Archway": (192, 0, 128), "Bicyclist": (0, 128, 192), "Bridge": (0, 128, 64),
    "Building": (128, 0, 0), "Car": (64, 0, 128), "CartLuggagePram": (64, 0, 192), "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128), "Fence": (64, 64, 128), "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64), "Misc_Text": (128, 128, 64), "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64), "ParkingBlock": (64, 192, 128), "Pedestrian": (64, 64, 0), "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192), "Sidewalk": (0, 0, 192), "SignSymbol": (192, 128, 128), "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192), "TrafficCone": (0, 0, 64), "TrafficLight": (0, 64, 64), "Train": (192, 64, 128),
    "Tree": (128, 128, 0), "Truck_Bus": (192, 128, 192), "Tunnel": (64, 0, 64), "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0), "Wall": (64, 192, 0),
}  # fmt: skip
"""The classes of CamVid (Brostow et al., 2009), whose Void nobody judged."""


@dataclass(frozen=True)
class Palette:
    """What colours stand for.

    Attributes:
        values: colour -> value in label files; 255 is to be ignored.
        labels: value -> name.
        has_background: whether 0 is what belongs to no structure.
    """

    values: Mapping[Color, int]
    labels: Mapping[int, str]
    has_background: bool

    @classmethod
    def of(cls, colors: Sequence[tuple[str, Color]]) -> Palette:
        """The classes in their order, from 1 where one of them is called background, which is 0, else from 0."""
        names = [structure_key(name) for name, _ in colors]
        has_background = "background" in names
        values: dict[Color, int] = {}
        labels: dict[int, str] = {}
        following = int(has_background)
        for name, color in colors:
            if structure_key(name) in IGNORED:
                values[color] = IGNORE
                continue
            value = 0 if structure_key(name) == "background" else following
            following += int(structure_key(name) != "background")
            values[color], labels[value] = value, name
        return cls(values, dict(sorted(labels.items())), has_background)


def voc_color(value: int) -> Color:
    """The colour of a value in Pascal VOC: its bits, three at a time, are the highest bits of red, green and blue.

    Examples:
        >>> voc_color(1), voc_color(15), voc_color(20)
        ((128, 0, 0), (192, 128, 128), (0, 64, 128))
    """
    color = [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            color[channel] |= (value >> channel & 1) << shift
        value >>= 3
    return color[0], color[1], color[2]


def built_in() -> dict[str, Palette]:
    """Name -> palette of a public data set."""
    voc = [(name, voc_color(value)) for value, name in enumerate(VOC)]
    return {"voc": Palette.of([*voc, ("void", VOC_VOID)]), "camvid": Palette.of(list(CAMVID.items()))}


def read_palette(given: str) -> Palette:
    """A table of colours, or one of the built-in palettes.

    Args:
        given: the path of a CSV with the columns name, r, g, b; or `voc` or `camvid`.

    Raises:
        ConfigError: there is no such file or palette; a line is wrong; a colour or a name is there twice.
    """
    known = built_in()
    if given.casefold() in known and not Path(given).exists():
        return known[given.casefold()]
    path = Path(given)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--colors {given} is no readable file", hint=HINT) from error
    first = text.partition("\n")[0]
    rows = list(csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count)))
    if not rows or [cell.strip().lower() for cell in rows[0]] != ["name", "r", "g", "b"]:
        raise ConfigError(f"its first line is '{first.strip()}' and not name,r,g,b", path=path, hint=HINT)
    colors: list[tuple[str, Color]] = []
    lines: dict[Color, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        name, color = _row(row, number, path)
        if color in lines:
            raise ConfigError(
                f"line {number} has the colour of line {lines[color]}", path=path, hint="one name a colour"
            )
        lines[color] = number
        colors.append((name, color))
    twice = named_twice(name for name, _ in colors)
    if twice:
        raise ConfigError(f"names '{twice[0]}' twice; accepted is one colour for each name", path=path)
    palette = Palette.of(colors)
    if len(palette.labels) < 2 or max(palette.labels) > 254:
        raise ConfigError(f"names {len(palette.labels)} classes; accepted are 2 to 255", path=path, hint=HINT)
    return palette


def _row(row: Sequence[str], number: int, path: Path) -> tuple[str, Color]:
    cells = [cell.strip() for cell in row]
    numbers = [int(cell) for cell in cells[1:] if cell.isdecimal()]
    if len(cells) != 4 or not cells[0] or len(numbers) != 3 or max(numbers) > 255:
        raise ConfigError(f"line {number} is '{','.join(cells)}'", path=path, hint="accepted is NAME,R,G,B of 0 to 255")
    return cells[0], (numbers[0], numbers[1], numbers[2])
