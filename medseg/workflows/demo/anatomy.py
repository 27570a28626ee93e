"""A random abdomen as functions of space: where each tissue is, and how dense.

Coordinates are millimetres in RAS+ about the middle of the body: x to the patient's right, y to the front,
z to the head. All sizes vary between subjects as they roughly do between adults, organs move with
breathing, and a smooth random deformation bends everything together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LABELS = {
    0: "background",
    1: "liver",
    2: "spleen",
    3: "right kidney",
    4: "left kidney",
    5: "aorta",
    6: "stomach",
}
AIR, LUNG, FAT, MUSCLE, WATER = -1000.0, -840.0, -100.0, 50.0, 8.0
Vector = tuple[float, float, float]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Subject:
    """What differs between subjects beside the deformation; lengths in mm, densities in HU.

    Args:
        body: half axes of the trunk, left-right and front-back.
        fat: thickness under the skin.
        breath: how far down the diaphragm stands.
        arterial: enhancement of the aorta.
        portal: enhancement of liver and spleen.
        sizes: factor on each organ, by label.
        shifts: `(labels, 3)` displacement of each organ.
    """

    body: tuple[float, float]
    fat: float
    breath: float
    arterial: float
    portal: float
    sizes: np.ndarray
    shifts: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Subject:
        """A random adult; a third of them without contrast agent."""
        agent = float(rng.random() > 1 / 3)
        return cls(
            body=(float(rng.normal(136, 10)), float(rng.normal(98, 9))),
            fat=float(rng.uniform(5, 30)),
            breath=float(rng.uniform(-20, 20)),
            arterial=agent * float(rng.uniform(40, 240)) + float(rng.normal(0, 4)),
            portal=agent * float(rng.uniform(5, 80)) + float(rng.normal(0, 4)),
            sizes=np.clip(rng.normal(1, 0.14, len(LABELS)), 0.7, 1.35),
            shifts=np.clip(rng.normal(0, 9, (len(LABELS), 3)), -18, 18),
        )


class Canvas:
    """Density and labels on a fine grid; later strokes cover earlier ones.

    Args:
        points: `(3, X, Y, Z)` float32: where each fine voxel lies in the subject, deformation included.
        wobble: `(2, X, Y, Z)` smooth fields of unit variance that make outlines irregular.
    """

    def __init__(self, points: np.ndarray, wobble: np.ndarray) -> None:
        self.points, self.wobble = points, wobble
        self.density = np.full(points.shape[1:], AIR, np.float32)
        self.cavity = np.zeros(points.shape[1:], bool)
        self.label = np.zeros(points.shape[1:], np.uint8)
        # where, along each axis, something of a given coordinate can be at all
        self._spans = [self._span(axis) for axis in range(3)]

    def _span(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        others = tuple(a for a in range(3) if a != axis)
        coordinate = self.points[axis]
        return coordinate.min(axis=others), coordinate.max(axis=others)

    def box(self, center: Vector, radii: Vector) -> Box:
        """The part of the grid that an ellipsoid may touch."""
        found = []
        for (low, high), c, r in zip(self._spans, center, radii, strict=True):
            rows = np.flatnonzero((high >= c - 1.35 * r) & (low <= c + 1.35 * r))
            found.append(slice(rows[0], rows[-1] + 1) if rows.size else slice(0, 0))
        return found[0], found[1], found[2]

    def ellipsoid(self, box: Box, center: Vector, radii: Vector, *, lean: float = 0.0) -> np.ndarray:
        """Relative distance from the centre: below 1 inside. `lean` moves x by so many mm per mm of z."""
        x, y, z = (self.points[a][box] - np.float32(center[a]) for a in range(3))
        if lean:
            x = x - np.float32(lean) * z
        squares = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2
        return np.sqrt(squares) * (1 + 0.07 * self.wobble[0][box])

    def fill(self, box: Box, where: np.ndarray, density: float | np.ndarray, label: int = 0) -> None:
        """Put a tissue where `where` is true; what has a label stays within the cavity."""
        where = where & self.cavity[box] if label else where
        np.copyto(self.density[box], np.asarray(density, np.float32), where=where)
        np.copyto(self.label[box], np.uint8(label), where=where)


EVERYWHERE: Box = (slice(None), slice(None), slice(None))


def paint(canvas: Canvas, subject: Subject, rng: np.random.Generator) -> None:
    """Draw a subject from the outside in."""
    inside = _trunk(canvas, subject)
    _bowel(canvas, inside, rng)
    _chest(canvas, subject, inside)
    _spine(canvas, subject)
    _vessels(canvas, subject)
    _stomach(canvas, subject, rng)
    _spleen(canvas, subject)
    _kidneys(canvas, subject, rng)
    _liver(canvas, subject)


def _trunk(canvas: Canvas, subject: Subject) -> np.ndarray:
    """Table, skin, fat, muscle and ribs; returns how deep each voxel lies in the cavity, in mm."""
    x, y, z = canvas.points
    a, b = subject.body
    radius = ((np.abs(x) / a) ** 2.4 + (np.abs(y) / b) ** 2.4) ** np.float32(1 / 2.4)
    depth = (1 - radius) * np.float32(b)
    table = np.abs(y + b + 14 - (x / 26) ** 2) < 5
    canvas.fill(EVERYWHERE, table, -650.0)
    canvas.fill(EVERYWHERE, depth > 0, MUSCLE)
    canvas.fill(EVERYWHERE, depth > 2, FAT)  # under 2 mm of skin
    # the belly carries more of it than the back
    wall = depth - np.float32(subject.fat) * (1 + 0.35 * y / np.float32(b))
    canvas.fill(EVERYWHERE, wall > 0, MUSCLE)
    cavity = wall - 11
    canvas.fill(EVERYWHERE, cavity > 0, FAT)
    along = (z + np.float32(0.8) * y) * np.float32(2 * np.pi / 32)  # ribs run down towards the front
    ribs = (wall > 3) & (wall < 10) & (np.cos(along) > 0.6) & (z > -35) & (y + 0.5 * z < 60)
    canvas.fill(EVERYWHERE, ribs, 380.0)
    canvas.cavity = cavity > 0
    return cavity


def _bowel(canvas: Canvas, cavity: np.ndarray, rng: np.random.Generator) -> None:
    """Loops of soft tissue between the fat, with some gas: what a careless network takes for organs."""
    x, y, z = canvas.points
    phase = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    loops = np.sin(x / 13 + phase[0] + canvas.wobble[0]) + np.sin(y / 12 + phase[1] + canvas.wobble[1])
    loops += np.sin(z / 15 + phase[2])
    there = (cavity > 4) & (z < 25) & (y > -30) & (loops > 0.35)
    canvas.fill(EVERYWHERE, there, 30.0)
    gas = there & (loops > 2.0) & (y > 5)
    canvas.fill(EVERYWHERE, gas, -720.0)
    canvas.fill(EVERYWHERE, there & (loops > 1.9) & ~gas, WATER + 8)


def _chest(canvas: Canvas, subject: Subject, cavity: np.ndarray) -> None:
    """Lungs above two domes, and the lower part of the heart."""
    x, y, z = canvas.points
    apart = np.float32(62)
    dome = 92 - subject.breath - ((np.abs(x) - apart) / 62) ** 2 * 38 - ((y - 5) / 75) ** 2 * 34
    dome = dome + np.where(x > 0, np.float32(6), np.float32(-4))
    canvas.fill(EVERYWHERE, (cavity > 1) & (z > dome), LUNG)
    center = (-22.0, 28.0, 108.0 - subject.breath)
    box = canvas.box(center, (52, 40, 36))
    canvas.fill(box, canvas.ellipsoid(box, center, (52, 40, 36)) < 1, 42 + 0.6 * subject.arterial)


def _spine(canvas: Canvas, subject: Subject) -> None:
    """Vertebrae with discs, canal and processes, and the muscles beside them."""
    front = 58 - subject.body[1]
    box = canvas.box((0, front - 34, 0), (48, 40, 200))
    x, y, z = (axis[box] for axis in canvas.points)
    side, y = np.abs(x), y - front
    back = ((side - 34) / 22) ** 2 + ((y + 36) / 17) ** 2 < 1
    psoas = (((side - 33) / 13) ** 2 + ((y + 12) / 15) ** 2 < 1) & (z < 0)
    canvas.fill(box, back | psoas, MUSCLE + 4)
    body = (x / 21) ** 2 + ((y + 14) / 16) ** 2
    disc = np.cos((z + 7) * np.float32(2 * np.pi / 34)) > 0.86
    canvas.fill(box, body < 1, np.where(disc, np.float32(85), np.float32(480)))
    canvas.fill(box, (body < 0.7) & ~disc, 190.0)
    arch = (np.abs(np.sqrt((x / 15) ** 2 + ((y + 38) / 14) ** 2) - 0.9) < 0.24) & ~disc
    process = (side < 4) & (y < -50) & (y > -76) & ~disc
    canvas.fill(box, arch | process, 420.0)
    canvas.fill(box, (x / 9) ** 2 + ((y + 37) / 8) ** 2 < 1, 25.0)


def _vessels(canvas: Canvas, subject: Subject) -> None:
    """Aorta left and cava right of the middle, in front of the spine."""
    front = 58 - subject.body[1]
    box = canvas.box((4, front + 10, 0), (40, 22, 200))
    x, y, z = (axis[box] for axis in canvas.points)
    x = x - 4 * np.sin(z / 45 + np.float32(subject.shifts[5, 2]))  # they sway
    cava = ((x - 20) / 13) ** 2 + ((y - front - 10) / 10) ** 2
    canvas.fill(box, cava < 1, 42 + 0.75 * subject.portal)
    radius = 11.5 * float(subject.sizes[5]) * (1 + 0.0014 * z)  # it narrows on its way down
    aorta = (x + 11 - 0.5 * float(subject.shifts[5, 0])) ** 2 + (y - front - 9) ** 2
    canvas.fill(box, aorta < radius**2, 42 + subject.arterial, label=5)


def _around(one: Box, other: Box) -> Box:
    x, y, z = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return x, y, z


def _placed(subject: Subject, label: int, center: Vector, radii: Vector) -> tuple[Vector, Vector]:
    """An organ where this subject has it; half of the breathing reaches the kidneys, all of it the rest."""
    moved = np.array(center) + subject.shifts[label] - [0, 0, subject.breath * (0.5 if label in (3, 4) else 1)]
    moved[:2] *= (np.array(subject.body) + 15 - subject.fat) / (136, 98)
    scaled = np.array(radii) * subject.sizes[label]
    x, y, z = moved.tolist()  # plain floats keep the fields in single precision
    a, b, c = scaled.tolist()
    return (x, y, z), (a, b, c)


def _stomach(canvas: Canvas, subject: Subject, rng: np.random.Generator) -> None:
    center, radii = _placed(subject, 6, (-42, 38, 36), (36, 34, 46))
    box = canvas.box(center, radii)
    shape = canvas.ellipsoid(box, center, radii, lean=-0.35)
    canvas.fill(box, shape < 1, 48 + 0.3 * subject.portal, label=6)
    lumen = shape < 1 - 4 / radii[0]
    canvas.fill(box, lumen, rng.uniform(2, 35), label=6)
    level = center[1] + radii[1] * rng.uniform(-0.1, 0.7)  # the patient lies on the back: gas is in front
    canvas.fill(box, lumen & (canvas.points[1][box] > level), -950.0, label=6)


def _spleen(canvas: Canvas, subject: Subject) -> None:
    center, radii = _placed(subject, 2, (-80, -26, 42), (32, 46, 45))
    box = canvas.box(center, radii)
    hollow = canvas.ellipsoid(box, (center[0] + 46, center[1] + 20, center[2] - 6), (30, 40, 46))
    shape = canvas.ellipsoid(box, center, radii, lean=-0.2)
    canvas.fill(box, (shape < 1) & (hollow > 1), 48 + subject.portal, label=2)


def _kidneys(canvas: Canvas, subject: Subject, rng: np.random.Generator) -> None:
    cortex, medulla = 32 + subject.portal + 0.5 * subject.arterial, 30 + 0.8 * subject.portal
    for label, side, height in ((3, 1, -22.0), (4, -1, -10.0)):
        center, radii = _placed(subject, label, (side * 60.0, -36.0, height), (27, 27, 52))
        box = canvas.box(center, radii)
        shape = canvas.ellipsoid(box, center, radii, lean=-0.22 * side)
        canvas.fill(box, shape < 1.25, FAT)
        inner = (center[0] - side * 17, center[1] + 6, center[2])
        sinus = canvas.ellipsoid(box, inner, (16, 11, 20))
        canvas.fill(box, (shape < 1) & (sinus > 1), cortex, label=label)
        canvas.fill(box, (shape < 0.72) & (sinus > 1), medulla, label=label)
        if rng.random() < 0.3:  # a cyst belongs to the kidney
            x, y, z = center[0] + side * 14, center[1] - 8, center[2] + rng.uniform(-25, 25)
            cyst = canvas.ellipsoid(box, (x, y, z), (11, 11, 11))
            canvas.fill(box, (cyst < 1) & (shape < 1.1), WATER, label=label)


def _liver(canvas: Canvas, subject: Subject) -> None:
    center, radii = _placed(subject, 1, (66, 2, 34), (66, 74, 62))
    second, lobe = _placed(subject, 1, (6, 46, 48), (66, 30, 34))
    box = _around(canvas.box(center, radii), canvas.box(second, lobe))
    right, left = canvas.ellipsoid(box, center, radii), canvas.ellipsoid(box, second, lobe)
    # a smooth union, cut by what lies behind it: the right kidney and the spine press into the liver
    shape = -0.12 * np.log(np.exp(-right / 0.12) + np.exp(-left / 0.12))
    behind = canvas.ellipsoid(box, (center[0] - 34, center[1] - 48, center[2] - 46), (52, 42, 48))
    taken = canvas.label[box]
    free = (taken != 3) & (taken != 5) & (canvas.density[box] > LUNG + 60) & (canvas.density[box] < 170)
    canvas.fill(box, (shape < 1) & (behind > 1) & free, 57 + subject.portal, label=1)
    gall = (center[0] - 26, center[1] + 34, center[2] - 44)
    inside = canvas.box(gall, (15, 17, 22))
    there = canvas.ellipsoid(inside, gall, (15, 17, 22)) < 1
    canvas.fill(inside, there, 6.0)
