"""Mean teacher and CutMix: what an averaged teacher says of unlabelled images is learnt on changed views of them.

A. Tarvainen, H. Valpola: Mean teachers are better role models, NeurIPS 2017; arXiv 1703.01780.
G. French, S. Laine, T. Aila, M. Mackiewicz, G. Finlayson: Semi-supervised semantic segmentation needs strong, varied
perturbations, BMVC 2020; arXiv 1906.01916.

    L = L_s + w(t) L_u
    target "probabilities":  L_u = mean over voxels and classes of (softmax f(v) - softmax g)^2
    target "pseudo_labels":  L_u = mean over voxels with max softmax g >= threshold of CE(f(v), argmax g)

f: the network; g: logits of its averaged teacher on the images as they are; v: the images with changed intensities.
With `mix: cutmix` v is each image with a box of another one in it, half of the image large, and g is mixed in the same
way before it becomes a target. w rises from 0 over the first part of the run, unless the run starts from a network
that knows the classes: of one that starts anew, what the teacher says at first is noise. Voxels outside of the images
are in no mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor, nn

from medseg.method import LABELED, UNLABELED, Batch, Clock, Method, Networks
from medseg.ops.augmentation.strong_views import jitter_intensities
from medseg.ops.contact_sheet import MixedImages
from medseg.ops.losses import segmentation as losses
from medseg.ops.losses.pixel_losses import SupervisedTerms
from medseg.ops.ranges import check_not_negative, check_shares
from medseg.ops.schedules import rampup_of_start, sigmoid_rampup
from medseg.ops.semi_supervised import mixing
from medseg.ops.semi_supervised.adaptive_cutmix import Predicted, random_cutmix
from medseg.ops.semi_supervised.teacher import AveragedTeacher


class MeanTeacher(Method):
    """Consistency with an averaged teacher, on jittered or mixed images.

    Args:
        networks: makes the network.
        consistency: final weight w of L_u.
        target: what the teacher's output becomes.
        threshold: probability below which a pseudo-label is not learnt.
        mix: whether boxes of other images are pasted in.
        jitter: strength of the changes of intensities, see `medseg.ops.augmentation.strong_views.jitter_intensities`.
        decay: of the teacher, in the end.
        rampup: part of the run in which w rises; 0: it is constant; None: 0.4, and 0 where the run starts from a
            network that knows all classes.
        dice: weight of the Dice term of L_s.
        cross_entropy: weight of its cross-entropy, or of the loss that takes its place.
        loss: "cross_entropy", "hard_examples" or "locally_adaptive".
        loss_options: keywords of that loss.
    """

    streams = (LABELED, UNLABELED)

    def __init__(
        self, networks: Networks, *,
        consistency: float = 1.0, target: Literal["probabilities", "pseudo_labels"] = "probabilities",
        threshold: float = 0.0, mix: Literal["none", "cutmix"] = "none", jitter: float = 0.3,
        decay: float = 0.99, rampup: float | None = None,
        dice: float = 1.0, cross_entropy: float = 1.0,
        loss: str = "cross_entropy", loss_options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        self.terms = SupervisedTerms(
            networks, dice=dice, cross_entropy=cross_entropy, loss=loss, loss_options=loss_options,
        )  # fmt: skip
        self.network = networks.segmenter()
        self.teacher = AveragedTeacher(self.network, decay=decay)
        check_shares(threshold=threshold)
        check_not_negative(consistency=consistency, jitter=jitter)
        self.consistency, self.target, self.threshold = consistency, target, threshold
        self.mix, self.jitter = mix, jitter
        self.shown = MixedImages()
        known = networks.previous.labels if networks.previous else ()
        self.rampup = rampup_of_start(networks.labels, known) if rampup is None else rampup

    def cautions(self, cases: Mapping[str, int]) -> list[str]:
        """Where CutMix has nothing to mix."""
        return [mixing.ALONE] if self.mix == "cutmix" and cases.get("unlabeled") == 1 else []

    def segmenter(self) -> nn.Module:
        """The teacher's network."""
        return self.teacher.network

    def after_step(self, clock: Clock) -> None:
        """Move the teacher."""
        self.teacher.follow(self.network, clock.iteration)

    def pictures(self) -> dict[str, Tensor]:
        """Unlabelled images of the last batch, as the student saw them, and what the teacher said of these."""
        return self.shown.sheet()

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The terms of L_s, and `consistency`."""
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        size = len(labeled["image"])
        images, inside = unlabeled["image"], unlabeled.get("inside")
        targets = self.teacher(images)
        if self.mix == "cutmix":
            mixed = random_cutmix(Predicted(images, targets, inside), mixing.other_images(len(images)))
            images, targets, inside = mixed.images, mixed.logits, mixed.inside
        seen = jitter_intensities(images, self.jitter)
        self.shown.keep(unlabeled["image"], seen, targets)
        logits = self.network(torch.cat([labeled["image"], seen])).float()
        terms = self.terms(logits[:size], labeled["label"], labeled.get("covered"), clock)
        ramp = sigmoid_rampup(clock.fraction / self.rampup) if self.rampup else 1.0
        return {**terms, "consistency": self.consistency * ramp * self._distance(logits[size:], targets, inside)}

    def _distance(self, logits: Tensor, targets: Tensor, inside: Tensor | None = None) -> Tensor:
        """L_u of the student's and the teacher's logits.

        Args:
            logits: `(B, classes, *spatial)`.
            targets: `(B, classes, *spatial)`.
            inside: `(B, 1, *spatial)` bool, what shows the images; None: everything.
        """
        if self.target == "probabilities":
            return losses.masked_mean((logits.softmax(1) - targets.softmax(1)) ** 2, inside)
        confidence, pseudo = targets.softmax(1).max(1)
        learnt = confidence >= self.threshold
        if inside is not None:
            learnt = learnt & inside.squeeze(1)
        return losses.masked_mean(F.cross_entropy(logits, pseudo, reduction="none"), learnt)
