"""CReST and CReST+: generations of training, each with pseudo-labels of which rare classes keep a larger share.

C. Wei, K. Sohn, C. Mellina, A. Yuille, F. Yang: CReST: A Class-Rebalancing Self-Training Framework for Imbalanced
Semi-Supervised Learning, CVPR 2021, 10857-10866; arXiv 2102.09559.

Between generations (`ClassRebalanced`): of the voxels predicted as class c the most confident share mu_c is kept,

    mu_c = (N_(L+1-rank(c)) / N_1)^alpha   or   (N_min / N_c)^alpha

N: voxels of each class in the labels, in falling order; the rest is ignored. Thresholds are those of the whole
unlabelled set: a share of each volume would put rare classes where there are none.

Inside a generation (`CReST`, which is FixMatch; K. Sohn et al., NeurIPS 2020, arXiv 2001.07685):

    L   = L_s + consistency L_u
    L_u = mean over all voxels of [max q >= threshold] CE(f(v), argmax q)

q: softmax of f on the images as they are, v: their strong view. CReST+ aligns q with a target that becomes flatter from
generation to generation, q (target / p_model) normalised; target = p_data^t normalised, t = 1 - (g/G) (1 - t_min) in
generation g of 0 to G.

The paper classifies images, which `unit="image"` with `target: images` does. Voxels as samples, and regions as samples,
are readings of ours. p_data is measured under
the sampler of the patches, since these show other shares of the classes than whole images do. Each generation starts
anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from scipy import ndimage
from torch import Tensor, nn

from medseg.method import ALL, IGNORE, LABELED, Batch, Clock, Method, Networks, Predictions, PseudoLabels
from medseg.ops.augmentation.strong_views import jitter_intensities
from medseg.ops.losses.pixel_losses import SupervisedTerms
from medseg.ops.processes import gather_from_processes
from medseg.ops.semi_supervised import mixing
from medseg.ops.semi_supervised.confidence_bank import class_fractions
from medseg.ops.semi_supervised.rebalancing import choose_share, class_rates, count_scores, keep_share, ordered_code
from medseg.ops.semi_supervised.teacher import AveragedTeacher

SLOTS = 128
"""Batches that the moving average of predicted class shares covers."""


class CReST(Method):
    """FixMatch, with distribution alignment for CReST+.

    Args:
        networks: makes the network.
        consistency: weight of L_u.
        threshold: probability below which a pseudo-label of the batch is not learnt.
        jitter: strength of the changed intensities of the strong view.
        cutout: share of each image that the strong view blanks out by a box; 0: none.
        decay: of the averaged network that is exported.
        alignment: whether the distribution of q is aligned, as in CReST+.
        least_exponent: t_min.
        dice: weight of the Dice term of L_s, which the paper does not have.
        cross_entropy: weight of its cross-entropy, or of the loss that takes its place.
        loss: "cross_entropy" or "locally_adaptive".
        loss_options: keywords of that loss.
    """

    streams = (LABELED, ALL)  # a case with a pseudo-label is among the unlabelled ones too

    recent: Tensor
    shares: Tensor
    seen: Tensor

    def __init__(
        self, networks: Networks, *,
        consistency: float = 1.0, threshold: float = 0.95, jitter: float = 0.5, cutout: float = 0.25,
        decay: float = 0.999, alignment: bool = False, least_exponent: float = 0.5,
        dice: float = 0.0, cross_entropy: float = 1.0,
        loss: str = "cross_entropy", loss_options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        if not 0 <= cutout < 1:
            raise ValueError(f"cutout {cutout:g}: must be at least 0 and less than 1")
        self.terms = SupervisedTerms(
            networks.spatial_dims, networks.has_background,
            dice=dice, cross_entropy=cross_entropy, loss=loss, loss_options=loss_options,
        )  # fmt: skip
        self.network = networks.segmenter()
        self.average = AveragedTeacher(self.network, decay=decay)
        self.consistency, self.threshold = consistency, threshold
        self.jitter, self.cutout = jitter, cutout
        self.alignment, self.least_exponent = alignment, least_exponent
        self.register_buffer("recent", torch.full((SLOTS, self.classes), 1 / self.classes))
        self.register_buffer("shares", torch.zeros(self.classes))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def segmenter(self) -> nn.Module:
        """The averaged network."""
        return self.average.network

    def after_step(self, clock: Clock) -> None:
        """Move the averaged network."""
        self.average.follow(self.network, clock.iteration)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The terms of L_s, and `consistency`."""
        labeled, weak = batch["labeled"], batch["all"]["image"]
        size, count = len(labeled["image"]), len(weak)
        strong = self._strong(weak)
        logits = self.network(torch.cat([labeled["image"], weak, strong])).float()
        terms = self.terms(logits[:size], labeled["label"], labeled.get("covered"))
        probabilities = logits[size : size + count].detach().softmax(1)
        targets = self._align(probabilities) if self.alignment else probabilities
        self._follow_shares(probabilities, labeled["label"])
        confidence, pseudo = targets.max(1)
        cost = F.cross_entropy(logits[size + count :], pseudo, reduction="none")
        return {**terms, "consistency": self.consistency * (cost * (confidence >= self.threshold)).mean()}

    def _strong(self, images: Tensor) -> Tensor:
        """The images with changed intensities and a box of each blanked out."""
        changed = jitter_intensities(images, self.jitter)
        if self.cutout == 0:
            return changed
        shape = images.shape[2:]
        boxes = [mixing.random_box(shape, self.cutout) for _ in images]
        blank = changed.mean(tuple(range(2, images.ndim)), keepdim=True).expand_as(changed)
        return mixing.paste(changed, blank, mixing.box_masks(boxes, shape, images.device))

    def _align(self, probabilities: Tensor) -> Tensor:
        """Align q with the target of this generation."""
        exponent = alignment_exponent(self.round_number, self.round_count, self.least_exponent)
        target = alignment_target(self.shares, exponent) if int(self.seen) else self.recent.mean(0)
        return align(probabilities, target, self.recent.mean(0))

    @torch.no_grad()
    def _follow_shares(self, probabilities: Tensor, label: Tensor) -> None:
        """Move p_model, of the last batches, and p_data, of the labelled patches."""
        slot = int(self.seen) % SLOTS
        self.recent[slot] = gather_from_processes(probabilities.mean(tuple(range(2, probabilities.ndim)))).mean(0)
        of_labels = class_fractions(gather_from_processes(label), self.classes)
        known = of_labels.sum(1) > 0
        if bool(known.any()):
            new = of_labels[known].mean(0)
            self.shares.copy_(0.999 * self.shares + 0.001 * new if int(self.seen) else new)
        self.seen.add_(1)


def alignment_exponent(generation: int, last: int, least: float) -> float:
    """Exponent t of a generation, from 1 in the first to `least` in the last; 1 where there is one alone."""
    if last == 0:
        return 1.0
    return 1 - generation / last * (1 - least)


def alignment_target(shares: Tensor, exponent: float) -> Tensor:
    """Shares of the classes to a power, normalised; with an exponent of 0 all classes that occur are alike."""
    flat = torch.where(shares > 0, shares.clamp(min=1e-12) ** exponent, 0)
    return flat / flat.sum()


def align(probabilities: Tensor, target: Tensor, predicted: Tensor) -> Tensor:
    """Give `q (target / p_model)`, normalised.

    Args:
        probabilities: q, `(B, classes, *spatial)`.
        target: `(classes,)`.
        predicted: p_model, `(classes,)`.
    """
    ratio = (target + 1e-6) / (predicted + 1e-6)
    moved = probabilities * ratio.view(1, -1, *[1] * (probabilities.ndim - 2))
    return moved / moved.sum(1, keepdim=True)


class ClassRebalanced(PseudoLabels):
    """Keep the most confident predictions of each class, of rare classes a larger share.

    Args:
        classes: number of classes with background.
        alpha: exponent of the rates; 0 keeps everything, which is plain self-training.
        rate: "rank", the paper's; "inverse", the same where class sizes fall geometrically, and without its artefacts
            where classes are few or alike.
        least_rate: smallest rate of a class.
        unit: "voxel"; "region": whole connected components by their mean confidence, background by voxels; or "image":
            an image as a whole has the class of most of its voxels, with their mean confidence, as the paper has it.
        smallest_region: voxels that a component has at least.
        seed: decides which of equally confident voxels are kept.
    """

    needs = "log_odds"
    counts_labels = True

    def __init__(
        self, classes: int, *,
        alpha: float = 1 / 3, rate: Literal["rank", "inverse"] = "rank", least_rate: float = 0.01,
        unit: Literal["voxel", "region", "image"] = "voxel", smallest_region: int = 8, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(classes)
        if alpha < 0:
            raise ValueError(f"alpha {alpha:g}: must be at least 0")
        self.alpha, self.rate, self.least_rate = alpha, rate, least_rate
        self.unit, self.smallest_region, self.seed = unit, smallest_region, seed
        self.counts_images = unit == "image"

    def summarize(self, case: Predictions) -> dict[str, Any]:
        """For each class the scores of its voxels or regions, counted."""
        labels, codes = self._scored(case)
        counted = {}
        for value in range(self.classes):
            found = self._samples(labels, codes, value)[0]
            counted[str(value)] = count_scores(found)
        return counted

    def decide(self, summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Of each class its rate, where to cut, and what each case keeps of the samples at the cut."""
        rates = class_rates(self.class_counts, alpha=self.alpha, rate=self.rate, least=self.least_rate)
        decided = {}
        for value, rate in enumerate(rates):
            of_class = {name: summary[str(value)] for name, summary in summaries.items()}
            cut, quotas = choose_share(of_class, rate, self.seed + value)
            if self.unit == "image":  # of thousands of images hardly any lies at the cut, and each record has them all
                quotas = {name: quota for name, quota in quotas.items() if quota}
            decided[str(value)] = {"rate": rate, "cut": cut, "quotas": quotas}
        return decided

    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> Tensor | None:
        """The predictions that are kept; everything else is ignored. None: an image as a whole is not kept."""
        labels, codes = self._scored(case)
        kept = np.full(labels.shape, IGNORE, np.uint8)
        for value in range(self.classes):
            found, places = self._samples(labels, codes, value)
            of_class = decided[str(value)]
            chosen = keep_share(
                found, of_class["cut"], of_class["quotas"].get(case.name, 0), seed=self.seed + value, name=case.name
            )
            kept[self._voxels(places, chosen, labels.shape)] = value
        if self.unit == "image" and (kept == IGNORE).all():
            return None
        return torch.from_numpy(kept)

    def _scored(self, case: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Labels and ordered scores, `(X, Y, Z)`."""
        if len(case.labels) > 1:
            raise ValueError(f"the rule crest is for one network; there are {len(case.labels)} views")
        assert case.log_odds is not None  # since `needs` asks for them
        scores = case.log_odds[0].numpy()
        if np.isnan(scores).any():
            raise ValueError(f"{case.name}: a probability is not a number")
        return case.labels[0].numpy(), ordered_code(scores)

    def _samples(self, labels: np.ndarray, codes: np.ndarray, value: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the samples of a class `(n,)`, and for each voxel 1 + the number of its sample, 0 where none is."""
        where = labels == value
        if self.unit == "image":
            return self._whole_image(labels, codes, value)
        if self.unit == "voxel" or value == 0:
            places = np.zeros(labels.shape, np.int64)
            places[where] = np.arange(1, int(where.sum()) + 1)
            return codes[where], places
        components, count = ndimage.label(where, structure=np.ones([3] * where.ndim))
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        large = np.flatnonzero(sizes >= self.smallest_region)
        large = large[large > 0]
        means = ndimage.mean(codes, components, large) if large.size else np.empty(0)
        numbers = np.zeros(count + 1, np.int64)
        numbers[large] = np.arange(1, len(large) + 1)
        return np.rint(np.atleast_1d(means)).astype(np.int64), numbers[components]

    def _whole_image(self, labels: np.ndarray, codes: np.ndarray, value: int) -> tuple[np.ndarray, np.ndarray]:
        """The image as the only sample of the class that most of its voxels have."""
        if int(np.bincount(labels.ravel(), minlength=self.classes).argmax()) != value:
            return np.empty(0, np.int64), np.zeros(labels.shape, np.int64)
        score = np.rint(codes[labels == value].mean()).astype(np.int64)
        return np.array([score]), np.ones(labels.shape, np.int64)

    @staticmethod
    def _voxels(places: np.ndarray, chosen: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Where the chosen samples are, `(X, Y, Z)` bool."""
        return np.concatenate([[False], chosen])[places].reshape(shape)
