"""PyMIC's two commands on the CPU, its training ended in time; runs in PyMIC's environment, under `without_cuda.py`.

python without_cuda.py pymic_agent:train configuration.cfg
python without_cuda.py pymic_agent:predict configuration.cfg
"""

from __future__ import annotations

import os
import time
from typing import Any

from without_cuda import on_the_cpu

TIMED_STEPS = 5
ROUNDS = 10
BEGAN = time.monotonic()


def train() -> None:
    """Call `pymic_train` with as many iterations as `PEER_SECONDS` hold, counted from the import of this module."""
    from pymic.net_run import agent_seg
    from pymic.net_run import train as command

    agent_seg.torch = on_the_cpu()
    command.SegmentationAgent = timed(agent_seg.SegmentationAgent)
    command.main()


def predict() -> None:
    """Call `pymic_test`."""
    from pymic.net_run import agent_seg
    from pymic.net_run import predict as command

    agent_seg.torch = on_the_cpu()
    command.main()


def timed(agent: type) -> type:
    """Make a class of an agent that trains for `PEER_SECONDS`.

    PyMIC counts iterations, and its learning rate falls over them, so that their number has to be known first: two
    short rounds of some steps and a validation are made, the second of which is timed. They leave the network a few
    steps ahead; optimiser and schedule begin anew. What lasts a minute or less ends late, for the timing takes as long.

    Args:
        agent: PyMIC's agent for segmentation: trains by `train_valid`, which calls `training` and `validation` in turn.
    """

    class TimedAgent(agent):
        def train_valid(self) -> None:
            settings = self.config["training"]
            settings.update(iter_max=2 * TIMED_STEPS, iter_valid=TIMED_STEPS)
            super().train_valid()
            left_s = float(os.environ["PEER_SECONDS"]) - (time.monotonic() - BEGAN)
            step_s = self.seconds["training"] / TIMED_STEPS
            steps, rounds = fit(left_s, step_s, self.seconds["validation"])
            print(f"{step_s:.2f} s a step, {rounds} rounds of {steps} steps", flush=True)
            settings.update(iter_max=rounds * steps, iter_valid=steps)
            self.optimizer = self.scheduler = None
            super().train_valid()

        def training(self) -> Any:
            return self._timed("training", super().training)

        def validation(self) -> Any:
            return self._timed("validation", super().validation)

        def _timed(self, name: str, work: Any) -> Any:
            started = time.monotonic()
            result = work()
            self.seconds = {**getattr(self, "seconds", {}), name: time.monotonic() - started}
            return result

    return TimedAgent


def fit(left_s: float, step_s: float, validation_s: float) -> tuple[int, int]:
    """Steps of a round, and rounds of steps and one validation, that fit into a time; one of each at least.

    Example:
        >>> fit(100.0, 1.0, 2.0)
        (8, 10)
    """
    rounds = min(ROUNDS, max(1, int(left_s / (step_s + validation_s))))
    return max(1, int((left_s / rounds - validation_s) / step_s)), rounds
