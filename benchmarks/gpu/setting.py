"""What every step is told: where to write, until when, and how large its work is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from journal import Journal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sizes:
    """How large the work is.

    Args:
        scan: voxels of a generated scan for patches.
        patch: of a 3D step, 2 labelled + 2 unlabelled of them.
        width: channels of the V-Net's first level.
        slices: patch of a 2D step.
        slice_scan: voxels of a generated scan for slices.
        batch_size: slices of a 2D step.
        rounds: timings of which the median counts.
        steps: of training in one timing; below 20, at which the trainer waits for the GPU.
        loaded: steps with a loader.
        body: voxels of the volume for sliding windows.
        window: of these.
        classes: of these.
        checked: steps of the trainings that are compared bit for bit.
        iterations: most of a training of part 2; the paper's.
    """

    scan: tuple[int, int, int] = (176, 144, 88)
    patch: tuple[int, int, int] = (112, 112, 80)
    width: int = 16
    slices: tuple[int, int] = (256, 256)
    slice_scan: tuple[int, int, int] = (288, 288, 32)
    batch_size: int = 16
    rounds: int = 5
    steps: int = 3
    loaded: int = 40
    body: tuple[int, int, int] = (512, 512, 300)
    window: tuple[int, int, int] = (96, 96, 96)
    classes: int = 14
    checked: int = 40
    iterations: int = 6000


TINY = Sizes(
    scan=(24, 24, 20),
    patch=(8, 8, 8),
    width=4,
    slices=(16, 16),
    slice_scan=(24, 24, 20),
    batch_size=2,
    rounds=2,
    steps=2,
    loaded=6,
    body=(24, 20, 18),
    window=(16, 16, 16),
    checked=30,
    iterations=8,
)


@dataclass(frozen=True)
class Setting:
    """One step's orders.

    Args:
        part: "part1" or "part2".
        out: folder of the results.
        work: folder of everything else; what a part that was cut off goes on with lies here.
        until: time at which the step must have ended, seconds since 1970.
        deadline: time at which the whole part must have ended.
        tiny: sizes for a dry run, whose numbers mean nothing.
    """

    part: str
    out: Path
    work: Path
    until: float
    deadline: float
    tiny: bool

    @property
    def sizes(self) -> Sizes:
        """Those of the real run, or of the dry run."""
        return TINY if self.tiny else Sizes()

    @cached_property
    def journal(self) -> Journal:
        """Where rows go."""
        return Journal(self.out, self.part)

    @property
    def device(self) -> torch.device:
        """The GPU; the CPU where there is none."""
        import torch  # not at the top: the process that starts the steps needs none of it

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
