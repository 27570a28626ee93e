"""A classifier of tags, whose class-activation maps show where the structures are.

B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba: Learning Deep Features for Discriminative Localization, CVPR
2016; arXiv 1512.04150. The loss is binary cross-entropy of each class, mean over the classes whose presence is known:

    L = -mean_c [y_c ln s(z_c) + (1 - y_c) ln(1 - s(z_c))],   z_c = mean over positions of w_c . F

It makes no segmenter. Its maps are for rules that turn them into pseudo-labels, such as `tag_maps` here, the baseline
of the papers that learn from tags, and `auxsegnet`; the stage after it starts from its encoder and classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medseg.method import IGNORE, Batch, Clock, Method, Networks, Predictions, PseudoLabels, Stream
from medseg.ops.ranges import check_at_least_one
from medseg.ops.tags.class_activation import coarsest_within, presence_of, relative_maps, tag_loss
from medseg.ops.tags.map_accumulation import Snapshots
from medseg.portable.networks.tag_networks import TagNetwork


class TagClassifier(Method):
    """A classifier of tags by the mean of its class-activation maps.

    Args:
        networks: makes the encoder.
        stride: the coarsest feature map whose strides are at most so is classified.
        dropout: share of the feature channels that the classifier does not see in training.
        snapshots: how many times of the training the maps are the maximum of; 1: those at its end.
    """

    streams = (Stream("weak", ("tags",), optional=True), Stream("labeled", ("tags",), optional=True))

    def __init__(self, networks: Networks, *, stride: int = 16, dropout: float = 0.5, snapshots: int = 1) -> None:
        super().__init__(networks)
        check_at_least_one(stride=stride, snapshots=snapshots)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout:g}: must be at least 0 and less than 1")
        halves = networks.encoder_decoder()
        network = networks.assembled(
            TagNetwork,
            network=halves,
            structures=self.classes - int(networks.has_background),
            level=coarsest_within(halves.strides, stride),
            dropout=dropout,
        )
        assert isinstance(network, TagNetwork)
        self.network = network
        self.snapshots: Snapshots | None = None
        if snapshots > 1:
            self.snapshots = Snapshots(network, [(number + 1) / snapshots for number in range(snapshots)])

    def segmenter(self) -> None:
        """There is none."""

    def pretrained(self) -> nn.Module:
        """The encoder and the classifier."""
        return self.network

    def maps(self) -> nn.Module:
        """For each class that tags tell of a map, as large as the image."""
        return self.network if self.snapshots is None else self.snapshots

    def after_step(self, clock: Clock) -> None:
        """Keep the network where it is time."""
        if self.snapshots is not None:
            self.snapshots.follow(self.network, clock.iteration, clock.total)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Term `tags`."""
        image = torch.cat([part["image"] for part in batch.values()])
        tags = torch.cat([part["tags"] for part in batch.values()])
        logits = self.network.logits(self.network.features(image))
        # the decoder takes no part; processes that train together need every parameter in the graph
        unused = sum(parameter.sum() for parameter in self.network.network.parameters())
        return {"tags": tag_loss(logits, tags) + 0 * unused}


class TagMaps(PseudoLabels):
    """The class of the largest relative map where it is high, the background where all are low, 255 between.

    Where the map of a class that nobody looked for is high, nothing is learnt.

    Args:
        classes: number of classes with background.
        high: share of its maximum above which a map says that the class is there; chosen by the labelled validation
            cases, if there are any, where a pipeline does not give it.
        low: below which, in all maps of classes that may be there, it is background.
    """

    needs = "maps"
    one_view = True
    tried: ClassVar[Mapping[str, tuple[float, ...]]] = {"high": (0.3, 0.45, 0.6, 0.75, 0.9)}

    def __init__(self, classes: int, *, high: float = 0.3, low: float = 0.3) -> None:
        super().__init__(classes)
        if not 0 <= low <= high < 1:
            raise ValueError(f"low {low:g} and high {high:g}: accepted are 0 <= low <= high < 1")
        self.high, self.low = high, low

    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> Tensor | None:
        """`(X, Y, Z)` uint8; None for a case without tags."""
        if case.tags is None or case.maps is None:
            return None
        maps = relative_maps(case.maps[0][: self.classes - 1][None])[0]
        present, possible = presence_of(case.tags, self.classes)
        largest, winner = (maps * present.view(-1, 1, 1, 1)).max(0)
        unknown = (maps * (possible & ~present).view(-1, 1, 1, 1)).amax(0) > self.high
        label = torch.full(largest.shape, IGNORE, dtype=torch.uint8)
        label[(maps * possible.view(-1, 1, 1, 1)).amax(0) <= self.low] = 0
        found = (largest > self.high) & ~unknown
        label[found] = (winner[found] + 1).to(torch.uint8)
        return label
