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
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from medseg.method import LABELED, Batch, Clock, Method, Networks, PatchTargets, Stream
from medseg.ops.distance import DistanceTargets
from medseg.ops.losses import segmentation as losses
from medseg.ops.ranges import check_not_negative
from medseg.ops.schedules import sigmoid_rampup

UNEVEN = 2.0
"""From this ratio of the largest to the smallest side of a voxel on, a distance in voxels says little."""


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
    """

    streams = (LABELED, Stream("unlabeled", optional=True))

    def __init__(
        self, networks: Networks, *,
        beta: float = 0.3, consistency: float = 1.0, steepness: float = 1500.0, rampup_steps: int = 40,
        cross_entropy: float = 0.0, exclusivity: float = 0.0, boundary: Literal["half", "zero"] = "half",
        spacing_mm: tuple[float, ...] | None = None, clip: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        check_not_negative(beta=beta, consistency=consistency, rampup_steps=rampup_steps)
        check_not_negative(steepness=steepness, cross_entropy=cross_entropy, exclusivity=exclusivity)
        if spacing_mm is not None and len(spacing_mm) != networks.spatial_dims:
            raise ValueError(
                f"spacing_mm is {list(spacing_mm)}: the network has {networks.spatial_dims} axes, each of which has one"
            )
        features = networks.encoder_decoder()
        self.network = networks.headed(features, networks.head(features.width, self.classes))
        self.distance_head = networks.head(features.width, self.classes - 1)
        self.has_background = networks.has_background
        self.beta = beta
        self.consistency = consistency
        self.steepness = steepness
        self.rampup_steps = rampup_steps
        self.cross_entropy = cross_entropy
        self.exclusivity = exclusivity
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

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Terms `dice`, `cross_entropy`, `distance`, `consistency` and `exclusivity`."""
        labeled = batch["labeled"]
        label, covered = labeled["label"], labeled.get("covered")
        images, masks = [labeled["image"]], [losses.labeled_mask(label)]
        if "unlabeled" in batch:
            unlabeled = batch["unlabeled"]
            images.append(unlabeled["image"])
            masks.append(unlabeled.get("inside", masks[0].new_ones(len(images[1]), *masks[0].shape[1:])))
        features = self.network.network(torch.cat(images))
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
        gap = (inside - logits.softmax(1)[:, 1:]) ** 2
        weight = self.consistency * sigmoid_rampup(clock.fraction, self.rampup_steps or None)
        return {
            "dice": losses.soft_dice(logits[:size], label, covered, has_background=self.has_background),
            "cross_entropy": self._cross_entropy(logits[:size], label, covered),
            "distance": self.beta * losses.masked_mean(distance_error, distance_mask),
            "consistency": weight * losses.masked_mean(gap, mask),
            "exclusivity": self._exclusivity(inside, mask),
        }

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
