"""A random abdomen as functions of space: where each tissue is, and how dense.

Coordinates are millimetres in RAS+ about the middle of the body: x to the patient's right, y to the front,
z to the head. All sizes vary between subjects as they roughly do between adults, organs move with
breathing, and a smooth random deformation bends everything together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.workflows.demo.tissue_grid import EVERYWHERE, TissueGrid, Vector, enclosing_box

LIVER, SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, AORTA, STOMACH = range(1, 7)
LABELS = {
    0: "background",
    LIVER: "liver",
    SPLEEN: "spleen",
    RIGHT_KIDNEY: "right kidney",
    LEFT_KIDNEY: "left kidney",
    AORTA: "aorta",
    STOMACH: "stomach",
}

LUNG, FAT, MUSCLE, WATER = -840.0, -100.0, 50.0, 8.0
"""Hounsfield units."""

MEAN_BODY = (136, 98)
"""Mean half axes of the trunk in mm."""


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
        width = float(rng.normal(136, 10))
        depth = float(rng.normal(98, 9))
        fat = float(rng.uniform(5, 30))
        breath = float(rng.uniform(-20, 20))
        arterial = agent * float(rng.uniform(40, 240)) + float(rng.normal(0, 4))
        portal = agent * float(rng.uniform(5, 80)) + float(rng.normal(0, 4))
        sizes = np.clip(rng.normal(1, 0.14, len(LABELS)), 0.7, 1.35)
        shifts = np.clip(rng.normal(0, 9, (len(LABELS), 3)), -18, 18)
        return cls((width, depth), fat, breath, arterial, portal, sizes, shifts)

    def place_organ(self, label: int, center: Vector, radii: Vector) -> tuple[Vector, Vector]:
        """Centre and radii of an organ in this subject, from those of the mean adult."""
        is_kidney = label in (RIGHT_KIDNEY, LEFT_KIDNEY)
        descent = self.breath * (0.5 if is_kidney else 1)  # half of the breathing reaches the kidneys
        moved = np.array(center) + self.shifts[label] - [0, 0, descent]
        moved[:2] *= (np.array(self.body) + 15 - self.fat) / MEAN_BODY
        scaled = np.array(radii) * self.sizes[label]
        x, y, z = moved.tolist()  # plain floats keep the arrays in single precision
        a, b, c = scaled.tolist()
        return (x, y, z), (a, b, c)


def fill_anatomy(grid: TissueGrid, subject: Subject, rng: np.random.Generator) -> None:
    """Fill the grid with a subject, from the outside in."""
    depth = _fill_trunk(grid, subject)
    _fill_bowel(grid, depth, rng)
    _fill_chest(grid, subject, depth)
    _fill_spine(grid, subject)
    _fill_vessels(grid, subject)
    _fill_stomach(grid, subject, rng)
    _fill_spleen(grid, subject)
    _fill_kidneys(grid, subject, rng)
    _fill_liver(grid, subject)


def _ellipse(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> np.ndarray:
    """Squared relative distance from the centre of an ellipse: below 1 inside."""
    return (x / half_x) ** 2 + (y / half_y) ** 2


def _fill_trunk(grid: TissueGrid, subject: Subject) -> np.ndarray:
    """Table, skin, fat, muscle and ribs; returns how deep each voxel lies in the cavity, in mm."""
    x, y, z = grid.points
    half_width, half_depth = subject.body
    radius = ((np.abs(x) / half_width) ** 2.4 + (np.abs(y) / half_depth) ** 2.4) ** np.float32(1 / 2.4)
    below_skin = (1 - radius) * np.float32(half_depth)
    table = np.abs(y + half_depth + 14 - (x / 26) ** 2) < 5
    grid.fill(EVERYWHERE, table, -650.0)
    grid.fill(EVERYWHERE, below_skin > 0, MUSCLE)
    grid.fill(EVERYWHERE, below_skin > 2, FAT)  # under 2 mm of skin
    # the belly carries more of it than the back
    below_fat = below_skin - np.float32(subject.fat) * (1 + 0.35 * y / np.float32(half_depth))
    grid.fill(EVERYWHERE, below_fat > 0, MUSCLE)
    depth = below_fat - 11
    grid.fill(EVERYWHERE, depth > 0, FAT)
    phase = (z + np.float32(0.8) * y) * np.float32(2 * np.pi / 32)  # ribs run down towards the front
    in_wall = (below_fat > 3) & (below_fat < 10)
    in_chest = (z > -35) & (y + 0.5 * z < 60)
    ribs = in_wall & (np.cos(phase) > 0.6) & in_chest
    grid.fill(EVERYWHERE, ribs, 380.0)
    grid.cavity = depth > 0
    return depth


def _fill_bowel(grid: TissueGrid, depth: np.ndarray, rng: np.random.Generator) -> None:
    """Loops of soft tissue between the fat, with some gas: what a careless network takes for organs."""
    x, y, z = grid.points
    phase = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    waves_x = np.sin(x / 13 + phase[0] + grid.irregularity[0])
    waves_y = np.sin(y / 12 + phase[1] + grid.irregularity[1])
    loops = waves_x + waves_y
    loops += np.sin(z / 15 + phase[2])
    in_belly = (depth > 4) & (z < 25) & (y > -30)
    bowel = in_belly & (loops > 0.35)
    grid.fill(EVERYWHERE, bowel, 30.0)
    gas = bowel & (loops > 2.0) & (y > 5)
    grid.fill(EVERYWHERE, gas, -720.0)
    fluid = bowel & (loops > 1.9) & ~gas
    grid.fill(EVERYWHERE, fluid, WATER + 8)


def _fill_chest(grid: TissueGrid, subject: Subject, depth: np.ndarray) -> None:
    """Lungs above two domes, and the lower part of the heart."""
    x, y, z = grid.points
    side = np.abs(x) - np.float32(62)  # from the top of each dome
    dome = 92 - subject.breath - (side / 62) ** 2 * 38 - ((y - 5) / 75) ** 2 * 34
    dome = dome + np.where(x > 0, np.float32(6), np.float32(-4))
    grid.fill(EVERYWHERE, (depth > 1) & (z > dome), LUNG)
    center, radii = (-22.0, 28.0, 108.0 - subject.breath), (52, 40, 36)
    box = grid.box(center, radii)
    heart = grid.ellipsoid(box, center, radii) < 1
    grid.fill(box, heart, 42 + 0.6 * subject.arterial)


def _fill_spine(grid: TissueGrid, subject: Subject) -> None:
    """Vertebrae with discs, canal and processes, and the muscles beside them."""
    front = 58 - subject.body[1]
    box = grid.box((0, front - 34, 0), (48, 40, 200))
    x, y, z = (coordinate[box] for coordinate in grid.points)
    side = np.abs(x)
    y = y - front
    back_muscles = _ellipse(side - 34, y + 36, 22, 17) < 1
    psoas = (_ellipse(side - 33, y + 12, 13, 15) < 1) & (z < 0)
    grid.fill(box, back_muscles | psoas, MUSCLE + 4)
    body = _ellipse(x, y + 14, 21, 16)
    disc = np.cos((z + 7) * np.float32(2 * np.pi / 34)) > 0.86
    grid.fill(box, body < 1, np.where(disc, np.float32(85), np.float32(480)))
    grid.fill(box, (body < 0.7) & ~disc, 190.0)
    ring = np.sqrt(_ellipse(x, y + 38, 15, 14))
    arch = (np.abs(ring - 0.9) < 0.24) & ~disc
    process = (side < 4) & (y < -50) & (y > -76) & ~disc
    grid.fill(box, arch | process, 420.0)
    canal = _ellipse(x, y + 37, 9, 8) < 1
    grid.fill(box, canal, 25.0)


def _fill_vessels(grid: TissueGrid, subject: Subject) -> None:
    """Aorta left and cava right of the middle, in front of the spine."""
    front = 58 - subject.body[1]
    box = grid.box((4, front + 10, 0), (40, 22, 200))
    x, y, z = (coordinate[box] for coordinate in grid.points)
    x = x - 4 * np.sin(z / 45 + np.float32(subject.shifts[AORTA, 2]))  # they sway
    cava = _ellipse(x - 20, y - front - 10, 13, 10) < 1
    grid.fill(box, cava, 42 + 0.75 * subject.portal)
    radius = 11.5 * float(subject.sizes[AORTA]) * (1 + 0.0014 * z)  # it narrows on its way down
    squared_distance = (x + 11 - 0.5 * float(subject.shifts[AORTA, 0])) ** 2 + (y - front - 9) ** 2
    grid.fill(box, squared_distance < radius**2, 42 + subject.arterial, label=AORTA)


def _fill_stomach(grid: TissueGrid, subject: Subject, rng: np.random.Generator) -> None:
    center, radii = subject.place_organ(STOMACH, (-42, 38, 36), (36, 34, 46))
    box = grid.box(center, radii)
    distance = grid.ellipsoid(box, center, radii, lean=-0.35)
    grid.fill(box, distance < 1, 48 + 0.3 * subject.portal, label=STOMACH)
    lumen = distance < 1 - 4 / radii[0]
    grid.fill(box, lumen, rng.uniform(2, 35), label=STOMACH)
    level = center[1] + radii[1] * rng.uniform(-0.1, 0.7)  # the patient lies on the back: gas is in front
    gas = lumen & (grid.points[1][box] > level)
    grid.fill(box, gas, -950.0, label=STOMACH)


def _fill_spleen(grid: TissueGrid, subject: Subject) -> None:
    center, radii = subject.place_organ(SPLEEN, (-80, -26, 42), (32, 46, 45))
    box = grid.box(center, radii)
    hollow_center = (center[0] + 46, center[1] + 20, center[2] - 6)
    hollow = grid.ellipsoid(box, hollow_center, (30, 40, 46)) <= 1
    inside = grid.ellipsoid(box, center, radii, lean=-0.2) < 1
    grid.fill(box, inside & ~hollow, 48 + subject.portal, label=SPLEEN)


def _fill_kidneys(grid: TissueGrid, subject: Subject, rng: np.random.Generator) -> None:
    cortex = 32 + subject.portal + 0.5 * subject.arterial
    medulla = 30 + 0.8 * subject.portal
    for label, side, height in ((RIGHT_KIDNEY, 1, -22.0), (LEFT_KIDNEY, -1, -10.0)):
        center, radii = subject.place_organ(label, (side * 60.0, -36.0, height), (27, 27, 52))
        box = grid.box(center, radii)
        distance = grid.ellipsoid(box, center, radii, lean=-0.22 * side)
        grid.fill(box, distance < 1.25, FAT)
        sinus_center = (center[0] - side * 17, center[1] + 6, center[2])
        sinus = grid.ellipsoid(box, sinus_center, (16, 11, 20)) <= 1
        grid.fill(box, (distance < 1) & ~sinus, cortex, label=label)
        grid.fill(box, (distance < 0.72) & ~sinus, medulla, label=label)
        if rng.random() < 0.3:  # a cyst belongs to the kidney
            cyst_center = (center[0] + side * 14, center[1] - 8, center[2] + rng.uniform(-25, 25))
            cyst = grid.ellipsoid(box, cyst_center, (11, 11, 11)) < 1
            grid.fill(box, cyst & (distance < 1.1), WATER, label=label)


def _fill_liver(grid: TissueGrid, subject: Subject) -> None:
    """Two lobes, pressed in by the right kidney and the spine, and the gall bladder."""
    center, radii = subject.place_organ(LIVER, (66, 2, 34), (66, 74, 62))
    left_center, left_radii = subject.place_organ(LIVER, (6, 46, 48), (66, 30, 34))
    box = enclosing_box(grid.box(center, radii), grid.box(left_center, left_radii))
    right = grid.ellipsoid(box, center, radii)
    left = grid.ellipsoid(box, left_center, left_radii)
    union = -0.12 * np.log(np.exp(-right / 0.12) + np.exp(-left / 0.12))  # smooth
    behind_center = (center[0] - 34, center[1] - 48, center[2] - 46)
    behind = grid.ellipsoid(box, behind_center, (52, 42, 48)) <= 1
    label, density = grid.label[box], grid.density[box]
    is_free = (label != RIGHT_KIDNEY) & (label != AORTA)
    is_soft = (density > LUNG + 60) & (density < 170)
    grid.fill(box, (union < 1) & ~behind & is_free & is_soft, 57 + subject.portal, label=LIVER)
    gall_center, gall_radii = (center[0] - 26, center[1] + 34, center[2] - 44), (15, 17, 22)
    gall_box = grid.box(gall_center, gall_radii)
    gall_bladder = grid.ellipsoid(gall_box, gall_center, gall_radii) < 1
    grid.fill(gall_box, gall_bladder, 6.0)
