"""A method of your own in one file: mean teacher, as an example, trained on generated data.

    python examples/own_method.py

Tarvainen & Valpola: Mean teachers are better role models, NeurIPS 2017. The student also learns to agree with an
average of its own past on the unlabelled patches:

    L = soft Dice + CE + w(t) mean (softmax(student(x + noise)) - softmax(teacher(x)))^2

Everything else (data, engine, resume, bundle, prediction) is medseg's. On the command line:

    medseg train --task supervised --method examples/own_method.py:MeanTeacher --data M.json
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

import medseg
from medseg.method import LABELED, Batch, Clock, Method, Networks, Stream
from medseg.ops.losses import segmentation as losses
from medseg.ops.schedules import sigmoid_rampup


class MeanTeacher(Method):
    """Consistency with an exponential moving average of the student.

    Args:
        networks: makes the student.
        decay: of the average.
        consistency: final weight of the agreement.
        noise: standard deviation added to the student's input.
    """

    streams = (LABELED, Stream("unlabeled", optional=True))

    def __init__(
        self, networks: Networks, *, decay: float = 0.99, consistency: float = 1.0, noise: float = 0.1
    ) -> None:
        super().__init__(networks)
        self.network = networks.segmenter()
        self.teacher = copy.deepcopy(self.network).requires_grad_(False)
        self.decay, self.consistency, self.noise = decay, consistency, noise

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Terms `dice`, `cross_entropy` and `agreement`."""
        labeled = batch["labeled"]
        unlabeled = batch.get("unlabeled", labeled)["image"]  # a data set may have no unlabelled case
        logits = self.network(torch.cat([labeled["image"], unlabeled + self.noise * torch.randn_like(unlabeled)]))
        size = len(labeled["image"])
        with torch.no_grad():
            target = self.teacher(unlabeled).softmax(1)
        weight = self.consistency * sigmoid_rampup(clock.fraction)
        return {
            "dice": losses.soft_dice(logits[:size], labeled["label"], labeled.get("covered")),
            "cross_entropy": losses.cross_entropy(logits[:size], labeled["label"], labeled.get("covered")),
            "agreement": weight * (logits[size:].softmax(1) - target).square().mean(),
        }

    def after_step(self, clock: Clock) -> None:
        """Move the teacher towards the student."""
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
                old.lerp_(new, 1 - self.decay)
            for old, new in zip(self.teacher.buffers(), self.network.buffers(), strict=True):
                old.copy_(new)

    def segmenter(self) -> nn.Module:
        """The teacher predicts."""
        return self.teacher


def main(folder: Path = Path("runs/own_method")) -> Path:
    """Generate data, train for a few iterations, predict the test cases."""
    from medseg.workflows.demo.phantom import write_phantoms

    manifest = write_phantoms(folder / "data", labeled=2, unlabeled=2, validation=0, test=1, shape=(32, 32, 16))
    pipeline = {
        "name": "own_method",
        "stages": [
            {
                "method": {"name": "MeanTeacher", "options": {"decay": 0.95}},
                "network": {"name": "unet", "width": 4},
                "schedule": {"iterations": 20, "batch": {"labeled": 2, "unlabeled": 2}},
            }
        ],
    }
    task = folder / "own_method.yaml"
    task.write_text(yaml.safe_dump(pipeline))
    run = medseg.train(str(task), manifest, folder / "run", method=MeanTeacher)
    medseg.predict(run, manifest, folder / "prediction")
    return folder / "prediction"


if __name__ == "__main__":
    print(main(*(Path(text) for text in sys.argv[1:])))
