"""AEL: adaptive equalization learning. Badly learnt classes are pasted more often, and taught more of their voxels.

H. Hu, F. Wei, H. Hu, Q. Ye, J. Cui, L. Wang: Semi-Supervised Semantic Segmentation via Adaptive Equalization Learning,
NeurIPS 2021; arXiv 2110.05474.

    L   = L_s + alpha w(t) L_u
    L_u = sum_j w_j CE(f(v)_j, argmax g_j) / sum_j w_j
    w_j = (max softmax g_j)^gamma  1_j,   1_j ~ Bernoulli(s[class that f predicts at j])
    s_c = ((1 - Conf_c) / max_c (1 - Conf_c))^beta

f: the network; g: logits of its averaged teacher; Conf: the confidence bank, a moving average of the probability that
f gives to the true class of labelled voxels; v: unlabelled images with a box of a donor pasted in, g mixed in the same
way. The class of the donor is drawn from softmax(1 - Conf), its box is that of a connected component of the class
(adaptive CutMix). Into labelled images voxels of K classes drawn from softmax(sqrt(1 - Conf)) are pasted from another
labelled image (adaptive copy-paste).

The sums of L_u go over all voxels of the batch, but those outside of the images. Where paper and authors' code differ
the options name both; by default the paper is followed, but for `pooled` and `sampled_by`. Two departures are measured
needs: alpha rises over the first part of the run (`rampup`), because a network that starts anew teaches itself noise
otherwise; classes that a batch lacks leave their confidence as it is (`absent`), where the code lets it fall. Donors
are the last patches that held the class, kept in a bank; the authors read another crop of such an image, which a loader
that works ahead cannot do. Their hard examples of L_s (OHEM), second head and tenfold rate of heads are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor, nn

from medseg.method import IGNORE, LABELED, UNLABELED, Batch, Clock, Method, Networks
from medseg.ops.augmentation.strong_views import jitter_intensities
from medseg.ops.contact_sheet import MixedImages
from medseg.ops.losses.pixel_losses import SupervisedTerms
from medseg.ops.losses.segmentation import weighted_mean
from medseg.ops.processes import gather_from_processes
from medseg.ops.schedules import rampup_of_start, sigmoid_rampup
from medseg.ops.semi_supervised import mixing
from medseg.ops.semi_supervised.confidence_bank import ConfidenceBank, class_fractions, class_voxels, draw_class
from medseg.ops.semi_supervised.copy_paste import SMALLEST_PASTE, CopyPaste
from medseg.ops.semi_supervised.donors import DonorBank
from medseg.ops.semi_supervised.teacher import AveragedTeacher


class AEL(Method):
    """Adaptive equalization learning.

    Args:
        networks: makes the network.
        consistency: alpha.
        rampup: part of the run in which alpha rises; 0, as in the paper: it is constant; None: 0.4, and 0 where the run
            starts from a network that knows all classes.
        decay: of the teacher, in the end.
        momentum: of the confidence bank; the paper's 0.999 belongs to 18 000 steps.
        pooled: confidence over all voxels of a class in the batch (the code) or the mean of images (the paper).
        absent: "skip" or "zero", see `medseg.ops.semi_supervised.confidence_bank.ConfidenceBank`.
        temperature: of the softmax by which classes are drawn.
        reweight: gamma, exponent of the teacher's confidence; 0 switches the re-weighting off.
        threshold: confidence of the teacher below which a voxel is not learnt; the code has 0.7 for PASCAL VOC.
        sampling: beta, exponent of the rates of voxels; 0 switches the equalization sampling off.
        sampled_by: whose predicted class sets the rate of a voxel, "student" (the code) or "teacher".
        least_rate: smallest rate of a class.
        cutmix: "adaptive", or "random" for the plain CutMix of the baseline.
        paste: "aligned", voxels stay where the donor's patch has them; "free", the donor is resized, mirrored and
            moved; "off".
        paste_probability: of each labelled image, to have something pasted in.
        pasted_classes: K.
        paste_scale: smallest and largest factor of a free donor's size.
        background_pasted: whether class 0 may be pasted.
        area: share of the patch that a component or class has at least, to be cut out; a quarter of its usual share
            for classes that are always smaller.
        donors: patches kept of each class.
        jitter: strength of changed intensities; the paper has none.
        labeled_consistency: whether the same loss is also taken on labelled images, as in the code.
        dice: weight of the Dice term of L_s, which the paper does not have.
        cross_entropy: weight of its cross-entropy, or of the loss that takes its place.
        loss: "cross_entropy" or "locally_adaptive".
        loss_options: keywords of that loss.
    """

    streams = (LABELED, UNLABELED)

    fractions: Tensor
    all_classes: Tensor
    pastable: Tensor

    def __init__(
        self, networks: Networks, *,
        consistency: float = 1.0, rampup: float | None = None, decay: float = 0.99,
        momentum: float = 0.99, pooled: bool = True, absent: Literal["skip", "zero"] = "skip", temperature: float = 1.0,
        reweight: float = 2.0, threshold: float = 0.0,
        sampling: float = 1.0, sampled_by: Literal["student", "teacher"] = "student", least_rate: float = 0.0,
        cutmix: Literal["adaptive", "random"] = "adaptive",
        paste: Literal["aligned", "free", "off"] = "aligned", paste_probability: float = 0.5, pasted_classes: int = 3,
        paste_scale: tuple[float, float] = (0.5, 1.5), background_pasted: bool = False,
        area: float = 0.005, donors: int = 2, jitter: float = 0.0, labeled_consistency: bool = False,
        dice: float = 0.0, cross_entropy: float = 1.0,
        loss: str = "cross_entropy", loss_options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        self.terms = SupervisedTerms(
            networks.spatial_dims, networks.has_background,
            dice=dice, cross_entropy=cross_entropy, loss=loss, loss_options=loss_options,
        )  # fmt: skip
        self.network = networks.segmenter()
        self.teacher = AveragedTeacher(self.network, decay=decay)
        self.bank = ConfidenceBank(self.classes, momentum=momentum, pooled=pooled, absent=absent)
        self.unlabeled_donors = DonorBank(self.classes, donors)
        self.labeled_donors = DonorBank(self.classes, donors)
        self.register_buffer("fractions", torch.zeros(self.classes))
        if temperature <= 0:
            raise ValueError(f"temperature {temperature:g}: must be greater than 0")
        known = networks.previous.labels if networks.previous else ()
        self.rampup = rampup_of_start(networks.labels, known) if rampup is None else rampup
        self.consistency, self.labeled_consistency = consistency, labeled_consistency
        self.temperature, self.reweight, self.threshold = temperature, reweight, threshold
        self.sampling, self.sampled_by, self.least_rate = sampling, sampled_by, least_rate
        self.cutmix, self.area, self.jitter = cutmix, area, jitter
        self.shown = MixedImages()
        self.paste, self.pasted_classes = paste, pasted_classes
        scale = paste_scale if paste == "free" else None
        self.copy_paste = CopyPaste(self.labeled_donors, probability=paste_probability, scale=scale)
        eligible = torch.ones(self.classes, dtype=torch.bool)
        self.register_buffer("all_classes", eligible, persistent=False)
        pasted = eligible.clone()
        pasted[0] = background_pasted or not networks.has_background
        self.register_buffer("pastable", pasted, persistent=False)

    def segmenter(self) -> nn.Module:
        """The teacher's network."""
        return self.teacher.network

    def after_step(self, clock: Clock) -> None:
        """Move the teacher."""
        self.teacher.follow(self.network, clock.iteration)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The terms of L_s, and `consistency`."""
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        covered = labeled.get("covered")
        image, label = self._paste_classes(labeled["image"], labeled["label"], covered)
        mixed, targets, inside = self._mix(unlabeled["image"], unlabeled.get("inside"))
        size = len(image)
        seen = jitter_intensities(mixed, self.jitter)
        self.shown.keep(unlabeled["image"], seen, targets)
        logits = self.network(torch.cat([image, seen])).float()
        self.bank.update(logits[:size], label, covered)
        terms = self.terms(logits[:size], label, covered)
        ramp = sigmoid_rampup(clock.fraction / self.rampup) if self.rampup else 1.0
        terms["consistency"] = self.consistency * ramp * self._learn(logits[size:], targets, inside)
        if self.labeled_consistency:
            own = self._learn(logits[:size], self.teacher(image), label != IGNORE)
            terms["labeled_consistency"] = self.consistency * ramp * own
        return terms

    def watched(self) -> dict[str, Tensor]:
        """The confidence bank, and the rates of the equalization sampling."""
        rates = self.bank.rates(exponent=self.sampling, least=self.least_rate)
        return {"confidence": self.bank.confidence(), "rate": rates}

    def pictures(self) -> dict[str, Tensor]:
        """Unlabelled images of the last batch, as the student saw them, and what the teacher said of these."""
        return self.shown.sheet()

    def _learn(self, logits: Tensor, targets: Tensor, inside: Tensor | None = None) -> Tensor:
        """L_u of the network's logits on mixed images and the mixed logits of the teacher.

        Args:
            logits: `(B, classes, *spatial)`.
            targets: `(B, classes, *spatial)`.
            inside: `(B, 1, *spatial)` bool, what shows the images; None: everything.
        """
        confidence, pseudo = targets.softmax(1).max(1)
        weight = confidence**self.reweight if self.reweight else torch.ones_like(confidence)
        if self.sampling:
            rates = self.bank.rates(exponent=self.sampling, least=self.least_rate)
            drawn = torch.rand(confidence.shape).to(confidence.device)
            sampled = pseudo if self.sampled_by == "teacher" else logits.detach().argmax(1)
            weight = weight * (drawn < rates[sampled])
        if self.threshold:
            weight = weight * (confidence >= self.threshold)
        if inside is not None:
            weight = weight * inside.squeeze(1)
        return weighted_mean(F.cross_entropy(logits, pseudo, reduction="none"), weight)

    # Adaptive CutMix of unlabelled images.

    def _mix(self, images: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Unlabelled images with a box of a donor in each, the teacher's logits, and what shows images, mixed alike."""
        logits = self.teacher(images)
        shape = images.shape[2:]
        others = mixing.other_images(len(images))
        if self.cutmix == "random":
            boxes = [mixing.random_box(shape) for _ in others]
            donors, donor_logits = images[others], logits[others]
            donors_inside = None if inside is None else inside[others]
        else:
            boxes, donors, donor_logits, donors_inside = self._choose_donors(images, logits, inside, others)
        masks = mixing.box_masks(boxes, shape, images.device)
        if inside is not None and donors_inside is not None:
            inside = mixing.paste(inside, donors_inside, masks)
        return mixing.paste(images, donors, masks), mixing.paste(logits, donor_logits, masks), inside

    def _choose_donors(
        self, images: Tensor, logits: Tensor, inside: Tensor | None, others: list[int]
    ) -> tuple[list[mixing.Box], Tensor, Tensor, Tensor | None]:
        """For each image a box, a donor that holds the drawn class where one is known, and the teacher's logits of it.

        Args:
            images: `(B, Cin, *spatial)`.
            logits: the teacher's, `(B, classes, *spatial)`.
            inside: `(B, 1, *spatial)` bool, what shows the images; None: everything.
            others: for each image the one that it gets where no donor is known.

        Returns:
            Also `inside` of the donors.
        """
        bank = self.unlabeled_donors
        chance = self.bank.draw_probability(self.all_classes, temperature=self.temperature).cpu()
        wanted = [draw_class(chance) for _ in others]
        donors, donor_logits = images[others].clone(), logits[others].clone()
        donors_inside = None if inside is None else inside[others].clone()
        kept: dict[int, int] = {}
        for number, value in enumerate(wanted):
            if value is not None and bank.holds(value):
                kept[number] = bank.draw(value)
                donors[number] = bank.images[value, kept[number]].to(images.dtype)
                if donors_inside is not None:
                    donors_inside[number] = bank.labels[value, kept[number]] != IGNORE
        if kept:
            donor_logits[list(kept)] = self.teacher(donors[list(kept)]).to(donor_logits.dtype)
        found = _predicted(donor_logits, donors_inside)[:, 0]
        boxes, forgotten = [], []
        for number, value in enumerate(wanted):
            box = None
            if value is not None:
                box = mixing.component_box(found[number] == value, self._smallest(value, found[number].numel()))
                if box is None and number in kept:
                    forgotten.append((value, kept[number]))
            boxes.append(mixing.random_box(images.shape[2:]) if box is None else box)
        bank.forget(forgotten)
        self._keep_donors(images, _predicted(logits, inside))
        return boxes, donors, donor_logits, donors_inside

    def _smallest(self, value: int, voxels: int) -> float:
        """Voxels of a class that are worth cutting out: less for classes that are always small."""
        usual = float(self.fractions[value])
        share = min(self.area, 0.25 * usual) if usual > 0 else self.area
        return share * voxels

    def _keep_donors(self, images: Tensor, predicted: Tensor) -> None:
        """Keep the images, of all processes, in which the teacher sees enough of a class."""
        images, predicted = gather_from_processes(images), gather_from_processes(predicted)
        voxels = class_voxels(predicted, self.classes).cpu()
        for image, label, count in zip(images, predicted, voxels, strict=True):
            for value in range(self.classes):
                if float(count[value]) > self._smallest(value, label.numel()):
                    self.unlabeled_donors.store(value, image, label)

    # Adaptive copy-paste of labelled images.

    def _paste_classes(self, images: Tensor, labels: Tensor, covered: Tensor | None) -> tuple[Tensor, Tensor]:
        """Labelled images with voxels of badly learnt classes pasted in, and their labels."""
        self._count_fractions(labels)
        if self.paste == "off":
            return images, labels
        chance = self.bank.draw_probability(self.pastable, root=True, temperature=self.temperature).cpu()
        draws = [draw_class(chance) for _ in range(self.pasted_classes)]
        drawn = {value for value in draws if value is not None}
        pasted = self.copy_paste(images, labels, drawn, covered)
        self._keep_labeled(images, labels)
        return pasted

    def _keep_labeled(self, images: Tensor, labels: Tensor) -> None:
        """Keep the images, of all processes, that hold enough of a class which may be pasted."""
        images, labels = gather_from_processes(images), gather_from_processes(labels)
        voxels = class_voxels(labels, self.classes).cpu()
        for image, label, count in zip(images, labels, voxels, strict=True):
            for value in range(self.classes):
                if bool(self.pastable[value]) and float(count[value]) >= SMALLEST_PASTE:
                    self.labeled_donors.store(value, image, label)

    @torch.no_grad()
    def _count_fractions(self, labels: Tensor) -> None:
        """Follow the share that each class has of the labelled patches that hold it."""
        areas = class_fractions(gather_from_processes(labels), self.classes)
        holding = areas > 0
        mean = areas.sum(0) / holding.sum(0).clamp(min=1)
        moved = torch.where(self.fractions > 0, 0.9 * self.fractions + 0.1 * mean, mean)
        self.fractions.copy_(torch.where(holding.any(0), moved, self.fractions))


def _predicted(logits: Tensor, inside: Tensor | None) -> Tensor:
    """The class of each voxel, `(B, 1, *spatial)`; 255 outside of the images."""
    found = logits.argmax(1, keepdim=True)
    return found if inside is None else torch.where(inside, found, IGNORE)
