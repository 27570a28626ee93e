"""Small methods and rules, each of a kind that a paper may be: what the contract must make possible."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from torch import nn

from medseg.method import IGNORE, LABELED, LabelAndMaps, Method, PseudoLabels, Stream
from medseg.ops.losses import segmentation as losses
from medseg.portable.networks.encoder_decoder import FeatureMaps


class TagsAndMaps(Method):
    """Image-level tags: a classifier on features, its class maps, and a saliency map; a head of its own predicts.

    Args:
        networks: makes the network.
    """

    streams = (Stream("weak", ("tags", "saliency", "index"), group="tags", group_size=3),)

    def __init__(self, networks):
        super().__init__(networks)
        network = networks.encoder_decoder()
        self.classifier = networks.head(network.channels[-1], self.classes - 1)
        self.headed = networks.headed(network, networks.head(network.width, self.classes))
        self.register_buffer("seen", torch.zeros(100, dtype=torch.int64))

    def segmenter(self):
        return self.headed

    def forward(self, batch, clock):
        weak = batch["weak"]
        for group in weak["tags"].split(3):
            assert bool((group == 1).all(0).any()), "the images of a group share a tag"
        self.seen.index_add_(0, weak["index"], torch.ones_like(weak["index"]))
        network = self.headed.network
        features = network.encode(weak["image"])
        maps = self.classifier(features[-1])
        known = weak["tags"] != IGNORE
        tags = (weak["tags"] == 1).float()
        each = nn.functional.binary_cross_entropy_with_logits(maps.flatten(2).mean(2), tags, reduction="none")
        foreground = 1 - self.headed.head(network.decode(features)).softmax(1)[:, :1]
        return {
            "tags": losses.masked_mean(each, known),
            "saliency": (foreground - weak["saliency"]).square().mean(),
        }


class Rotation(Method):
    """A pretext task without labels: which of two ways round an image is; it makes no segmenter.

    Args:
        networks: makes the network.
    """

    streams = (Stream("unlabeled"),)

    def __init__(self, networks):
        super().__init__(networks)
        self.network = networks.encoder_decoder()
        self.classifier = networks.head(self.network.channels[-1], 2)

    def segmenter(self):
        return None

    def pretrained(self):
        return self.network

    def forward(self, batch, clock):
        image = batch["unlabeled"]["image"]
        both = torch.cat([image, image.flip(2)])
        logits = self.classifier(self.network.encode(both)[-1]).flatten(2).mean(2)
        target = torch.arange(2).repeat_interleave(len(image))
        # the decoder takes no part in the task; processes that train together need it in the graph
        unused = sum(parameter.sum() for parameter in self.network.parameters())
        return {"rotation": nn.functional.cross_entropy(logits, target) + 0 * unused}


class Distilled(Method):
    """The network of the stage before teaches this one.

    Args:
        networks: makes the network.
    """

    streams = (LABELED,)

    def __init__(self, networks):
        super().__init__(networks)
        self.network = networks.segmenter()
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.previous = networks.previous

    def segmenter(self):
        return self.average

    def after_step(self, clock):
        with torch.no_grad():
            for old, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                old.lerp_(new, 0.5)
        note_weights(self, clock)

    def forward(self, batch, clock):
        labeled = batch["labeled"]
        logits = self.network(labeled["image"])
        terms = {"dice": losses.soft_dice(logits, labeled["label"], labeled.get("covered"))}
        if self.previous is not None:
            assert not self.previous.module.training
            target = self.previous(labeled["image"])[:, : self.classes]
            terms["distilled"] = (logits.softmax(1)[:, :1] - target.softmax(1)[:, :1]).square().mean()
        return terms


def note_weights(method: Method, clock) -> None:
    """The weights after the last step, one file per rank."""
    folder = os.environ.get("SPY_FOLDER")
    if folder and clock.iteration == clock.total - 1:
        sums = [float(parameter.detach().double().sum()) for parameter in method.parameters()]
        Path(folder, f"rank{os.environ.get('RANK', '0')}").write_text(repr(sums))


class OwnNetwork(Method):
    """A segmenter that `networks` did not make: it could be trained and never be exported.

    Args:
        networks: not asked.
    """

    def __init__(self, networks):
        super().__init__(networks)
        convolution = nn.Conv3d if networks.spatial_dims == 3 else nn.Conv2d
        self.network = convolution(networks.in_channels, self.classes, 1)

    def segmenter(self):
        return self.network

    def forward(self, batch, clock):
        return {"dice": losses.soft_dice(self.network(batch["labeled"]["image"]), batch["labeled"]["label"])}


class LargestHalf(PseudoLabels):
    """Looks at the whole data set: only the cases with more foreground than the mean of all get a label.

    Args:
        classes: number of classes with background.
    """

    def summarize(self, case):
        return {"foreground": int((case.labels[0] > 0).sum()), "tags": sorted(case.tags or {})}

    def decide(self, summaries):
        sizes = [summary["foreground"] for summary in summaries.values()]
        return {"least": sum(sizes) / len(sizes)}

    def label(self, case, decided, round_number):
        size = int((case.labels[0] > 0).sum())
        return case.labels[0].clone() if size >= decided["least"] else None


class Tagger(Method):
    """A classifier with class-activation maps, which leaves nothing but these.

    Args:
        networks: makes the encoder.
    """

    streams = (Stream("weak", ("tags",), optional=True), Stream("labeled", ("tags",), optional=True))

    def __init__(self, networks):
        super().__init__(networks)
        self.network = networks.encoder_decoder()
        self.classifier = networks.head(self.network.channels[-1], self.classes - 1)

    def segmenter(self):
        return None

    def maps(self):
        return FeatureMaps(self.network, self.classifier)

    def forward(self, batch, clock):
        parts = batch.values()
        logits = [self.classifier(self.network.encode(part["image"])[-1]).flatten(2).mean(2) for part in parts]
        tags = torch.cat([part["tags"] for part in parts])
        each = nn.functional.binary_cross_entropy_with_logits(torch.cat(logits), (tags == 1).float(), reduction="none")
        unused = sum(parameter.sum() for parameter in self.network.parameters())
        return {"tags": losses.masked_mean(each, tags != IGNORE) + 0 * unused}


class Focused(Method):
    """Learns from a pseudo-label, the tags and a map that a rule made, and has the segmenter's logits for maps.

    Args:
        networks: makes the network.
    """

    streams = (Stream("labeled", ("label", "tags", "focus")),)

    def __init__(self, networks):
        super().__init__(networks)
        self.network = networks.segmenter()

    def segmenter(self):
        return self.network

    def maps(self):
        return self.network

    def forward(self, batch, clock):
        labeled = batch["labeled"]
        assert bool((labeled["tags"] != IGNORE).all()), "tags stay true beside a pseudo-label"
        assert bool((labeled["focus"] >= 0).all())
        return {"dice": losses.soft_dice(self.network(labeled["image"]), labeled["label"], labeled.get("covered"))}


class SalientMaps(PseudoLabels):
    """In two passes: where maps are above their mean over the data set, and the saliency says so, the first tag.

    Args:
        classes: number of classes with background.
    """

    needs = "maps"
    inputs = ("saliency", "image")
    makes = ("focus",)

    def summarize(self, case):
        assert case.inputs["image"].shape[1:] == case.inputs["saliency"].shape == case.maps[0].shape[1:]
        return {"mean": float(case.maps[0].float().mean())}

    def decide(self, summaries):
        means = [summary["mean"] for summary in summaries.values()]
        return {"mean": sum(means) / len(means)}

    def label(self, case, decided, round_number):
        if case.tags is None:
            return None
        present = [index for index, there in case.tags.items() if there]
        salient = case.inputs["saliency"] > 0
        label = torch.zeros(salient.shape, dtype=torch.uint8)
        label[salient] = present[0] if present else 0
        label[~salient & (case.maps[0].float().amax(0) > decided["mean"])] = IGNORE
        return LabelAndMaps(label, {"focus": case.inputs["saliency"] / round_number})
