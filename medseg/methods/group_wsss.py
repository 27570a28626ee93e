"""Group-WSSS: image-level tags, several images that share them seen at once, and saliency for the outlines.

X. Li, T. Zhou, J. Li, Y. Zhou, Z. Zhang: Group-Wise Semantic Mining for Weakly Supervised Semantic Segmentation, AAAI
2021; arXiv 2012.05007.

    L = (0.4 mean_i MLSM(l0_i, y_i) + mean_i MLSM(lT_i, y_i)) / 2

MLSM: mean over the classes of the binary cross-entropy; y_i: tags of image i; l0, lT: means over all positions of the
class maps before and after T rounds of messages between the K images of a group (`medseg.ops.tags.group_graph`).
Attention of class c is ReLU((h^T + h^0) / 2)_c, which the rule fuses with saliency S into a pseudo-mask:

    score_0 = 1 - S,  score_c = attention of the present class c, between 0 and 1;   label = argmax score
    255 where two scores are above 0.9, and where the label is 0 but S or an attention is high; ours: where a class
    wins that nobody looked for

The text of the paper was not at hand: followed is its authors' code, whose division by 6 is that of the means above
with K = 3. It differs in this: any K, and the messages' mean instead of their concatenation (`aggregate`); the graph
dropout rests in evaluation, and is drawn for each node; the weights of new convolutions are drawn for their number of
inputs, since N(0, 0.01) belongs to 512 channels; attention is made afterwards, by the trained network or by what it was
at several times (`snapshots`), each image with several groups of partners that the training kept, since the authors'
largest of all epochs needs images that are neither moved nor cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from medseg.method import IGNORE, Batch, Clock, Method, Networks, Predictions, PseudoLabels, Stream
from medseg.ops.processes import gather_from_processes
from medseg.ops.ranges import check_at_least_one, check_not_negative, check_shares
from medseg.ops.tags.class_activation import PRESENT, mean_over_positions, tag_loss
from medseg.ops.tags.constant_tags import refuse_constant_tags
from medseg.ops.tags.group_attention import GroupMaps, Nodes, PartnerBank
from medseg.ops.tags.group_graph import Aggregate, GraphDropout, GroupGraph, Strength
from medseg.ops.tags.map_accumulation import Snapshots
from medseg.ops.tags.saliency import saliency_of

GROUP_SIZE = 3

WATCHED_SHARE = 0.1
"""How fast numbers that are watched follow those of a step."""


class GroupWSSS(Method):
    """The classifier of groups of images.

    Args:
        networks: makes the encoder and its heads.
        group_size: K.
        neighbor: whether the second image of a group is another of the same subject, or another slice of a volume.
        contrast: whether the last image of a group shows none of the classes of the first.
        rounds: T; 0: an ordinary classifier with class-activation maps.
        node: what images tell each other: "classes", their class maps, as the authors have it; "features", for sets of
            few classes.
        node_channels: of feature nodes.
        stride: of the features that become nodes, at most: voxels of the image between theirs.
        convolutions: of 3x3 between the encoder and the nodes.
        aggregate: "mean" of the messages, or "concat".
        dropout: strength by which the graph dropout judges positions: "state", "positive" or "off".
        dropout_threshold: theta.
        dropout_rate: rho.
        single: weight of the term of each image alone.
        alone: part of the run before the images tell each other anything.
        partners: images of each class, each of another case, that are kept to make the attention of other cases; where
            fewer are known than a group needs, groups are smaller. At least K - 1 are kept.
        snapshots: of how many times of the training the attention is the largest; 1: that at its end.
        refine: how often attention is averaged over neighbours that look alike (`medseg.ops.tags.refinement`).
    """

    present: Tensor
    streams: tuple[Stream, ...] = (Stream("weak", ("tags", "case"), group="same_tags", group_size=GROUP_SIZE),)

    def __init__(
        self, networks: Networks, *,
        group_size: int = GROUP_SIZE, neighbor: bool = False, contrast: bool = False, rounds: int = 3,
        node: Literal["classes", "features"] = "classes", node_channels: int = 128,
        stride: int = 8, convolutions: int = 3,
        aggregate: Aggregate = "mean",
        dropout: Strength = "state", dropout_threshold: float = 0.7, dropout_rate: float = 0.8,
        single: float = 0.4, alone: float = 0.0,
        partners: int = 4, snapshots: int = 1, refine: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        self.streams = self.streams_of({"group_size": group_size, "neighbor": neighbor, "contrast": contrast})
        if not networks.has_background:
            raise ValueError("saliency tells classes from the background, and the data set has none")
        check_shares(alone=alone)
        check_not_negative(convolutions=convolutions, single=single, refine=refine)
        check_at_least_one(node_channels=node_channels, stride=stride, partners=partners, snapshots=snapshots)
        structures = networks.classes - 1
        self.names = dict(enumerate(networks.labels[1:], start=1))
        self.tagged: dict[int, int] = {}
        channels = node_channels if node == "features" else 0
        self.nodes = Nodes(networks, structures, features=channels, stride=stride, convolutions=convolutions)
        self.graph = GroupGraph(
            networks.spatial_dims, self.nodes.channels, group_size=group_size, rounds=rounds, aggregate=aggregate,
            dropout=GraphDropout(dropout_threshold, dropout_rate, dropout),
        )  # fmt: skip
        self.bank = PartnerBank(structures, max(partners, group_size - 1))
        self.single, self.alone, self.refine = single, alone, refine
        self.register_buffer("present", torch.full((2,), 0.5))
        self.snapshots: Snapshots | None = None
        if snapshots > 1:
            times = [(number + 1) / snapshots for number in range(snapshots)]
            self.snapshots = Snapshots(self._attention(), times)

    @classmethod
    def streams_of(cls, options: Mapping[str, Any]) -> tuple[Stream, ...]:
        """Images with tags, in groups of K that have the same."""
        size = options.get("group_size", GROUP_SIZE)
        neighbor, contrast = options.get("neighbor", False), options.get("contrast", False)
        least = 1 + neighbor + contrast
        if size < least:
            raise ValueError(f"group_size is {size}; accepted is at least {least}")
        return (replace(cls.streams[0], group_size=size, neighbor=neighbor, contrast=contrast),)

    def check_tags(self, presence: Sequence[Mapping[int, bool]]) -> None:
        """Each class has to be in some image and not in another."""
        refuse_constant_tags(presence, self.names)
        self.tagged = {index: sum(tags.get(index) is True for tags in presence) for index in self.names}

    def cautions(self, cases: Mapping[str, int]) -> Sequence[str]:
        """Classes of so few cases that there are not enough partners for a group."""
        size = self.graph.group_size
        few = [f"{self.names[index]} ({count})" for index, count in self.tagged.items() if count < size]
        if not few:
            return ()
        line = f"fewer cases than the {size} images of a group are tagged with {', '.join(few)}"
        return (f"{line}: their attention is made in smaller groups, that of a single case without any",)

    def segmenter(self) -> None:
        """There is none: the next stage trains it."""

    def pretrained(self) -> nn.Module:
        """The next stage may start from the classifier's network."""
        return self.nodes.network

    def maps(self) -> nn.Module:
        """The attention of each class."""
        return self._attention() if self.snapshots is None else self.snapshots

    def _attention(self) -> GroupMaps:
        """As the networks are now."""
        return GroupMaps(self.nodes, self.graph, self.bank, self.refine)

    def after_step(self, clock: Clock) -> None:
        """Keep the networks where it is time."""
        if self.snapshots is not None:
            self.snapshots.follow(self._attention(), clock.iteration, clock.total)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The terms `single`, of each image alone, and `group`, after the messages."""
        image, tags = batch["weak"]["image"], batch["weak"]["tags"]
        states = self.nodes(image)
        told = states if clock.fraction < self.alone else self.graph(states)
        self._keep_partners(image, tags, batch["weak"]["case"])
        before, after = mean_over_positions(self.nodes.classify(states)), mean_over_positions(self.nodes.classify(told))
        self._follow(torch.stack([before, after]), tags)
        # neither the decoder nor, at first, the graph takes part; distributed training needs every parameter
        parameters = [*self.nodes.parameters(), *self.graph.parameters()]
        unused = 0 * torch.stack([parameter.sum() for parameter in parameters]).sum()
        return {
            "single": self.single * tag_loss(before, tags) / 2,
            "group": tag_loss(after, tags) / 2 + unused,
        }

    @torch.no_grad()
    def _follow(self, logits: Tensor, tags: Tensor) -> None:
        """Follow how sure the classifier is of what is there, by logits `(2, B, structures)`."""
        present = tags == PRESENT
        if bool(present.any()):
            sure = logits.float().sigmoid()[:, present].mean(1)
            self.present.lerp_(sure, WATCHED_SHARE)

    def watched(self) -> dict[str, Tensor]:
        """Mean probability of the classes that are present, before and after the messages."""
        return {"present": self.present}

    @torch.no_grad()
    def _keep_partners(self, images: Tensor, tags: Tensor, cases: Tensor) -> None:
        """Keep the images, of all processes, for each class that they show."""
        images, tags, cases = (gather_from_processes(each) for each in (images, tags, cases))
        for image, of_image, case in zip(images, tags.tolist(), cases.tolist(), strict=True):
            for value, presence in enumerate(of_image):
                if presence == PRESENT:
                    self.bank.keep(value, image, case)


class SaliencyColouring(PseudoLabels):
    """Saliency says where something is, the attention of the present classes says what.

    Args:
        classes: number of classes with background.
        conflict: score above which no two classes may be.
        hot_attention: attention above which a voxel cannot be background.
        hot_saliency: saliency from which a voxel cannot be background. Where a pipeline does not give it, the labelled
            validation cases choose it, if there are any: soft saliency is hardly anywhere below the paper's.
        least_attention: below it attention counts as 0; the authors' earlier code has 0.3.
        least_foreground: share of the voxels that a class must be found in, or the case stays without a label.
    """

    needs = "maps"
    one_view = True
    inputs = ("saliency",)
    tried: ClassVar[Mapping[str, tuple[float, ...]]] = {"hot_saliency": (32 / 255, 0.25, 0.4, 0.55, 0.7, 0.85)}

    def __init__(
        self, classes: int, *, conflict: float = 0.9, hot_attention: float = 0.8, hot_saliency: float = 32 / 255,
        least_attention: float = 0.0, least_foreground: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__(classes)
        check_shares(conflict=conflict, hot_attention=hot_attention, hot_saliency=hot_saliency)
        check_shares(least_attention=least_attention, least_foreground=least_foreground)
        self.conflict, self.hot_attention, self.hot_saliency = conflict, hot_attention, hot_saliency
        self.least_attention, self.least_foreground = least_attention, least_foreground

    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> Tensor | None:
        """The coloured saliency; background alone where no class is present; None where nothing is known or found.

        Raises:
            DataError: a saliency that is none.
        """
        assert case.maps is not None  # since `needs` asks for them
        if case.tags is None:
            return None
        saliency = saliency_of(case.inputs["saliency"], case.name)
        present = [index for index, there in case.tags.items() if there]
        if not present:
            looked_for_all = len(case.tags) == len(case.maps[0])
            return torch.zeros(saliency.shape, dtype=torch.uint8) if looked_for_all else None
        unknown = [index for index in range(1, self.classes) if index not in case.tags]
        attention = {index: case.maps[0][index - 1].float() for index in (*present, *unknown)}
        label = self.colour(saliency, attention, unknown)
        return None if bool((label == IGNORE).all()) else label

    def colour(self, saliency: Tensor, attention: Mapping[int, Tensor], unknown: Sequence[int] = ()) -> Tensor:
        """Pseudo-mask of one image, see `SaliencyColouring`.

        Args:
            saliency: `(*spatial)`, 0 to 1.
            attention: index of each class that is present, or may be -> `(*spatial)`, of any scale.
            unknown: of these the classes that nobody looked for; where one wins, nothing is learnt.

        Returns:
            `(*spatial)` uint8 class indices, 255 = ignore.
        """
        indices = torch.tensor([0, *attention], dtype=torch.uint8)
        found = torch.stack([unit_range(values) for values in attention.values()])
        found = torch.where(found < self.least_attention, 0, found)
        scores = torch.cat([1 - saliency[None], found])
        winner = indices[scores.argmax(0)]
        conflicting = (scores > self.conflict).sum(0) > 1
        not_looked_for = torch.isin(winner, winner.new_tensor(list(unknown)))
        foreground = (winner != 0) & ~conflicting & ~not_looked_for
        hot = (saliency >= self.hot_saliency) | (found > self.hot_attention).any(0)
        hot_background = (winner == 0) & hot
        ignored = conflicting | not_looked_for | hot_background
        if int(foreground.sum()) < self.least_foreground * foreground.numel():
            ignored.fill_(True)
        return torch.where(ignored, IGNORE, winner).to(torch.uint8)


def unit_range(values: Tensor) -> Tensor:
    """Values between their smallest, 0, and their largest, 1; zeros where they are all the same."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(1e-8)
