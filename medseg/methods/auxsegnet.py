"""AuxSegNet: tags, saliency and segmentation learnt together, with an affinity that smooths both dense predictions.

L. Xu, W. Ouyang, M. Bennamoun, F. Boussaid, F. Sohel, D. Xu: Leveraging Auxiliary Tasks with Affinity Learning for
Weakly Supervised Semantic Segmentation, ICCV 2021; arXiv 2107.11787.

    L = MLSM(z, y) + BCE(P_sal, S) + BCE(A P_sal, S) + CE(P_seg, G) + CE(A P_seg, G)

z: logits of the tags y; P: logits of saliency and of segmentation; A: cross-task affinity, w_1 A_seg + w_2 A_sal with
weights of each entry; S: salient pixels; G: pseudo-labels, 255 being left out.

Between stages (`SaliencyFusion`): a pixel is of the class of the largest map where that is above 0.2 and the saliency
above 0.06, background where neither is, and 255 where one is. Before the first stage the map is that of a classifier
and the saliency the manifest's, S0; later the map is A ReLU(CAM) and the saliency (sigmoid(A P_sal) + S0) / 2, refined.

Where paper and code disagree the code is followed: A is not transposed, a third dilated convolution follows the
affinity.
Departures: any encoder with features; rows of A are divided by their sum, without which the thresholds would mean
something else in each stage (`affinity`); the saliency is refined by PAMR in place of a dense CRF. If asked for, soft
Dice is added to either cross-entropy, dice (1 - Dice(P_seg, G)) + dice (1 - Dice(A P_seg, G)) (`dice`), and the bundle
predicts by the segmentation before its refinement, or by the one that validation finds better (`exported`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor, nn

from medseg.method import Batch, Clock, LabelAndMaps, Method, Networks, Predictions, PseudoLabels, Stream
from medseg.ops.losses import segmentation as losses
from medseg.ops.tags.class_activation import SMALLEST, coarsest_within, largest_of, presence_of, tag_loss
from medseg.ops.tags.refinement import pamr
from medseg.ops.tags.saliency import fuse_with_saliency, saliency_of, sharpen
from medseg.portable.networks.tag_networks import CrossTaskSegmenter, affordable_grid, enlarge

DILATIONS = {2: (2, 4, 6), 3: (1, 2, 4)}
"""By the number of axes: for maps of some 16 positions along an axis; the paper's 6, 12, 18 are for 41."""

MOST_LOOKED_AT = 0.25
"""Share of the affinity that one of many positions may have in the end; of more a run warns."""

Affinity = Literal["normalized", "cross", "segmentation", "scaled_normalized", "scaled_cross", "scaled_segmentation"]
"""Which affinity, see `AuxSegNet`."""

HEADS = {"refined": {"refined": True}, "plain": {"refined": False}}
"""Either segmentation -> the arguments of `CrossTaskSegmenter` for it."""


class AuxSegNet(Method):
    """Three tasks on one encoder, and the cross-task affinity.

    Args:
        networks: makes the encoder.
        stride: the coarsest feature map whose strides are at most so is looked at; the paper's is 8.
        width: channels of the branches.
        dilations: of the three convolutions of each branch; none: 2, 4, 6, in volumes 1, 2, 4.
        most_positions: of the affinity; a larger feature map is looked at on a coarser grid.
        affinity: "normalized", of both tasks with rows that sum to 1; "cross", of both as it is, which is the paper's;
            "segmentation", of that task alone; each with "scaled_" before it: products are divided by the square root
            of `width`, without which rows soon look at a few positions alone.
        tags: weight of the term of the tags.
        saliency: weight of that of the saliency.
        refined_saliency: weight of that of the refined saliency.
        segmentation: weight of that of the segmentation.
        refined_segmentation: weight of that of the refined segmentation; 0: the segmentation itself is exported.
        dice: weight of a soft Dice term beside either cross-entropy, multiplied by the weight of that segmentation;
            the paper has none, and none was seen to help.
        exported: which segmentation the bundle predicts: "refined", the paper's; "plain", the one that is refined;
            "validated": the better one by labelled validation cases, which there must be, with its best weights.
    """

    streams = (Stream("labeled", ("label", "tags", "salient")),)

    def __init__(
        self, networks: Networks, *,
        stride: int = 16, width: int = 128, dilations: Sequence[int] = (), most_positions: int = 4096,
        affinity: Affinity = "normalized",
        tags: float = 1.0, saliency: float = 1.0, refined_saliency: float = 1.0,
        segmentation: float = 1.0, refined_segmentation: float = 1.0, dice: float = 0.0,
        exported: Literal["refined", "plain", "validated"] = "refined",
    ) -> None:  # fmt: skip
        super().__init__(networks)
        if not networks.has_background:
            raise ValueError("the data set has no background, which is what is not salient")
        for name, value in (("width", width), ("most_positions", most_positions)):
            if value < 1:
                raise ValueError(f"{name} {value}: must be at least 1")
        if dice < 0:
            raise ValueError(f"dice {dice:g}: must be at least 0")
        if exported == "validated":
            if refined_segmentation <= 0:
                raise ValueError(
                    "exported validated: refined_segmentation is 0, so that there is one segmentation alone"
                )
            self.head_choices = HEADS
        halves = networks.encoder_decoder()
        network = networks.assembled(
            CrossTaskSegmenter, network=halves, classes=self.classes, level=coarsest_within(halves.strides, stride),
            width=width, dilations=list(dilations or DILATIONS[networks.spatial_dims]), most_positions=most_positions,
            affinity=affinity, refined=exported != "plain" and refined_segmentation > 0,
        )  # fmt: skip
        assert isinstance(network, CrossTaskSegmenter)
        self.network = network
        self.looks: dict[str, Tensor] = {}
        strides = halves.strides[network.level]
        self.positions = tuple(-(-length // stride) for length, stride in zip(networks.patch, strides, strict=True))
        self.dilations = tuple(dilations or DILATIONS[networks.spatial_dims])
        self.dice = dice
        self.weights = {
            "tags": tags,
            "saliency": saliency,
            "refined_saliency": refined_saliency,
            "segmentation": segmentation,
            "refined_segmentation": refined_segmentation,
        }

    def segmenter(self) -> nn.Module:
        """The network, which gives the refined segmentation unless another one is asked for."""
        return self.network

    def maps(self) -> nn.Module:
        """For a rule the refined maps, the maps as they are, and the refined saliency."""
        return RefinedMaps(self.network)

    def cautions(self, cases: Mapping[str, int]) -> list[str]:
        """Where the feature map of a patch is too large for its affinity, or too small for the dilations."""
        found = []
        size = " x ".join(map(str, self.positions))
        grid = affordable_grid(self.positions, self.network.most_positions)
        if grid != self.positions:
            coarser = " x ".join(map(str, grid))
            found.append(f"feature maps of {size} positions are looked at on a grid of {coarser} (most_positions)")
        if max(self.dilations) >= min(grid):
            found.append(f"a dilation of {max(self.dilations)} reaches over the whole feature map of {size} positions")
        return found

    def watched(self) -> dict[str, Tensor]:
        """Of the last batch's affinity the smallest and largest sum of a row, and `looked_at`, see `_watch`."""
        return self.looks

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The five terms of L, and those of Dice if they have a weight."""
        labeled = batch["labeled"]
        found = self.network.outputs(labeled["image"])
        self._watch(found.affinity.detach(), clock)
        inside, salient = labeled.get("inside"), labeled["salient"]
        terms = {
            "tags": tag_loss(found.tags, labeled["tags"]),
            "saliency": _saliency_loss(found.saliency, salient, inside),
            "refined_saliency": _saliency_loss(found.refine(found.saliency), salient, inside),
        }
        segmentations = {
            "segmentation": found.segmentation,
            "refined_segmentation": found.refine(found.segmentation),
        }
        for name, logits in segmentations.items():
            terms[name] = _segmentation_loss(logits, labeled, "cross_entropy")
        # the decoder takes no part; processes that train together need every parameter in the graph
        unused = sum(parameter.sum() for parameter in self.network.parameters())
        weighted = {name: self.weights[name] * term for name, term in terms.items()}
        if self.dice > 0:
            for name, logits in segmentations.items():
                weight = self.dice * self.weights[name]
                weighted[f"{name}_dice"] = weight * _segmentation_loss(logits, labeled, "dice")
        weighted["tags"] = weighted["tags"] + 0 * unused
        return weighted

    def _watch(self, affinity: Tensor, clock: Clock) -> None:
        """Keep sums of rows, and which share the position has that all look at most; warn if it is large in the end."""
        rows, columns = affinity.sum(2), affinity.sum(1)
        looked_at = (columns.amax(1) / columns.sum(1)).mean()
        self.looks = {"row_sums": torch.stack([rows.min(), rows.max()]), "looked_at": looked_at}
        if clock.iteration == clock.total - 1 and rows.shape[1] >= 64 and float(looked_at) > MOST_LOOKED_AT:
            what = f"{float(looked_at):.0%} of the affinity is with one of {rows.shape[1]} positions"
            hint = "try a lower learning rate, or affinity=scaled_normalized"
            warnings.warn(f"{what}, so that nothing is refined: {hint}", stacklevel=2)


def _saliency_loss(logits: Tensor, salient: Tensor, inside: Tensor | None) -> Tensor:
    """Binary cross-entropy with salient > 0.5.

    Args:
        logits: `(B, 1, *positions)`.
        salient: `(B, 1, *spatial)`.
        inside: `(B, 1, *spatial)` bool, what is no padding; None: everything.
    """
    enlarged, target = enlarge(logits.float(), salient.shape[2:]), (salient > 0.5).float()
    each = F.binary_cross_entropy_with_logits(enlarged, target, reduction="none")
    return losses.masked_mean(each, inside)


def _segmentation_loss(logits: Tensor, labeled: Mapping[str, Tensor], kind: Literal["cross_entropy", "dice"]) -> Tensor:
    """Cross-entropy or 1 - soft Dice of logits `(B, classes, *positions)` with the `label` `(B, 1, *spatial)`."""
    label, covered = labeled["label"], labeled.get("covered")
    enlarged = enlarge(logits.float(), label.shape[2:])
    loss = losses.cross_entropy if kind == "cross_entropy" else losses.soft_dice
    return loss(enlarged, label, covered)


class RefinedMaps(nn.Module):
    """What the rule of AuxSegNet looks at.

    Args:
        network: of the method.
    """

    def __init__(self, network: CrossTaskSegmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, Cin, *spatial)` to `(B, 2 structures + 1, *spatial)`.

        They are `A ReLU(CAM)`, `ReLU(CAM)`, by whose maximum over the whole image both are to be divided, and the
        refined saliency in [0, 1].
        """
        found = self.network.outputs(image)
        maps = found.maps.float().clamp_min(0)
        salient = found.refine(found.saliency).sigmoid()
        return enlarge(torch.cat([found.refine(maps), maps, salient], 1), image.shape[2:])


class SaliencyFusion(PseudoLabels):
    """Labels of class-activation maps and saliency together, with 255 where only one of them finds something.

    It works on the maps of a classifier, before the first stage of AuxSegNet, and on those of AuxSegNet.

    Args:
        classes: number of classes with background.
        object_threshold: share of its maximum above which a map says that there is an object.
        salient_threshold: saliency above which a pixel may be of an object. Either is chosen by the labelled validation
            cases, if there are any, where a pipeline does not give it.
        refinement: of the saliency of later stages: "pamr", or "none".
    """

    needs = "maps"
    one_view = True
    inputs = ("saliency", "image")
    makes = ("salient",)
    stands_for: ClassVar[Mapping[str, str]] = {"salient": "saliency"}
    tried: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "object_threshold": (0.2, 0.35, 0.5, 0.65, 0.8, 0.9),
        "salient_threshold": (0.06, 0.15, 0.3, 0.45, 0.6),
    }

    def __init__(
        self, classes: int, *,
        object_threshold: float = 0.2, salient_threshold: float = 0.06, refinement: Literal["pamr", "none"] = "pamr",
    ) -> None:  # fmt: skip
        super().__init__(classes)
        for name, value in (("object_threshold", object_threshold), ("salient_threshold", salient_threshold)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} {value:g}: must be at least 0 and less than 1")
        self.object_threshold, self.salient_threshold = object_threshold, salient_threshold
        self.refinement = refinement

    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> LabelAndMaps | None:
        """The label, and what is salient; None for a case without tags.

        Raises:
            DataError: a saliency that is none.
        """
        if case.tags is None or case.maps is None:
            return None
        maps, structures = case.maps[0].float(), self.classes - 1
        original = saliency_of(case.inputs["saliency"], case.name)
        if len(maps) == structures:
            refined, plain, salient = maps.clamp_min(0), maps.clamp_min(0), original
        else:
            refined, plain = maps[:structures], maps[structures : 2 * structures]
            salient = self._refine((maps[-1] + original) / 2, case.inputs["image"])
        relative = refined / (largest_of(plain[None])[0] + SMALLEST)
        label = fuse_with_saliency(
            relative,
            salient,
            *presence_of(case.tags, self.classes),
            object_threshold=self.object_threshold,
            salient_threshold=self.salient_threshold,
        )
        return LabelAndMaps(label, {"salient": salient})

    def _refine(self, salient: Tensor, image: Tensor) -> Tensor:
        """Saliency `(X, Y, Z)` in [0, 1] that follows the edges of the image `(C, X, Y, Z)`."""
        sharp = sharpen(salient)
        if self.refinement == "none":
            return sharp
        used = [size for size in salient.shape if size > 1]
        if len(used) < 2:  # of a single row nothing is to be refined
            return sharp
        shape = used if len(used) == 2 else list(salient.shape)
        refined = pamr(image.float().reshape(1, len(image), *shape), sharp.reshape(1, 1, *shape))
        return refined.reshape(salient.shape)
