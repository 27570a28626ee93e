"""DTC: dual-task consistency between a segmentation and a signed distance map.

X. Luo, J. Chen, T. Song, G. Wang: Semi-supervised Medical Image Segmentation through Dual-task Consistency,
AAAI 2021, 35(10), 8801-8809; arXiv 2009.04448.

    L = L_seg + beta L_lsf + lambda(t) L_dtc
    L_seg = 1 - soft Dice(p, y)                        labelled
    L_lsf = mean (z_c - phi_c)^2                       labelled, foreground classes c
    L_dtc = mean (sigmoid(-k z_c) - p_c)^2             all images, foreground classes c
    lambda(t) = consistency exp(-5 (1 - e/40)^2),  e = floor(40 t / t_max)

p: softmax of the C channels of the segmentation head; z: tanh of the C - 1 of the distance head, negative inside; phi:
the signed distance map of each class, made of the label patch in the loader's workers (`medseg.ops.distance`). The
heads are 1x1x1 convolutions of their own on the decoder's features, as in the authors' V-Net. The sign in sigmoid and
beta = 0.3 are those of the authors' code; the paper prints the opposite sign and 1.

The two heads read the same features of one pass, so that they hardly differ, and an island that both draw costs
nothing. Three options, none of them the paper's, let them differ:

    changed_copy  L_dtc = mean (sigmoid(-k B z_c(x')) - p_c(x))^2,  x' = x + noise N(0, 1)  or  x mirrored or turned
    copy_output   L_dtc = mean (sigmoid(-k z_c(x)) - B p_c(x'))^2   with "mask"
    head_blocks   each head has convolutions of its own before its last one

x' is the input of a second pass, and B turns its answer back. All other terms see x alone, and so do the running
statistics of batch norm: x' is normalised by its own batch. As in the paper both sides of L_dtc have their gradient,
of which nearly all reaches p, since sigmoid(-k z) is flat but for |z| < 0.005: p of x follows the distances of x' or,
with "mask", p of x' those of x. Mirrors and turns are drawn for each image and noise for each voxel, from torch's
generator of the CPU, whose state is in the checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from medseg.method import LABELED, Batch, Clock, Method, Networks, PatchTargets, Stream, have_sides
from medseg.ops.batch_statistics import frozen_statistics
from medseg.ops.distance import DistanceTargets
from medseg.ops.losses import segmentation as losses
from medseg.ops.pretext.rotations import AUTO, Rotation, choose_rotations
from medseg.ops.ranges import check_not_negative
from medseg.ops.schedules import sigmoid_rampup

UNEVEN = 2.0
"""From this ratio of the largest to the smallest side of a voxel on, a distance in voxels says little."""

NOISE = 0.1
"""Default standard deviation of the noise of a changed copy."""

ChangedCopy = Literal["none", "noise", "mirrored", "turned"]
"""What a second pass sees: there is none, or the images with noise, mirrored along an axis, or turned."""


class DTC(Method):
    """Dual-task consistency.

    Args:
        networks: makes the network in halves and the two heads.
        beta: weight of the distance regression; the paper's text has 1.
        consistency: final weight of the consistency term.
        steepness: k of the task transform layer `sigmoid(-k z)`.
        rampup_steps: steps in which lambda rises over the run; 0 for a continuous ramp.
        cross_entropy: weight of a cross-entropy term, which the authors compute but do not train on.
        exclusivity: weight of `mean relu(sum_c sigmoid(-k z_c) - 1)^2`, for more than one foreground class.
        boundary: "half", distances to the voxel's face, or "zero", the authors' map with a boundary of zeros.
        spacing_mm: voxel size to measure distances with, along each axis of the network; None, as the authors do,
            counts voxels.
        clip: distance at which the map saturates, instead of the largest of the patch.
        changed_copy: "none", as in the paper; else one of the two answers that must agree is that of a changed copy of
            each image: with "noise", "mirrored" along one axis of the network, or "turned" by quarter or half turns,
            which exchange only axes of equal voxels and of equal sides of the patch.
        copy_output: which answer is that of the copy, its "distances" or its "mask".
        noise: standard deviation of the noise, in units of the network's input; with 0 only dropout differs.
        head_blocks: blocks of a 3x3x3 convolution, batch norm and PReLU that each head has before its last convolution.
    """

    streams = (LABELED, Stream("unlabeled", optional=True))

    def __init__(
        self, networks: Networks, *,
        beta: float = 0.3, consistency: float = 1.0, steepness: float = 1500.0, rampup_steps: int = 40,
        cross_entropy: float = 0.0, exclusivity: float = 0.0, boundary: Literal["half", "zero"] = "half",
        spacing_mm: tuple[float, ...] | None = None, clip: float | None = None,
        changed_copy: ChangedCopy = "none", copy_output: Literal["distances", "mask"] = "distances",
        noise: float = NOISE, head_blocks: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        check_not_negative(noise=noise, head_blocks=head_blocks)
        _check_is_used(changed_copy, copy_output, noise)
        check_not_negative(beta=beta, consistency=consistency, rampup_steps=rampup_steps)
        check_not_negative(steepness=steepness, cross_entropy=cross_entropy, exclusivity=exclusivity)
        if spacing_mm is not None and len(spacing_mm) != networks.spatial_dims:
            raise ValueError(
                f"spacing_mm is {list(spacing_mm)}: the network has {networks.spatial_dims} axes, each of which has one"
            )
        features = networks.encoder_decoder()
        self.network = networks.headed(features, networks.head(features.width, self.classes, head_blocks))
        self.distance_head = networks.head(features.width, self.classes - 1, head_blocks)
        self.has_background = networks.has_background
        self.beta = beta
        self.consistency = consistency
        self.steepness = steepness
        self.rampup_steps = rampup_steps
        self.cross_entropy = cross_entropy
        self.exclusivity = exclusivity
        self.changed_copy, self.copy_output, self.noise = changed_copy, copy_output, noise
        self.views = views_of(changed_copy, networks)
        self._compared: tuple[Tensor, Tensor, Tensor] | None = None
        self._unmeasured_mm = networks.spacing_mm if spacing_mm is None else ()
        self._targets = DistanceTargets(self.classes, boundary=boundary, spacing_mm=spacing_mm, clip=clip)

    def cautions(self, cases: Mapping[str, int]) -> list[str]:
        """Where a voxel is much longer along one axis, and distances count voxels."""
        sides = self._unmeasured_mm
        if not sides or max(sides) <= UNEVEN * min(sides):
            return []
        size = " x ".join(f"{side:g}" for side in sides)
        given = ",".join(f"{side:g}" for side in sides)
        return [f"distances count voxels, which have {size} mm; method.options.spacing_mm=[{given}] counts millimetres"]

    def targets(self) -> PatchTargets:
        """Distance maps of a label patch."""
        return self._targets

    def segmenter(self) -> nn.Module:
        """The segmentation head alone; the distances are not used once training is over."""
        return self.network

    def watched(self) -> dict[str, Tensor]:
        """`disagreement`: in which share of the voxels of the last batch L_dtc compares unlike answers.

        A voxel counts if the class of the mask and the signs of the distances, turned back, name different structures.
        """
        if self._compared is None:
            return {}
        return {"disagreement": disagreement(*self._compared)}

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Terms `dice`, `cross_entropy`, `distance`, `consistency` and `exclusivity`."""
        self._compared = None  # of the last step, which need not lie in memory during this one
        labeled = batch["labeled"]
        label, covered = labeled["label"], labeled.get("covered")
        images, masks = [labeled["image"]], [losses.labeled_mask(label)]
        if "unlabeled" in batch:
            unlabeled = batch["unlabeled"]
            images.append(unlabeled["image"])
            masks.append(unlabeled.get("inside", masks[0].new_ones(len(images[1]), *masks[0].shape[1:])))
        image = torch.cat(images)
        features = self.network.network(image)
        # float32, for the transform layer lives in |z| < 0.005; contiguous, for the losses go channel by channel
        logits = self.network.head(features).float().contiguous()
        z = self.distance_head(features).float().contiguous().tanh()
        size = len(label)  # labelled patches come first

        mask = torch.cat(masks)
        distance_mask = masks[0] & (labeled["distance_valid"] > 0)
        if covered is not None:  # how far it is to a structure that nobody outlined is not known
            distance_mask = distance_mask & covered[:, 1:].view(size, -1, *[1] * (label.ndim - 2))
        distance_error = (z[:size] - labeled["distance"]) ** 2

        inside = torch.sigmoid(-self.steepness * z)
        compared, probability = self._opposites(image, inside, logits)
        gap = (compared - probability[:, 1:]) ** 2
        self._compared = compared.detach(), probability.detach(), mask
        weight = self.consistency * sigmoid_rampup(clock.fraction, self.rampup_steps or None)
        return {
            "dice": losses.soft_dice(logits[:size], label, covered, has_background=self.has_background),
            "cross_entropy": self._cross_entropy(logits[:size], label, covered),
            "distance": self.beta * losses.masked_mean(distance_error, distance_mask),
            "consistency": weight * losses.masked_mean(gap, mask),
            "exclusivity": self._exclusivity(inside, mask),
        }

    def _opposites(self, image: Tensor, inside: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The two answers that must agree, one of them of the changed copy if there is one.

        Args:
            image: `(B, C, *spatial)`.
            inside: what the distances of the first pass say, `(B, classes - 1, *spatial)`.
            logits: of the first pass, `(B, classes, *spatial)`.

        Returns:
            What distances say, as `inside`, and probabilities of the mask, `(B, classes, *spatial)`.
        """
        if self.changed_copy == "none":
            return inside, logits.softmax(1)
        if self.copy_output == "mask":
            return inside, self._ask_again(image, self.network.head).softmax(1)
        z = self._ask_again(image, self.distance_head).tanh()
        return torch.sigmoid(-self.steepness * z), logits.softmax(1)

    def _ask_again(self, image: Tensor, head: nn.Module) -> Tensor:
        """What a head says of a changed copy of each image, turned back; running statistics stay as they are."""
        numbers = torch.randint(len(self.views), (len(image),)).tolist()
        views = [self.views[number] for number in numbers]
        changed = seen_by(views, image)
        if self.changed_copy == "noise":
            changed = changed + self.noise * torch.randn(image.shape).to(image.device)
        with frozen_statistics(self):
            said = head(self.network.network(changed)).float()
        return seen_by([view.inverse() for view in views], said)

    # The paper has neither: with weight 0 they are not worth their time, and no parameter is reached by them alone.

    def _cross_entropy(self, logits: Tensor, label: Tensor, covered: Tensor | None) -> Tensor:
        if not self.cross_entropy:
            return logits.new_zeros(())
        return self.cross_entropy * losses.cross_entropy(logits, label, covered)

    def _exclusivity(self, inside: Tensor, mask: Tensor) -> Tensor:
        if not self.exclusivity:
            return inside.new_zeros(())
        excess = (inside.sum(1, keepdim=True) - 1).relu()
        return self.exclusivity * losses.masked_mean(excess**2, mask)


def views_of(changed_copy: ChangedCopy, networks: Networks) -> tuple[Rotation, ...]:
    """The ways in which a changed copy may lie: as its image, or in one of several ways that are not the image's.

    Args:
        changed_copy: "mirrored" has a mirror for each axis, "turned" quarter turns in planes of equal voxels and equal
            sides of the patch, or half turns where there is no such plane.
        networks: know voxels, patch and names of structures.

    Raises:
        ValueError: mirrors, and structures that are labelled as left and right.
    """
    axes = tuple(range(networks.spatial_dims))
    if changed_copy == "mirrored":
        if have_sides(networks.labels):
            raise ValueError(
                "changed_copy is mirrored, which makes left structures look like right ones, and both are labels; "
                "accepted are none, noise and turned"
            )
        return tuple(Rotation(axes, (axis,)) for axis in axes if networks.patch[axis] > 1)
    if changed_copy == "turned":
        uneven = [pair for pair in combinations(axes, 2) if networks.patch[pair[0]] != networks.patch[pair[1]]]
        return choose_rotations(AUTO, networks.spacing_mm, networks.native_mm, never=uneven).rotations[1:]
    return (Rotation(axes),)


def seen_by(views: Sequence[Rotation], images: Tensor) -> Tensor:
    """Each image `(B, C, *spatial)` as its own view has it."""
    return torch.cat([view(images[number : number + 1]) for number, view in enumerate(views)])


@torch.no_grad()
def disagreement(inside: Tensor, probability: Tensor, mask: Tensor) -> Tensor:
    """Share of voxels in which a mask and distances name different structures.

    Args:
        inside: `(B, classes - 1, *spatial)`, above 0.5 where a distance is negative.
        probability: `(B, classes, *spatial)` of the mask, of which the largest counts.
        mask: `(B, 1, *spatial)` bool, voxels that count.
    """
    classes = torch.arange(1, probability.shape[1], device=probability.device)
    drawn = probability.argmax(1, keepdim=True) == classes.view(1, -1, *[1] * (probability.ndim - 2))
    unlike = (drawn != (inside > 0.5)).any(1, keepdim=True)
    return losses.masked_mean(unlike.float(), mask)


def _check_is_used(changed_copy: ChangedCopy, copy_output: str, noise: float) -> None:
    """Refuse settings of a changed copy that would change nothing.

    Raises:
        ValueError: one of them, and where it counts.
    """
    if changed_copy == "none" and copy_output != "distances":
        raise ValueError(f"copy_output is {copy_output}, but changed_copy is none: accepted is distances")
    if changed_copy != "noise" and noise != NOISE:
        raise ValueError(
            f"noise is {noise:g}, but changed_copy is {changed_copy}: accepted with a noise is changed_copy noise"
        )
