"""Copy-paste of classes: voxels of some classes of one labelled image put into another, with their labels.

H. Hu, F. Wei, H. Hu, Q. Ye, J. Cui, L. Wang: Semi-Supervised Semantic Segmentation via Adaptive Equalization Learning,
NeurIPS 2021; arXiv 2110.05474.

Everything is drawn from torch's generator of the CPU, whose state is in the checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from medseg.ops.semi_supervised import mixing
from medseg.ops.semi_supervised.donors import DonorBank

SMALLEST_PASTE = 8
"""Voxels of a pasted class, below which nothing is pasted."""


class CopyPaste:
    """Pastes voxels of classes from a donor into the images of a batch.

    Args:
        donors: the last patches that hold each class.
        probability: of each image, to have something pasted in.
        scale: smallest and largest factor of a donor's size, which is also mirrored and moved at random; None: voxels
            stay where the donor has them.
    """

    def __init__(self, donors: DonorBank, *, probability: float, scale: tuple[float, float] | None) -> None:
        self.donors, self.probability, self.scale = donors, probability, scale

    def __call__(
        self, images: Tensor, labels: Tensor, drawn: Collection[int], covered: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The images and labels with something pasted in.

        Args:
            images: `(B, Cin, *spatial)`.
            labels: `(B, 1, *spatial)`.
            drawn: the classes to paste.
            covered: `(B, classes)` bool, see `medseg.ops.losses.segmentation`: a class that the label of an image does
                not cover is not pasted into it.
        """
        others = mixing.other_images(len(images))
        new_images, new_labels = images.clone(), labels.clone()
        for number, other in enumerate(others):
            if float(torch.rand(())) >= self.probability:
                continue
            wanted = sorted(value for value in drawn if covered is None or bool(covered[number, value]))
            donor, donor_label = self._choose_donor(wanted, images[other], labels[other])
            if self.scale is not None:
                donor, donor_label = mixing.move_freely(donor, donor_label, self.scale)
            mask = voxels_of(donor_label, wanted)
            new_images[number] = torch.where(mask, donor.to(images.dtype), images[number])
            new_labels[number] = torch.where(mask, donor_label, labels[number])
        return new_images, new_labels

    def _choose_donor(self, drawn: Sequence[int], image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """A patch that holds one of the drawn classes, where one is known, else the one that is given."""
        held = [value for value in drawn if self.donors.holds(value)]
        if not held:
            return image, label
        value = held[int(torch.randint(len(held), ()))]
        slot = self.donors.draw(value)
        return self.donors.images[value, slot], self.donors.labels[value, slot]


def voxels_of(label: Tensor, wanted: Sequence[int]) -> Tensor:
    """Where a label has one of the wanted classes, of those that it has enough of."""
    mask = torch.zeros_like(label, dtype=torch.bool)
    for value in wanted:
        of_class = label == value
        if int(of_class.sum()) >= SMALLEST_PASTE:
            mask |= of_class
    return mask
