"""AEL, which adds up over all processes in each step; notes how many steps its run has, one file per rank."""

from __future__ import annotations

import os
from pathlib import Path

from medseg.method import Clock
from medseg.methods.ael import AEL


class Counting(AEL):
    def after_step(self, clock: Clock) -> None:
        super().after_step(clock)
        if clock.iteration == clock.total - 1:
            Path(os.environ["SPY_FOLDER"], f"rank{os.environ['RANK']}").write_text(str(clock.total))
