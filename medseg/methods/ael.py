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

Followed is the paper; where its authors' code differs the options name it. Two departures are measured needs: alpha
rises over the first part of the run (`rampup`), because a network that starts anew teaches itself noise otherwise;
classes that a batch lacks leave their confidence as it is (`absent`), where the code lets it fall. Donors are the last
patches that held the class, kept in a bank; the authors read another crop of such an image, which a loader that works
ahead cannot do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor, nn

from medseg.method import LABELED, UNLABELED, Batch, Clock, Method, Networks
from medseg.ops.augmentation.strong_views import jitter_intensities
from medseg.ops.losses.pixel_losses import SupervisedTerms
from medseg.ops.processes import gather_from_processes
from medseg.ops.schedules import sigmoid_rampup
from medseg.ops.semi_supervised import mixing
from medseg.ops.semi_supervised.confidence_bank import ConfidenceBank, class_fractions
from medseg.ops.semi_supervised.donors import DonorBank
from medseg.ops.semi_supervised.teacher import AveragedTeacher

PASTE_PROBABILITY = 0.5
"""Of each labelled image, to have something pasted in."""

SMALLEST_PASTE = 8
"""Voxels of a pasted class, below which nothing is pasted."""


class AEL(Method):
    """Adaptive equalization learning.

    Args:
        networks: makes the network.
        consistency: alpha.
        rampup: part of the run in which alpha rises; 0, as in the paper: it is constant.
        decay: of the teacher, in the end.
        momentum: of the confidence bank; the paper's 0.999 belongs to 18 000 steps.
        pooled: confidence over all voxels of a class in the batch (the code) or the mean of images (the paper).
        absent: "skip" or "zero", see `medseg.ops.semi_supervised.confidence_bank.ConfidenceBank`.
        reweight: gamma, exponent of the teacher's confidence; 0 switches the re-weighting off.
        sampling: beta, exponent of the rates of voxels; 0 switches the equalization sampling off.
        least_rate: smallest rate of a class.
        cutmix: "adaptive", or "random" for the plain CutMix of the baseline.
        paste: "aligned", voxels stay where the donor has them; "free", the donor is resized, mirrored and moved; "off".
        pasted_classes: K.
        paste_scale: smallest and largest factor of a free donor's size.
        background_pasted: whether class 0 may be pasted.
        area: share of the patch that a component or class has at least, to be cut out.
        donors: patches kept of each class.
        jitter: strength of changed intensities; the paper has none.
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
        consistency: float = 1.0, rampup: float = 0.4, decay: float = 0.99,
        momentum: float = 0.99, pooled: bool = True, absent: Literal["skip", "zero"] = "skip",
        reweight: float = 2.0, sampling: float = 1.0, least_rate: float = 0.0,
        cutmix: Literal["adaptive", "random"] = "adaptive",
        paste: Literal["aligned", "free", "off"] = "aligned", pasted_classes: int = 3,
        paste_scale: tuple[float, float] = (0.5, 1.5), background_pasted: bool = False,
        area: float = 0.005, donors: int = 2, jitter: float = 0.0,
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
        self.consistency, self.rampup = consistency, rampup
        self.reweight, self.sampling, self.least_rate = reweight, sampling, least_rate
        self.cutmix, self.area, self.jitter = cutmix, area, jitter
        self.paste, self.pasted_classes, self.paste_scale = paste, pasted_classes, paste_scale
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
        labeled = batch["labeled"]
        covered = labeled.get("covered")
        image, label = self._paste_classes(labeled["image"], labeled["label"], covered)
        mixed, targets = self._mix(batch["unlabeled"]["image"])
        size = len(image)
        logits = self.network(torch.cat([image, jitter_intensities(mixed, self.jitter)])).float()
        self.bank.update(logits[:size], label, covered)
        terms = self.terms(logits[:size], label, covered)
        ramp = sigmoid_rampup(clock.fraction / self.rampup) if self.rampup else 1.0
        return {**terms, "consistency": self.consistency * ramp * self._learn(logits[size:], targets)}

    def watched(self) -> dict[str, Tensor]:
        """The confidence bank, and the rates of the equalization sampling."""
        rates = self.bank.rates(exponent=self.sampling, least=self.least_rate)
        return {"confidence": self.bank.confidence(), "rate": rates}

    def _learn(self, logits: Tensor, targets: Tensor) -> Tensor:
        """L_u of the network's logits on mixed images and the mixed logits of the teacher."""
        confidence, pseudo = targets.softmax(1).max(1)
        weight = confidence**self.reweight if self.reweight else torch.ones_like(confidence)
        if self.sampling:
            rates = self.bank.rates(exponent=self.sampling, least=self.least_rate)
            drawn = torch.rand(confidence.shape).to(confidence.device)
            weight = weight * (drawn < rates[logits.detach().argmax(1)])
        return weighted_mean(F.cross_entropy(logits, pseudo, reduction="none"), weight)

    # Adaptive CutMix of unlabelled images.

    def _mix(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unlabelled images with a box of a donor in each, and the teacher's logits mixed alike."""
        logits = self.teacher(images)
        shape = images.shape[2:]
        others = mixing.other_images(len(images))
        if self.cutmix == "random":
            boxes = [mixing.random_box(shape) for _ in others]
            donors, donor_logits = images[others], logits[others]
        else:
            boxes, donors, donor_logits = self._choose_donors(images, logits, others)
        masks = mixing.box_masks(boxes, shape, images.device)
        return mixing.paste(images, donors, masks), mixing.paste(logits, donor_logits, masks)

    def _choose_donors(
        self, images: Tensor, logits: Tensor, others: list[int]
    ) -> tuple[list[mixing.Box], Tensor, Tensor]:
        """For each image a box, a donor that holds the drawn class where one is known, and the teacher's logits of it.

        Args:
            images: `(B, Cin, *spatial)`.
            logits: the teacher's, `(B, classes, *spatial)`.
            others: for each image the one that it gets where no donor is known.
        """
        chance = self.bank.draw_probability(self.all_classes).cpu()
        wanted = [_draw(chance) for _ in others]
        donors, donor_logits = images[others].clone(), logits[others].clone()
        kept: dict[int, int] = {}
        for number, value in enumerate(wanted):
            if value is not None and self.unlabeled_donors.holds(value):
                kept[number] = self.unlabeled_donors.draw(value)
                donors[number] = self.unlabeled_donors.images[value, kept[number]].to(images.dtype)
        if kept:
            donor_logits[list(kept)] = self.teacher(donors[list(kept)]).to(donor_logits.dtype)
        found = donor_logits.argmax(1)
        boxes = []
        for number, value in enumerate(wanted):
            box = None
            if value is not None:
                box = mixing.component_box(found[number] == value, self._smallest(value, found[number].numel()))
                if box is None and number in kept:
                    self.unlabeled_donors.forget(value, kept[number])
            boxes.append(mixing.random_box(images.shape[2:]) if box is None else box)
        self._keep_donors(images, logits.argmax(1, keepdim=True))
        return boxes, donors, donor_logits

    def _smallest(self, value: int, voxels: int) -> float:
        """Voxels of a class that are worth cutting out: less for classes that are always small."""
        usual = float(self.fractions[value])
        share = min(self.area, 0.25 * usual) if usual > 0 else self.area
        return share * voxels

    def _keep_donors(self, images: Tensor, predicted: Tensor) -> None:
        """Keep the images, of all processes, in which the teacher sees enough of a class."""
        images, predicted = gather_from_processes(images), gather_from_processes(predicted)
        areas = class_fractions(predicted, self.classes).cpu()
        for image, label, area in zip(images, predicted, areas, strict=True):
            for value in range(self.classes):
                if float(area[value]) * label.numel() > self._smallest(value, label.numel()):
                    self.unlabeled_donors.store(value, image, label)

    # Adaptive copy-paste of labelled images.

    def _paste_classes(self, images: Tensor, labels: Tensor, covered: Tensor | None) -> tuple[Tensor, Tensor]:
        """Labelled images with voxels of badly learnt classes pasted in, and their labels."""
        self._count_fractions(labels)
        if self.paste == "off":
            return images, labels
        chance = self.bank.draw_probability(self.pastable, root=True).cpu()
        draws = [_draw(chance) for _ in range(self.pasted_classes)]
        drawn = {value for value in draws if value is not None}
        others = mixing.other_images(len(images))
        new_images, new_labels = images.clone(), labels.clone()
        for number, other in enumerate(others):
            if float(torch.rand(())) >= PASTE_PROBABILITY:
                continue
            wanted = sorted(value for value in drawn if covered is None or bool(covered[number, value]))
            donor, donor_label = self._labeled_donor(wanted, images[other], labels[other])
            if self.paste == "free":
                donor, donor_label = mixing.move_freely(donor, donor_label, self.paste_scale)
            mask = _voxels_of(donor_label, wanted)
            new_images[number] = torch.where(mask, donor.to(images.dtype), images[number])
            new_labels[number] = torch.where(mask, donor_label, labels[number])
        self._keep_labeled(images, labels)
        return new_images, new_labels

    def _labeled_donor(self, drawn: list[int], image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """A patch that holds one of the drawn classes, where one is known, else the one that is given."""
        held = [value for value in drawn if self.labeled_donors.holds(value)]
        if not held:
            return image, label
        value = held[int(torch.randint(len(held), ()))]
        slot = self.labeled_donors.draw(value)
        return self.labeled_donors.images[value, slot], self.labeled_donors.labels[value, slot]

    def _keep_labeled(self, images: Tensor, labels: Tensor) -> None:
        """Keep the images, of all processes, that hold enough of a class which may be pasted."""
        images, labels = gather_from_processes(images), gather_from_processes(labels)
        areas = class_fractions(labels, self.classes).cpu()
        for image, label, area in zip(images, labels, areas, strict=True):
            for value in range(self.classes):
                if bool(self.pastable[value]) and float(area[value]) * label.numel() >= SMALLEST_PASTE:
                    self.labeled_donors.store(value, image, label)

    @torch.no_grad()
    def _count_fractions(self, labels: Tensor) -> None:
        """Follow the share that each class has of the labelled patches that hold it."""
        areas = class_fractions(gather_from_processes(labels), self.classes)
        holding = areas > 0
        mean = areas.sum(0) / holding.sum(0).clamp(min=1)
        moved = torch.where(self.fractions > 0, 0.9 * self.fractions + 0.1 * mean, mean)
        self.fractions.copy_(torch.where(holding.any(0), moved, self.fractions))


def weighted_mean(cost: Tensor, weight: Tensor) -> Tensor:
    """`sum w c / sum w`; zero, not NaN, where all weights are."""
    return (weight * cost).sum() / weight.sum().clamp(min=1e-12)


def _voxels_of(label: Tensor, wanted: list[int]) -> Tensor:
    """Where a label has one of the wanted classes, of those that it has enough of."""
    mask = torch.zeros_like(label, dtype=torch.bool)
    for value in wanted:
        of_class = label == value
        if int(of_class.sum()) >= SMALLEST_PASTE:
            mask |= of_class
    return mask


def _draw(chance: Tensor) -> int | None:
    """A class by its probability; None where no class has any."""
    if float(chance.sum()) == 0:
        return None
    return int(torch.multinomial(chance, 1))
