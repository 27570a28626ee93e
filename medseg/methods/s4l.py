"""S4L: self-supervised semi-supervised learning. A task without labels is learnt together with the segmentation.

X. Zhai, A. Oliver, A. Kolesnikov, L. Beyer: S4L: Self-Supervised Semi-Supervised Learning, ICCV 2019; arXiv 1905.03670.

    L     = L_s(f(x), y) + t L_s(f(turned x), turned y) + w L_rot + e L_ex + v L_vat + m L_ent
    L_rot = mean of the two: CE(h(turned x), r) over labelled and over unlabelled copies
    L_ex  = mean of the two: softplus(max d(same image) - min d(other images)) over their views
    L_vat = KL(p(u + r_adv), p(u)),  L_ent = entropy of p(u)

f: the network; h: a linear layer on the mean of the encoder's coarsest features; u: unlabelled images. The paper is on
classification, where all copies of a labelled image are learnt with its class. For segmentation it has no setting of
its own: followed is PixelSSL (Z. Ke et al., its S4L for Pascal VOC), with one upright copy and one turned by another
rotation, t = w = 0.1, except that h reads the encoder and not the segmentation. `copies: all` are the paper's four.

Where the paper and its code differ, the code is followed: VAT sees unlabelled images only, and its divergence has the
changed image first (`vat_direction`). To save memory, VAT and the entropy see the
upright unlabelled images, in the code all copies; and views of the exemplar task are not segmented, where the code
learns the class of each. The rotations are those that the spacing does not give away
(`medseg.ops.pretext.rotations`). A patch whose exchanged axes are not equally long is cut to a random part that
has them so, for the copies alone; the labelled patch is still learnt whole. What predicts has no h.

`rotation: 0` is the control: the same copies, which are augmentation, without the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medseg.method import LABELED, Batch, Clock, Method, Networks, Predictions, PseudoLabels, Stream
from medseg.ops.losses.pixel_losses import SupervisedTerms
from medseg.ops.losses.virtual_adversarial import adversarial_loss, mean_entropy
from medseg.ops.pretext.rotated_copies import Turned, plan_copies
from medseg.ops.pretext.rotations import RotationSet
from medseg.ops.pretext.tasks import (
    ExemplarTask,
    RotationTask,
    answers,
    exemplar_loss,
    pooled,
    shows_something,
)
from medseg.ops.semi_supervised.teacher import AveragedTeacher

ROTATION = 0.1
"""Default weight of the rotation task."""


class S4L(Method):
    """Segmentation together with the rotation task, the exemplar task, or both.

    Args:
        networks: makes the network.
        rotation: w. 0 leaves the copies, as augmentation.
        turned: t, weight of what is learnt of turned labelled copies with turned labels.
        rotations: "auto", "quarter4" or "half2" for planes, "axial4", "axis10", "cube24" or "half4" for volumes.
        copies: "one" turned copy of each image beside the upright one, or "all" rotations of it.
        exemplar: e; 0 switches the exemplar task off.
        views: of each image, for the exemplar task; None: 8 in planes and 4 in volumes.
        embedding: size of the embedding of a view.
        vat: v; 0 switches virtual adversarial training off.
        vat_radius: root mean square of a voxel of r_adv.
        vat_direction: "changed", KL(p(u + r), p(u)) as in the code, or "clean", KL(p(u), p(u + r)).
        entropy: m; 0 switches the entropy off.
        half_life: steps after which a weight counts half in the averaged network, which then predicts; 0: none is
            averaged.
        dice: weight of the Dice term of L_s.
        cross_entropy: weight of its cross-entropy, or of the loss that takes its place.
        loss: "cross_entropy", "hard_examples" or "locally_adaptive".
        loss_options: keywords of that loss.
    """

    streams = (LABELED, Stream("unlabeled", optional=True))

    def __init__(
        self, networks: Networks, *,
        rotation: float = ROTATION, turned: float = 0.1, rotations: str = "auto",
        copies: Literal["one", "all"] = "one",
        exemplar: float = 0.0, views: int | None = None, embedding: int = 1000,
        vat: float = 0.0, vat_radius: float = 0.08, vat_direction: Literal["changed", "clean"] = "changed",
        entropy: float = 0.0, half_life: float = 0.0,
        dice: float = 1.0, cross_entropy: float = 1.0,
        loss: str = "cross_entropy", loss_options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        _check_weights(rotation=rotation, turned=turned, exemplar=exemplar, vat=vat, entropy=entropy)
        if half_life < 0:
            raise ValueError(f"half_life is {half_life:g}; accepted: 0 or more steps")
        if vat_radius <= 0:
            raise ValueError(f"vat_radius is {vat_radius:g}; accepted: a number above 0")
        self.terms = SupervisedTerms(
            networks, dice=dice, cross_entropy=cross_entropy, loss=loss, loss_options=loss_options,
        )  # fmt: skip
        network = networks.encoder_decoder()
        self.headed = networks.headed(network, networks.head(network.width, self.classes))
        self.copies = plan_copies(
            rotations, network, networks.patch, networks.spacing_mm, networks.native_mm, copies
        )  # fmt: skip
        features = network.channels[-1]
        self.rotation_task = RotationTask(features, self.copies.rotations)
        self.exemplar_task = ExemplarTask(features, networks.spatial_dims, views, embedding) if exemplar else None
        self.teacher = AveragedTeacher(self.headed, decay=half_life_decay(half_life)) if half_life else None
        self.rotation, self.turned, self.exemplar = rotation, turned, exemplar
        self.vat, self.vat_radius, self.vat_direction = vat, vat_radius, vat_direction
        self.entropy = entropy
        self._watched: dict[str, Tensor] = {}

    @classmethod
    def needs_upright(cls, options: Mapping[str, Any]) -> bool:
        """As long as the rotation counts."""
        return bool(options.get("rotation", ROTATION))

    def segmenter(self) -> nn.Module:
        """The network without the heads of the tasks; the averaged one, if there is one."""
        return self.headed if self.teacher is None else self.teacher.network

    def maps(self) -> nn.Module:
        """Probabilities of the classes, of the mean of the logits over all rotations of the image."""
        return MeanOverRotations(self.segmenter(), self.copies.rotations)

    def after_step(self, clock: Clock) -> None:
        """Move the averaged network."""
        if self.teacher is not None:
            self.teacher.follow(self.headed, clock.iteration)

    def watched(self) -> dict[str, Tensor]:
        """Of the last batch how the copies were answered, see `answers`, and distances of the exemplar task."""
        distances = {} if self.exemplar_task is None else self.exemplar_task.watched
        return self._watched | distances

    def pictures(self) -> dict[str, Tensor]:
        """Labelled copies of the last batch, and turned back by the rotations found; views of the exemplar task."""
        views = {} if self.exemplar_task is None else self.exemplar_task.pictures()
        return self.rotation_task.pictures() | views

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Terms of L_s, `turned`, `rotation`, and those that are switched on."""
        network, labeled = self.headed.network, batch["labeled"]
        image, label, covered = labeled["image"], labeled["label"], labeled.get("covered")
        parts = [self.copies(image, label)]
        if "unlabeled" in batch:
            parts.append(self.copies(batch["unlabeled"]["image"]))
        features = network.encode(torch.cat([part.image for part in parts]))
        upright = parts[0].number == 0
        is_cut = self.copies.cuts(image.shape[2:])
        shape = parts[0].image.shape[2:]
        whole = self.headed(image).float() if is_cut else self._decode(features, upright, shape)
        terms = self.terms(whole, label, covered, clock)
        turned = self._decode(features, ~upright, shape)
        terms["turned"] = self.turned * self._learn_turned(turned, parts[0], covered, clock)
        terms["rotation"] = self.rotation * self._rotation_loss(pooled(features), parts)
        if self.exemplar_task is not None:
            images = [each["image"] for each in batch.values()]
            terms["exemplar"] = self.exemplar * exemplar_loss(self.exemplar_task, network, images)
        if self.vat or self.entropy:
            terms |= self._learn_unlabelled(batch)
        return terms

    def _decode(self, features: Sequence[Tensor], chosen: Tensor, shape: Sequence[int]) -> Tensor:
        """Logits of the chosen ones of the labelled copies, which are the first of all and have this shape."""
        rows = chosen.nonzero()[:, 0]
        return self.headed.segment([each[rows] for each in features], shape).float()

    def _learn_turned(self, logits: Tensor, part: Turned, covered: Tensor | None, clock: Clock) -> Tensor:
        """L_s of the labelled copies that are not upright."""
        assert part.label is not None
        turned = part.number != 0
        if covered is not None:
            covered = covered.repeat_interleave(self.copies.count, 0)[turned]
        return sum_of(self.terms(logits, part.label[turned], covered, clock))

    def _rotation_loss(self, features: Tensor, parts: Sequence[Turned]) -> Tensor:
        """L_rot of pooled features of all copies."""
        logits = self.rotation_task(features)
        self.rotation_task.show(parts[0].image, logits)
        numbers = [part.number for part in parts]
        counted = [shows_something(part.image) for part in parts]
        self._watched = answers(logits, torch.cat(numbers), torch.cat(counted))
        of_parts = logits.split([len(number) for number in numbers])
        losses = [self.rotation_task.loss(*part) for part in zip(of_parts, numbers, counted, strict=True)]
        return torch.stack(losses).mean()

    def _learn_unlabelled(self, batch: Batch) -> dict[str, Tensor]:
        """L_vat and L_ent of the unlabelled images; without any, 0."""
        wanted = {"vat": self.vat, "entropy": self.entropy}
        if "unlabeled" not in batch:
            nothing = torch.zeros((), device=batch["labeled"]["image"].device)
            return {name: nothing for name, weight in wanted.items() if weight}
        image, inside = batch["unlabeled"]["image"], batch["unlabeled"].get("inside")
        clean = self.headed(image).float()
        terms = {}
        if self.vat:
            terms["vat"] = self.vat * adversarial_loss(
                self.headed, image, clean, radius=self.vat_radius, direction=self.vat_direction, inside=inside
            )
        if self.entropy:
            terms["entropy"] = self.entropy * mean_entropy(clean, inside)
        return terms


class MeanOverRotations(nn.Module):
    """Probabilities of the mean of a segmenter's logits over an image's rotations, each turned back.

    Args:
        network: images to logits `(B, classes, *spatial)`.
        rotations: of the image; only those that leave its sides as long as they are, where they differ.
    """

    def __init__(self, network: nn.Module, rotations: RotationSet) -> None:
        super().__init__()
        self.network, self.rotations = network, rotations

    def forward(self, image: Tensor) -> Tensor:
        """Image `(B, C, *spatial)` to probabilities `(B, classes, *spatial)`."""
        found = []
        for rotation in self.rotations.rotations:
            turned = rotation(image)
            if turned.shape == image.shape:
                found.append(rotation.inverse()(self.network(turned).float()))
        return torch.stack(found).mean(0).softmax(1)


class MeanRotations(PseudoLabels):
    """The label of the mean over rotations (MOAM's second step); every voxel is labelled, however uncertain.

    Args:
        classes: number of classes with background.
    """

    needs = "maps"
    one_view = True

    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> Tensor | None:
        """`(X, Y, Z)` uint8."""
        assert case.maps is not None
        return case.maps[0].argmax(0).to(torch.uint8)


class TrueLabels(PseudoLabels):
    """No label: what rules have labelled is without a label again (MOAM's third step).

    Args:
        classes: number of classes with background.
    """

    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> Tensor | None:
        """None."""
        return None


def half_life_decay(steps: float) -> float:
    """The decay by which a weight counts half after so many steps."""
    return 0.5 ** (1 / steps)


def sum_of(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of all terms."""
    return torch.stack(list(terms.values())).sum()


def _check_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"{name} is {weight:g}; accepted: 0 or more")
