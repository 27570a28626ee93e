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
are the last patches that held the class, kept in a bank, of which checkpoints have the numbers; the authors read
another crop of such an image, which a loader that works ahead cannot do. Their hard examples of L_s (OHEM) are
`loss: hard_examples`; their second head and tenfold rate of heads are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor, nn

from medseg.method import IGNORE, Batch, Clock, Method, Networks, Samples, Stream
from medseg.ops.augmentation.strong_views import jitter_intensities
from medseg.ops.contact_sheet import MixedImages
from medseg.ops.losses.pixel_losses import SupervisedTerms
from medseg.ops.losses.segmentation import weighted_mean
from medseg.ops.ranges import check_not_negative, check_shares
from medseg.ops.schedules import rampup_of_start, sigmoid_rampup
from medseg.ops.semi_supervised import mixing
from medseg.ops.semi_supervised.adaptive_cutmix import AdaptiveCutMix, Predicted, random_cutmix, unlabeled_donor
from medseg.ops.semi_supervised.confidence_bank import ConfidenceBank, draw_class, follow_fractions
from medseg.ops.semi_supervised.copy_paste import CopyPaste
from medseg.ops.semi_supervised.donors import DonorBank, Patch
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
        paste: "aligned", voxels go where the body of the other patient has them, in planes where the donor's patch has
            them; "in_place", in volumes too; "free", the donor is resized, mirrored and moved; "off".
        paste_probability: of each labelled image, to have something pasted in.
        pasted_classes: K.
        paste_scale: smallest and largest factor of a free donor's size.
        background_pasted: whether class 0 may be pasted.
        not_pasted: names of classes that are never pasted; the code names road, sidewalk, building, vegetation and sky.
        area: share of the patch that a component or class has at least, to be cut out; a quarter of its usual share
            for classes that are always smaller.
        donors: patches kept of each class.
        jitter: strength of changed intensities; the paper has none.
        labeled_consistency: whether the same loss is also taken on labelled images, as in the code.
        dice: weight of the Dice term of L_s, which the paper does not have.
        cross_entropy: weight of its cross-entropy, or of the loss that takes its place.
        loss: "cross_entropy", "hard_examples" or "locally_adaptive".
        loss_options: keywords of that loss.
    """

    streams = (Stream("labeled", ("label", "number", "place")), Stream("unlabeled", ("number",)))

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
        paste: Literal["aligned", "in_place", "free", "off"] = "aligned",
        paste_probability: float = 0.5, pasted_classes: int = 3,
        paste_scale: tuple[float, float] = (0.5, 1.5),
        background_pasted: bool = False, not_pasted: tuple[str, ...] = (),
        area: float = 0.005, donors: int = 2, jitter: float = 0.0, labeled_consistency: bool = False,
        dice: float = 0.0, cross_entropy: float = 1.0,
        loss: str = "cross_entropy", loss_options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        self.terms = SupervisedTerms(
            networks, dice=dice, cross_entropy=cross_entropy, loss=loss, loss_options=loss_options,
        )  # fmt: skip
        self.network = networks.segmenter()
        self.teacher = AveragedTeacher(self.network, decay=decay)
        self.bank = ConfidenceBank(self.classes, momentum=momentum, pooled=pooled, absent=absent)
        self.unlabeled_donors = DonorBank(self.classes, donors)
        self.labeled_donors = DonorBank(self.classes, donors)
        self.register_buffer("fractions", torch.zeros(self.classes))
        if temperature <= 0:
            raise ValueError(f"temperature {temperature:g}: must be greater than 0")
        if not 0 < paste_scale[0] <= paste_scale[1]:
            low, high = paste_scale
            raise ValueError(f"paste_scale [{low:g}, {high:g}]: must be greater than 0, the smaller factor first")
        check_shares(threshold=threshold, least_rate=least_rate, paste_probability=paste_probability, area=area)
        check_not_negative(
            consistency=consistency, reweight=reweight, sampling=sampling, jitter=jitter, pasted_classes=pasted_classes
        )
        known = networks.previous.labels if networks.previous else ()
        self.rampup = rampup_of_start(networks.labels, known) if rampup is None else rampup
        self.consistency, self.labeled_consistency = consistency, labeled_consistency
        self.temperature, self.reweight, self.threshold = temperature, reweight, threshold
        self.sampling, self.sampled_by, self.least_rate = sampling, sampled_by, least_rate
        self.cutmix, self.area, self.jitter = cutmix, area, jitter
        self.shown = MixedImages()
        self.adaptive_cutmix = AdaptiveCutMix(self.unlabeled_donors, self._smallest)
        self.paste, self.pasted_classes = paste, pasted_classes
        self.is_aligned = paste == "aligned" and networks.spatial_dims == 3
        scale = paste_scale if paste == "free" else None
        self.copy_paste = CopyPaste(self.labeled_donors, probability=paste_probability, scale=scale)
        self.register_buffer("all_classes", torch.ones(self.classes, dtype=torch.bool), persistent=False)
        pastable = pastable_classes(networks, not_pasted, background=background_pasted)
        self.register_buffer("pastable", pastable, persistent=False)

    def cautions(self, cases: Mapping[str, int]) -> list[str]:
        """Where CutMix has nothing to mix."""
        return [mixing.ALONE] if cases.get("unlabeled") == 1 else []

    def segmenter(self) -> nn.Module:
        """The teacher's network."""
        return self.teacher.network

    def after_step(self, clock: Clock) -> None:
        """Move the teacher."""
        self.teacher.follow(self.network, clock.iteration)

    def recall(self, samples: Samples) -> None:
        """Make the donors anew, of which checkpoints have the numbers."""
        self.labeled_donors.recall(lambda number: self._labeled_donor(samples("labeled", [number])))
        self.unlabeled_donors.recall(lambda number: unlabeled_donor(samples("unlabeled", [number])))

    def _labeled_donor(self, sample: Mapping[str, Tensor]) -> Patch:
        return sample["image"][0], sample["label"][0], sample["place"][0] if self.is_aligned else None

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The terms of L_s, and `consistency`."""
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        covered, notes = labeled.get("covered"), (labeled.get("place"), labeled.get("number"))
        image, label = self._paste_classes(labeled["image"], labeled["label"], covered, *notes)
        mixed = self._mix(unlabeled["image"], unlabeled.get("inside"), unlabeled.get("number"))
        size = len(image)
        seen = jitter_intensities(mixed.images, self.jitter)
        self.shown.keep(unlabeled["image"], seen, mixed.logits)
        logits = self.network(torch.cat([image, seen])).float()
        self.bank.update(logits[:size], label, covered)
        terms = self.terms(logits[:size], label, covered, clock)
        ramp = sigmoid_rampup(clock.fraction / self.rampup) if self.rampup else 1.0
        terms["consistency"] = self.consistency * ramp * self._learn(logits[size:], mixed.logits, mixed.inside)
        if self.labeled_consistency:
            own = self._learn(logits[:size], self.teacher(image), label != IGNORE)
            terms["labeled_consistency"] = self.consistency * ramp * own
        return terms

    def watched(self) -> dict[str, Tensor]:
        """The confidence bank, the rates of the sampling, and how many images of the batch got nothing of a donor."""
        rates = self.bank.rates(exponent=self.sampling, least=self.least_rate)
        vanished = torch.tensor(float(self.copy_paste.vanished))
        return {"confidence": self.bank.confidence(), "rate": rates, "vanished": vanished}

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
            sampled = pseudo if self.sampled_by == "teacher" else logits.detach().max(1).indices
            weight = weight * (drawn < rates[sampled])
        if self.threshold:
            weight = weight * (confidence >= self.threshold)
        if inside is not None:
            weight = weight * inside.squeeze(1)
        return weighted_mean(F.cross_entropy(logits, pseudo, reduction="none"), weight)

    def _mix(self, images: Tensor, inside: Tensor | None = None, numbers: Tensor | None = None) -> Predicted:
        """Unlabelled images with a box of a donor in each, and what the teacher says of them, mixed alike."""
        base = Predicted(images, self.teacher(images), inside, numbers)
        others = mixing.other_images(len(images))
        if self.cutmix == "random":
            return random_cutmix(base, others)
        chance = self.bank.draw_probability(self.all_classes, temperature=self.temperature).cpu()
        return self.adaptive_cutmix(base, chance, others, self.teacher)

    def _smallest(self, value: int, voxels: int) -> float:
        """Voxels of a class that are worth cutting out: less for classes that are always small."""
        usual = float(self.fractions[value])
        share = min(self.area, 0.25 * usual) if usual > 0 else self.area
        return share * voxels

    def _paste_classes(
        self,
        images: Tensor,
        labels: Tensor,
        covered: Tensor | None,
        places: Tensor | None = None,
        numbers: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Labelled images with voxels of badly learnt classes pasted in, and their labels."""
        self.fractions.copy_(follow_fractions(self.fractions, labels))
        if self.paste == "off":
            return images, labels
        chance = self.bank.draw_probability(self.pastable, root=True, temperature=self.temperature).cpu()
        draws = [draw_class(chance) for _ in range(self.pasted_classes)]
        drawn = {value for value in draws if value is not None}
        if covered is not None:
            drawn.discard(0)  # what a label does not cover may be there
        places = places if self.is_aligned else None
        pasted = self.copy_paste(images, labels, drawn, covered, places)
        self.copy_paste.keep(images, labels, self.pastable.tolist(), places, numbers)
        return pasted


def pastable_classes(networks: Networks, without: Sequence[str], *, background: bool) -> Tensor:
    """Which classes may be pasted, `(classes,)` bool.

    Args:
        networks: know the names of the classes.
        without: names of those that may not.
        background: whether the background may.

    Raises:
        ValueError: a name that no class has.
    """
    unknown = [name for name in without if name not in networks.labels]
    if unknown:
        raise ValueError(f"not_pasted has {unknown[0]!r}; accepted are {', '.join(networks.labels)}")
    pasted = [name not in without for name in networks.labels]
    pasted[0] &= background or not networks.has_background
    return torch.tensor(pasted)
