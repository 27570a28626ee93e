"""A segmenter with two heads and two cases on which they differ, for processes that validate together.

    python two_heads.py RANK FOLDER

In the folder each of two processes leaves the scores that it came to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from given_networks import factory
from torch import nn

from medseg.methods.auxsegnet import HEADS
from medseg.workflows.train.stages.validation_volumes import score_heads


class OneClass(nn.Module):
    """Says class 1 everywhere by its refined head, and class 2 by its plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.refined = True
        self.network_definition = {"refined": True}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image `(B, C, *spatial)` to logits `(B, 3, *spatial)`."""
        logits = torch.zeros(len(image), 3, *image.shape[2:])
        logits[:, 1 if self.refined else 2] = 1
        return logits


def score_cases(cases: Sequence[int] = (0, 1)) -> dict:
    """The scores of the heads: of case 0 nearly all is class 1, of case 1 all is class 2."""
    network = OneClass()
    method = SimpleNamespace(head_choices=HEADS, segmenter=lambda: network)
    labels = [np.ones((16, 16, 16), np.uint8), np.full((16, 16, 16), 2, np.uint8)]
    labels[0][:4] = 0
    image = np.zeros((1, 16, 16, 16), np.float16)
    volumes = [SimpleNamespace(image=image, label=labels[case], covered=None) for case in cases]
    spec = factory(3, channels=1).data.model_copy(update={"patch": (16, 16, 16)})
    return score_heads(method, network, volumes, spec, torch.device("cpu"))  # type: ignore[arg-type]


def main(rank: int, folder: Path) -> None:
    """Score the cases together with the other process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/met", rank=rank, world_size=2)
    (folder / f"{rank}.json").write_text(json.dumps(score_cases()))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
