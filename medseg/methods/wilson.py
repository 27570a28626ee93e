"""WILSON: new classes from image-level tags, beside the old ones that an earlier network knows.

F. Cermelli, D. Fontanel, A. Tavera, M. Ciccone, B. Caputo: Incremental Learning in Semantic Segmentation from Image
Labels, CVPR 2022; arXiv 2112.01882; code github.com/fcdl94/WILSON.

    L = L_CLS + L_LOC + L_ENC                        in the first eighth of the run
    L = L_CLS + L_LOC + L_ENC + L_SSS + L_SEG        after it

A localizer, three convolutions, lies on the encoder and gives class-activation maps z of all classes.
    L_CLS  binary cross-entropy of the tags and nGWP(z) + focal penalty (`medseg.ops.tags.pooling`), of new classes
    L_LOC  binary cross-entropy of sigmoid(z) and the old network's probabilities, of old classes and the background
    L_ENC  mean squared difference of the encoder's features and the old encoder's
    L_SSS  cross-entropy of z and the sure voxels of softmax(z), refined along edges (`medseg.ops.tags.refinement`)
    L_SEG  binary cross-entropy of the segmenter and soft targets: the old network's for old classes, alpha hard +
           (1 - alpha) soft maps for new ones, the smaller of both for the background (`medseg.ops.tags.incremental`)

Maps that become targets are those of the localizer in evaluation mode. The localizer is not exported.

Where paper and code differ the code is followed: 1, not a small constant, in the denominator of nGWP; L_SSS and L_ENC,
which only the supplement has, are on; the encoder is trained from the beginning; N, not all voxels, in the weights of
L_SSS. Departures of ours: L_SEG is computed on the grid of the image, where our networks decode, and not at a
sixteenth; L_ENC is the sum over all feature maps that the decoder reads, of which the paper's network has one;
refinement is in float32 with a larger constant, for in float16 the black border of a scan gave NaN; a tag that nobody
knows teaches nothing. What the old network says is a softmax or sigmoids, as it was trained; the paper's has sigmoids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from medseg.errors import ManifestError
from medseg.method import IGNORE, LABELED, WEAK, Batch, Clock, Method, Networks, Stream
from medseg.ops.losses.segmentation import masked_mean
from medseg.ops.ranges import check_at_least_one, check_not_negative, check_shares
from medseg.ops.tags import incremental
from medseg.ops.tags.class_activation import coarsest_within
from medseg.ops.tags.constant_tags import refuse_constant_tags
from medseg.ops.tags.old_network import OldNetwork, checked_previous, encoder_distance, places_of_old
from medseg.ops.tags.pooling import focal_penalty, ngwp
from medseg.ops.tags.refinement import neighbour_offsets, pamr, to_grid
from medseg.portable.networks.encoder_decoder import FeatureMaps, HeadedNetwork
from medseg.portable.networks.tag_networks import cell_means, enlarge

FOLLOWS = 0.1
"""How fast numbers that are watched follow those of a step."""

Teacher = Literal["localizer", "labels", "fine_tuning"]
"""Of new classes, see `Wilson`."""


class Localizer(nn.Sequential):
    """Three convolutions, of which the first two have a norm and a leaky ReLU: features to maps of all classes.

    Args:
        dims: 2 or 3.
        channels_in: of the features.
        channels: of the first two convolutions.
        classes: number of maps.
    """

    def __init__(self, dims: int, channels_in: int, channels: int, classes: int) -> None:
        convolution, norm = Conv[Conv.CONV, dims], Norm[Norm.BATCH, dims]
        super().__init__(
            convolution(channels_in, channels, 3, padding=1, bias=False),
            norm(channels),
            nn.LeakyReLU(0.01),
            convolution(channels, channels, 3, padding=1, bias=False),
            norm(channels),
            nn.LeakyReLU(0.01),
            convolution(channels, classes, 1),
        )


class Wilson(Method):
    """Learn new classes from tags and keep the old ones.

    Args:
        networks: makes the network; its stage starts from another one.
        teacher: of new classes: "localizer"; "labels": pseudo-labels that another run made of the tags, without a
            localizer, which is the paper's baseline of offline class-activation maps: L = L_ENC + L_SEG, with what the
            labels say in place of the soft targets; "fine_tuning": these labels alone, by which old classes are absent
            and are forgotten: L = L_SEG, with what they say of all classes. The paper's table has this with masks that
            people drew of the new classes, which may be given in the place of pseudo-labels.
        tags: "new", as in the paper: tags of old classes are not looked at; "all": they are (its table 5).
        alpha: 0 for soft targets of new classes, 1 for hard ones.
        warmup: fraction of the run in which the localizer learns alone (5 of 40 epochs).
        stride: the localizer lies on the coarsest features whose voxels are at most so many of the image's.
        channels: of the localizer.
        classification: weight of L_CLS.
        localization: weight of L_LOC, the prior; 0: nothing tells the localizer where old classes are.
        distillation: weight of L_ENC.
        self_training: weight of L_SSS.
        segmentation: weight of L_SEG.
        share: voxels are sure of a class where its refined map is above so much of its largest value in the image.
        background_share: the same for the background.
        least: no voxel is sure of a class below this.
        iterations: of the refinement.
        dilations: of the refinement; None: 1, 2, 4, 8, 12 in images and 1, 2, 4 in volumes.
    """

    streams: tuple[Stream, ...] = (WEAK,)
    asks_previous = True
    independent = True

    headed: HeadedNetwork
    known: Tensor
    looked_at: Tensor
    self_trained: Tensor

    def __init__(
        self, networks: Networks, *,
        teacher: Teacher = "localizer",
        tags: Literal["new", "all"] = "new", alpha: float = 0.5, warmup: float = 0.125,
        stride: int = 16, channels: int = 256,
        classification: float = 1.0, localization: float = 1.0, distillation: float = 1.0,
        self_training: float = 1.0, segmentation: float = 1.0,
        share: float = 0.6, background_share: float = 0.7, least: float = 0.2,
        iterations: int = 10, dilations: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha {alpha:g}: accepted is 0 (soft) to 1 (hard)")
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup {warmup:g}: accepted is a fraction of the run, 0 or more and below 1")
        check_shares(share=share, background_share=background_share, least=least)
        check_not_negative(iterations=iterations)
        check_at_least_one(stride=stride, channels=channels)
        neighbour_offsets(networks.spatial_dims, dilations)  # refuses what is no distance
        previous = checked_previous(networks)
        places = places_of_old(previous.labels, networks.labels)
        self.names = {index: name for index, name in enumerate(networks.labels) if index not in places}
        if tags == "all":
            self.names = dict(enumerate(networks.labels[1:], start=1))
        if not self.names:
            raise ManifestError(
                f"the network that it starts from knows every class already ({', '.join(networks.labels)}); accepted "
                f"is a data set with a further class, or tags: all, which learns from the tags of old ones"
            )
        self.streams = self.streams_of({"teacher": teacher})
        self.teacher, self.alpha, self.warmup = teacher, alpha, warmup
        self.certain = {"share": share, "background_share": background_share, "least": least}
        self.iterations, self.dilations = iterations, dilations
        self.weights = {
            "classification": classification, "localization": localization, "distillation": distillation,
            "self_training": self_training, "segmentation": segmentation,
        }  # fmt: skip
        check_not_negative(**self.weights)
        network = networks.encoder_decoder()
        self.headed = networks.headed(network, networks.head(network.width, self.classes))
        self.level = coarsest_within(network.strides, stride)
        # neighbours are as far apart along thick slices as within them
        self.spacing = [
            mm * stride for mm, stride in zip(networks.spacing_mm, network.strides[self.level], strict=True)
        ]
        self.localizer = Localizer(networks.spatial_dims, network.channels[self.level], channels, self.classes)
        self.old = OldNetwork(previous, network)
        self.register_buffer("known", torch.tensor(places), persistent=False)
        looked_at = torch.zeros(self.classes - 1, dtype=torch.bool)
        looked_at[[index - 1 for index in self.names]] = True
        self.register_buffer("looked_at", looked_at, persistent=False)
        self.register_buffer("self_trained", torch.zeros(()))

    @classmethod
    def streams_of(cls, options: Mapping[str, Any]) -> tuple[Stream, ...]:
        """Images with tags; with a teacher that is none of tags images with labels."""
        return cls.streams if options.get("teacher", "localizer") == "localizer" else (LABELED,)

    def segmenter(self) -> nn.Module:
        """The network, whose head has a channel for each old and new class."""
        return self.headed

    def maps(self) -> nn.Module | None:
        """The localizer's logits of all classes; None where it is not trained."""
        if self.teacher != "localizer":
            return None
        return FeatureMaps(self.headed.network, self.localizer, self.level)

    def watched(self) -> dict[str, Tensor]:
        """Share of the images that L_SSS learns from, of late; where it stays at 0 that term is off."""
        return {"self_trained": self.self_trained}

    def check_tags(self, presence: Sequence[Mapping[int, bool]]) -> None:
        """Refuse classes that all images or none have."""
        if self.teacher == "localizer":
            refuse_constant_tags(presence, self.names)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The terms of L by the names of their weights."""
        if self.teacher == "localizer":
            terms = self._terms_of_tags(batch["weak"], clock)
        else:
            terms = self._terms_of_labels(batch["labeled"])
        return {name: self.weights[name] * term for name, term in terms.items()}

    def _ask_old(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of the old network, and its probabilities in the order of the classes here."""
        features, logits = self.old(image)
        independent = self.old.previous.independent
        return features, incremental.old_probabilities(logits, self.known, self.classes, independent=independent)

    def _terms_of_labels(self, labeled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """L_ENC, and L_SEG by labels that were made before; of fine-tuning L_SEG by what they say of all classes."""
        network = self.headed.network
        features = network.encode(labeled["image"])
        logits = self.headed.head(network.decode(features))
        label, covered = labeled["label"], labeled.get("covered")
        terms = {}
        if self.teacher == "fine_tuning":
            nobody = torch.ones_like(logits)  # of the background, at most; no class is an old one
            found = incremental.given_label_loss(logits, label, nobody, self.known[:1], covered)
        else:
            old_features, old = self._ask_old(labeled["image"])
            terms["distillation"] = encoder_distance(features, old_features)
            found = incremental.given_label_loss(logits, label, old, self.known, covered)
        # the localizer takes no part; processes that train together need every parameter in the graph
        unused = torch.stack([parameter.sum() for parameter in self.localizer.parameters()]).sum()
        return {**terms, "segmentation": found + 0 * unused}

    def _terms_of_tags(self, weak: Mapping[str, Tensor], clock: Clock) -> dict[str, Tensor]:
        """All five terms; those of pseudo-labels are 0 while the localizer learns alone."""
        image, tags, inside = weak["image"], weak["tags"], weak.get("inside")
        network = self.headed.network
        features = network.encode(image)
        scores = self.localizer(features[self.level]).float()
        old_features, old = self._ask_old(image)
        old_of_cells = cell_means(old, scores.shape[2:])
        cells = None if inside is None else cell_means(inside.float(), scores.shape[2:]) >= 0.5
        terms = {
            "classification": self._classification(scores, tags, cells),
            "localization": incremental.localization_prior_loss(scores, old_of_cells, self.known, cells),
            "distillation": encoder_distance(features, old_features),
        }
        logits = self.headed.head(network.decode(features))
        # the tags of classes that are not looked at are those of absent ones: only the old network knows of them
        tags = torch.where(self.looked_at, tags, 0)
        maps = self._maps_of_targets(features[self.level])
        terms["self_training"] = self._self_training(scores, maps, weak, tags, cells)
        terms["segmentation"] = self._segmentation(logits, maps, old, tags, inside)
        if clock.fraction < self.warmup:
            terms["self_training"] = 0 * terms["self_training"]
            terms["segmentation"] = 0 * terms["segmentation"]
        return terms

    def _classification(self, scores: Tensor, tags: Tensor, cells: Tensor | None) -> Tensor:
        """L_CLS, of the tags that somebody knows; `cells` of the localizer's grid that show the image, None: all."""
        found = (ngwp(scores, cells) + focal_penalty(scores, cells))[:, 1:]
        each = nn.functional.binary_cross_entropy_with_logits(found, (tags == 1).float(), reduction="none")
        return masked_mean(each, (tags != IGNORE) & self.looked_at)

    def _maps_of_targets(self, features: Tensor) -> Tensor:
        """Logits of the localizer in evaluation mode, without gradient."""
        was_training = self.localizer.training
        self.localizer.eval()
        with torch.no_grad():
            maps = self.localizer(features).float()
        self.localizer.train(was_training)
        return maps

    def _self_training(
        self, scores: Tensor, maps: Tensor, weak: Mapping[str, Tensor], tags: Tensor, cells: Tensor | None
    ) -> Tensor:
        """L_SSS of the localizer's logits in training, by those in evaluation."""
        present = incremental.keep_present(maps.softmax(1), tags)
        # absent classes are zero in the whole batch mostly, and stay so: averaging works on each class alone
        used = present.flatten(2).any(2).any(0)
        small = to_grid(weak["image"], maps.shape[2:])
        refined = torch.zeros_like(present)
        refined[:, used] = pamr(
            small, present[:, used], dilations=self.dilations, iterations=self.iterations, spacing=self.spacing
        )
        if cells is not None:
            refined = refined * cells
        certain = incremental.confident_labels(refined, **self.certain)
        usable = incremental.found_as_tagged(certain, tags)
        self.self_trained.lerp_(usable.float().mean(), FOLLOWS)
        return incremental.balanced_cross_entropy(scores, certain, usable)

    def _segmentation(
        self, logits: Tensor, maps: Tensor, old: Tensor, tags: Tensor, inside: Tensor | None
    ) -> Tensor:  # fmt: skip
        """L_SEG on the grid of the image, of the voxels that show it."""
        present = incremental.keep_present(enlarge(maps, logits.shape[2:]).softmax(1), tags)
        targets = incremental.soft_targets(present, old, self.known, self.alpha)
        shown = targets if inside is None else targets * inside
        taught = incremental.taught_classes(shown, tags, self.known)
        return incremental.soft_target_loss(logits, targets, taught, inside)
