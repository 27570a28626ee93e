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
are readings of ours. p_data is measured on the labels that people made, in those patches that are drawn as the ones of
p_model are: patches that are centred on a class show other shares of the classes, and so do whole images. Each
generation starts anew. What lies outside of the images is in no mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor, nn

from medseg.method import ALL, IGNORE, Batch, Clock, Method, Networks, Predictions, PseudoLabels, Stream
from medseg.ops.augmentation.strong_views import cut_out, jitter_intensities
from medseg.ops.losses.pixel_losses import SupervisedTerms
from medseg.ops.losses.segmentation import masked_mean
from medseg.ops.ranges import check_not_negative, check_shares
from medseg.ops.semi_supervised import alignment, rebalancing
from medseg.ops.semi_supervised.regions import samples_of_class
from medseg.ops.semi_supervised.teacher import AveragedTeacher

SLOTS = 128
"""Batches that the moving average of predicted class shares covers."""

SHARES_DECAY = 0.999
"""Of the moving average of the shares of classes in labels; until it covers as many batches it is their mean."""


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
        loss: "cross_entropy", "hard_examples" or "locally_adaptive".
        loss_options: keywords of that loss.
    """

    # a case with a pseudo-label is among the unlabelled ones too
    streams = (Stream("labeled", ("label", "evenly")), ALL)

    recent: Tensor
    shares: Tensor
    seen: Tensor
    labelled: Tensor

    def __init__(
        self, networks: Networks, *,
        consistency: float = 1.0, threshold: float = 0.95, jitter: float = 0.5, cutout: float = 0.25,
        decay: float = 0.999, alignment: bool = False, least_exponent: float = 0.5,
        dice: float = 0.0, cross_entropy: float = 1.0,
        loss: str = "cross_entropy", loss_options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        self.names = tuple(networks.labels)
        check_shares(threshold=threshold, least_exponent=least_exponent)
        check_not_negative(consistency=consistency, jitter=jitter)
        if not 0 <= cutout < 1:
            raise ValueError(f"cutout {cutout:g}: must be at least 0 and less than 1")
        self.terms = SupervisedTerms(
            networks, dice=dice, cross_entropy=cross_entropy, loss=loss, loss_options=loss_options,
        )  # fmt: skip
        self.network = networks.segmenter()
        self.average = AveragedTeacher(self.network, decay=decay)
        self.consistency, self.threshold = consistency, threshold
        self.jitter, self.cutout = jitter, cutout
        self.alignment, self.least_exponent = alignment, least_exponent
        self.register_buffer("recent", torch.full((SLOTS, self.classes), 1 / self.classes))
        self.register_buffer("shares", torch.zeros(self.classes))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("labelled", torch.zeros((), dtype=torch.long))  # batches that p_data is of
        self._learnt = torch.zeros(())

    def segmenter(self) -> nn.Module:
        """The averaged network."""
        return self.average.network

    def after_step(self, clock: Clock) -> None:
        """Move the averaged network; in the first generation see whether alignment is in place."""
        self.average.follow(self.network, clock.iteration)
        done = clock.iteration + 1
        if self.alignment and self.round_number == 0 and done in (SLOTS, clock.total):
            self._warn_of_shares(has_ended=done == clock.total)

    def watched(self) -> dict[str, Tensor]:
        """Share of the voxels that are learnt, and p_model and p_data."""
        return {"learnt": self._learnt, "predicted share": self.recent.mean(0), "labelled share": self.shares}

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The terms of L_s, and `consistency`."""
        labeled, weak = batch["labeled"], batch["all"]["image"]
        inside = batch["all"].get("inside")
        size, count = len(labeled["image"]), len(weak)
        strong = cut_out(jitter_intensities(weak, self.jitter), self.cutout)
        logits = self.network(torch.cat([labeled["image"], weak, strong])).float()
        terms = self.terms(logits[:size], labeled["label"], labeled.get("covered"), clock)
        probabilities = logits[size : size + count].detach().softmax(1)
        targets = self._align(probabilities) if self.alignment else probabilities
        self._follow_shares(probabilities, labeled, inside)
        confidence, pseudo = targets.max(1)
        is_learnt = confidence >= self.threshold
        cost = F.cross_entropy(logits[size + count :], pseudo, reduction="none")
        everywhere = None if inside is None else inside.squeeze(1)
        self._learnt = masked_mean(is_learnt.float(), everywhere)
        return {**terms, "consistency": self.consistency * masked_mean(cost * is_learnt, everywhere)}

    def _align(self, probabilities: Tensor) -> Tensor:
        """Align q with the target of this generation."""
        exponent = alignment.alignment_exponent(self.round_number, self.round_count, self.least_exponent)
        predicted = self.recent.mean(0)
        is_known = bool(self.shares.any())
        target = alignment.alignment_target(self.shares, exponent) if is_known else predicted
        return alignment.align(probabilities, target, predicted)

    @torch.no_grad()
    def _follow_shares(
        self, probabilities: Tensor, labeled: Mapping[str, Tensor], inside: Tensor | None = None
    ) -> None:
        """Move p_model, of the last batches, and p_data, of all.

        Args:
            probabilities: q, `(B, classes, *spatial)`.
            labeled: what the batch has of labelled images.
            inside: `(B, 1, *spatial)` bool, what shows the unlabelled images; None: everything.
        """
        self.recent[int(self.seen) % SLOTS] = alignment.shares_in_predictions(probabilities, inside)
        self.seen.add_(1)
        new = alignment.shares_in_labels(labeled, self.classes)
        if new is not None:
            self.labelled.add_(1)
            kept = min(1 - 1 / int(self.labelled), SHARES_DECAY)
            self.shares.copy_(kept * self.shares + (1 - kept) * new)

    def _warn_of_shares(self, *, has_ended: bool) -> None:
        """Say so where p_data is not known, or the trained network finds other shares of the classes."""
        is_known = bool(self.shares.any())
        if int(self.seen) < SLOTS or (is_known and not has_ended):
            return
        found = alignment.describe_unlike(self.names, self.shares, self.recent.mean(0))
        if found is not None:
            warnings.warn(found, stacklevel=2)


class ClassRebalanced(PseudoLabels):
    """Keep the most confident predictions of each class, of rare classes a larger share.

    Args:
        classes: number of classes with background.
        alpha: exponent of the rates; 0 keeps everything, which is plain self-training.
        rate: "rank", the paper's; "inverse", the same where class sizes fall geometrically, and without its artefacts
            where classes are few or alike.
        least_rate: smallest rate of a class.
        sizes: of the classes, N: "voxels", as counted in the labels, or "mm3", where voxels of cases differ in size.
        unit: "voxel"; "region": whole connected components by their mean confidence, background by voxels; or "image":
            an image as a whole has the class of most of its voxels, with their mean confidence, as the paper has it.
        smallest_region: voxels that a component has at least.
        select: which samples a share is: "top", the most confident, as in the authors' code; "random".
        least_precision: part of what is kept of a class that is right in labelled validation cases, below which
            nothing is added to the class; 0, as in the authors' code: everything is added.
        seed: decides which of equally confident voxels are kept.
    """

    needs = "log_odds"
    counts_labels = True
    is_judged = True
    needs_cases = True

    def __init__(
        self, classes: int, *,
        alpha: float = 1 / 3, rate: Literal["rank", "inverse"] = "rank", least_rate: float = 0.01,
        sizes: Literal["voxels", "mm3"] = "voxels",
        unit: Literal["voxel", "region", "image"] = "voxel", smallest_region: int = 8,
        select: Literal["top", "random"] = "top", least_precision: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(classes)
        check_not_negative(alpha=alpha, smallest_region=smallest_region)
        check_shares(least_rate=least_rate, least_precision=least_precision)
        if sizes == "mm3" and unit == "image":
            raise ValueError("sizes mm3 is of voxels and regions, and unit is image: accepted is voxels")
        self.alpha, self.rate, self.least_rate = alpha, rate, least_rate
        self.unit, self.smallest_region, self.select, self.seed = unit, smallest_region, select, seed
        self.least_precision, self.asks_validation = least_precision, least_precision > 0
        self.counts_images, self.counts_mm3 = unit == "image", sizes == "mm3"

    def summarize(self, case: Predictions) -> dict[str, Any]:
        """For each class the scores of its voxels or regions, counted."""
        labels, scores = self._scored(case)
        counts = {}
        for value in range(self.classes):
            counts[str(value)] = rebalancing.count_scores(self._samples(labels, scores, value)[0])
        return counts

    def decide(self, summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Of each class its rate, where to cut, and what each case keeps of the samples at the cut."""
        rates = rebalancing.class_rates(self.class_counts, alpha=self.alpha, rate=self.rate, least=self.least_rate)
        decided = {}
        for value, rate in enumerate(rates):
            of_class = {name: summary[str(value)] for name, summary in summaries.items()}
            found = rebalancing.decide_class(of_class, rate, self.seed + value)
            if self.unit == "image":  # of thousands of images hardly any lies at the cut, and each record has them all
                found["quotas"] = {name: quota for name, quota in found["quotas"].items() if quota}
            decided[str(value)] = found
        return decided

    def for_others(self, decided: Mapping[str, Any]) -> dict[str, Any]:
        """Of the samples at the cut other cases keep the share that those keep together."""
        return {value: {**of_class, "quotas": None} for value, of_class in decided.items()}

    def leave_out(
        self, decided: Mapping[str, Any], precision: Sequence[float | None]
    ) -> tuple[dict[str, Any], list[int]]:
        """Nothing is added to classes of which less than `least_precision` would be right."""
        wrong = [value for value, right in enumerate(precision) if right is not None and right < self.least_precision]
        nothing = {str(value): rebalancing.decide_class({}, 0.0, self.seed) for value in wrong}
        return {**decided, **nothing}, wrong

    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> Tensor | None:
        """The predictions that are kept; everything else is ignored. None: an image as a whole is not kept."""
        labels, scores = self._scored(case)
        kept = np.full(labels.shape, IGNORE, np.uint8)
        for value in range(self.classes):
            codes, places = self._samples(labels, scores, value)
            chosen = rebalancing.keep_share(codes, decided[str(value)], seed=self.seed + value, name=case.name)
            is_kept = np.concatenate([[False], chosen])  # by number of the sample
            kept[is_kept[places]] = value
        if self.unit == "image" and (kept == IGNORE).all():
            return None
        return torch.from_numpy(kept)

    def _scored(self, case: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Labels, and float16 log-odds of them, `(X, Y, Z)`."""
        if len(case.labels) > 1:
            raise ValueError(f"the rule crest is for one network; there are {len(case.labels)} views")
        assert case.log_odds is not None  # since `needs` asks for them
        scores = case.log_odds[0].numpy()
        if np.isnan(scores).any():
            raise ValueError(f"{case.name}: a probability is not a number")
        return case.labels[0].numpy(), scores

    def _samples(self, labels: np.ndarray, scores: np.ndarray, value: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the samples of a class `(n,)`, and for each voxel 1 + the number of its sample, 0 where none is."""
        is_background = value == 0 and self.has_background
        unit = "voxel" if self.unit == "region" and is_background else self.unit
        places, of_samples = samples_of_class(
            labels, scores, value, classes=self.classes, unit=unit, smallest=self.smallest_region
        )
        if self.select == "random":
            of_samples = np.zeros_like(of_samples)  # of equal samples those that are kept are drawn
        return rebalancing.ordered_code(of_samples), places
