"""Segmentation from image-level tags alone, in one file: a method with class-activation maps, and a rule on them.

    python examples/tags_only.py

A classifier learns which structures an image shows. Where it looks (Zhou et al., Learning deep features for
discriminative localization, CVPR 2016) becomes a pseudo-label, from which an ordinary network then learns to segment;
a second pass labels again, by the maps of a classifier that started from that network. See `PIPELINE`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from torch import Tensor, nn

import medseg
from medseg.method import IGNORE, Batch, Clock, Method, Networks, Predictions, PseudoLabels, Stream
from medseg.ops.losses import segmentation as losses
from medseg.portable.networks.encoder_decoder import FeatureMaps

PIPELINE = """
name: tags_only
stages:
  - repeat: 2
    stop_dice: 0.99
    stages:
      - method: {name: TagClassifier}
        network: {name: unet, width: 4}
        init: previous
        then: {rule: {name: MapsOfTags}}
        schedule: {iterations: 30, lr: 0.05}
      - method: {name: supervised}
        network: {name: unet, width: 4}
        init: previous
        schedule: {iterations: 20}
"""


class TagClassifier(Method):
    """A classifier of tags by the mean of its class-activation maps; it makes no segmenter.

    Args:
        networks: makes the encoder, and a 1x1 convolution with a channel for each foreground class.
    """

    streams = (Stream("weak", ("tags",), optional=True), Stream("labeled", ("tags",), optional=True))

    def __init__(self, networks: Networks) -> None:
        super().__init__(networks)
        self.network = networks.encoder_decoder()
        self.classifier = networks.head(self.network.channels[-1], self.classes - 1)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Term `tags`: binary cross-entropy of each class, where its presence is known."""
        image = torch.cat([part["image"] for part in batch.values()])
        tags = torch.cat([part["tags"] for part in batch.values()])
        logits = self.classifier(self.network.encode(image)[-1]).flatten(2).mean(2)
        each = nn.functional.binary_cross_entropy_with_logits(logits, (tags == 1).float(), reduction="none")
        # the decoder takes no part; processes that train together need every parameter in the graph
        unused = sum(parameter.sum() for parameter in self.network.parameters())
        return {"tags": losses.masked_mean(each, tags != IGNORE) + 0 * unused}

    def segmenter(self) -> None:
        """There is none."""

    def pretrained(self) -> nn.Module:
        """The next stage starts from the encoder."""
        return self.network

    def maps(self) -> nn.Module:
        """For each foreground class a map, as large as the image."""
        return FeatureMaps(self.network, self.classifier)


class MapsOfTags(PseudoLabels):
    """The map of each class that is not known to be absent, divided by its maximum; the largest wins where it is high.

    Where a class wins that nobody looked for, nothing is learnt.

    Args:
        classes: number of classes with background.
        high: share of the maximum above which a voxel is of the class.
        low: below which, in all maps, it is background; between the two nothing is learnt.
    """

    needs = "maps"

    def __init__(self, classes: int, *, high: float = 0.5, low: float = 0.2) -> None:
        super().__init__(classes)
        self.high, self.low = high, low

    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> Tensor | None:
        """`(X, Y, Z)` uint8; None for a case without tags."""
        if case.tags is None or case.maps is None:
            return None
        maps = case.maps[0].float().clamp_min(0)
        maps /= maps.flatten(1).amax(1).clamp_min(1e-5)[:, None, None, None]
        for index in range(1, self.classes):
            if case.tags.get(index) is False:
                maps[index - 1] = 0
        largest, winner = maps.max(0)
        label = torch.full(largest.shape, IGNORE, dtype=torch.uint8)
        label[largest < self.low] = 0
        found = largest > self.high
        label[found] = (winner[found] + 1).to(torch.uint8)
        for index in range(1, self.classes):
            if index not in case.tags:
                label[label == index] = IGNORE
        return label


def write_tagged(folder: Path) -> Path:
    """Six small volumes, each with a bright ball, a dark box, both or neither, of which tags alone tell."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1)
    cases = []
    for number, tags in enumerate((["ball"], ["box"], ["ball", "box"], [], ["ball"], ["box"])):
        image = random.normal(0, 10, grid.shape[:3])
        if "ball" in tags:
            image[np.linalg.norm(grid - random.uniform(7, 16, 3), axis=-1) < 5] += 60
        if "box" in tags:
            x, y, z = random.integers(2, 14, 3)
            image[x : x + 8, y : y + 8, z : z + 8] -= 60
        nib.save(nib.Nifti1Image(image.astype(np.int16), np.eye(4)), folder / f"case{number}.nii.gz")
        cases.append({"image": f"case{number}.nii.gz", "tags": tags})
    content = {"labels": {"0": "background", "1": "ball", "2": "box"}, "modality": {"0": "MR"}, "training": cases}
    path = folder / "tagged.json"
    path.write_text(json.dumps(content, indent=1))
    return path


def main(folder: Path = Path("runs/tags_only")) -> Path:
    """Generate data, and train on it for a few iterations."""
    manifest = write_tagged(folder / "data")
    task = folder / "tags_only.yaml"
    task.write_text(yaml.safe_dump({**yaml.safe_load(PIPELINE), "data": {"patch": [16, 16, 16]}}))
    return medseg.train(str(task), manifest, folder / "run", method=[TagClassifier, MapsOfTags])


if __name__ == "__main__":
    print(main(*(Path(text) for text in sys.argv[1:])))
