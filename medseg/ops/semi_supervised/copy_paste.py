"""Copy-paste of classes: voxels of some classes of one labelled image put into another, with their labels.

H. Hu, F. Wei, H. Hu, Q. Ye, J. Cui, L. Wang: Semi-Supervised Semantic Segmentation via Adaptive Equalization Learning,
NeurIPS 2021; arXiv 2110.05474.

Everything is drawn from torch's generator of the CPU, whose state is in the checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from medseg.ops.processes import gather_from_processes
from medseg.ops.semi_supervised import mixing
from medseg.ops.semi_supervised.body_alignment import align_to_body
from medseg.ops.semi_supervised.confidence_bank import class_voxels
from medseg.ops.semi_supervised.donors import DonorBank

SMALLEST_PASTE = 8
"""Voxels of a pasted class, below which nothing is pasted."""


class CopyPaste:
    """Pastes voxels of classes from a donor into the images of a batch.

    Args:
        donors: the last patches that hold each class.
        probability: of each image, to have something pasted in.
        scale: smallest and largest factor of a donor's size, which is also mirrored and moved at random; None: voxels
            stay where the donor has them, in the body where places in it are known.

    Attributes:
        vanished: images of the last batch that got nothing, though one of the drawn classes was to be pasted.
    """

    def __init__(self, donors: DonorBank, *, probability: float, scale: tuple[float, float] | None) -> None:
        self.donors, self.probability, self.scale = donors, probability, scale
        self.vanished = 0

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        drawn: Collection[int],
        covered: Tensor | None,
        places: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The images and labels with something pasted in.

        Args:
            images: `(B, Cin, *spatial)`.
            labels: `(B, 1, *spatial)`.
            drawn: the classes to paste.
            covered: `(B, classes)` bool, see `medseg.ops.losses.segmentation`: a class that the label of an image does
                not cover is not pasted into it.
            places: where in the body each image lies, see the key "place" of `medseg.stream.Stream`; None: not known.
        """
        self.vanished = 0
        others = mixing.other_images(len(images))
        new_images, new_labels = images.clone(), labels.clone()
        for number, other in enumerate(others):
            if float(torch.rand(())) >= self.probability:
                continue
            wanted = sorted(value for value in drawn if covered is None or bool(covered[number, value]))
            given = None if places is None else places[other]
            donor, donor_label, place = self._choose_donor(wanted, images[other], labels[other], given)
            if self.scale is not None:
                donor, donor_label = mixing.move_freely(donor, donor_label, self.scale)
            elif places is not None and place is not None:
                donor, donor_label = align_to_body(donor, donor_label, place, places[number])
            mask = voxels_of(donor_label, wanted)
            self.vanished += bool(wanted) and not bool(mask.any())
            new_images[number] = torch.where(mask, donor.to(images.dtype), images[number])
            new_labels[number] = torch.where(mask, donor_label, labels[number])
        return new_images, new_labels

    def _choose_donor(
        self, drawn: Sequence[int], image: Tensor, label: Tensor, place: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A patch that holds one of the drawn classes, where one is known, else the given one; and its place."""
        held = [value for value in drawn if self.donors.holds(value)]
        if not held:
            return image, label, place
        value = held[int(torch.randint(len(held), ()))]
        slot = self.donors.draw(value)
        return self.donors.images[value, slot], self.donors.labels[value, slot], self.donors.place(value, slot)

    def keep(
        self,
        images: Tensor,
        labels: Tensor,
        pastable: Sequence[bool],
        places: Tensor | None = None,
        numbers: Tensor | None = None,
    ) -> None:
        """Keep the images, of all processes, that hold enough of a class.

        Args:
            images: `(B, Cin, *spatial)`.
            labels: `(B, 1, *spatial)`.
            pastable: of each class whether it may be pasted.
            places: as above.
            numbers: of the samples, `(B,)`; None: not known.
        """
        images, labels = gather_from_processes(images), gather_from_processes(labels)
        found = [None] * len(images) if places is None else list(gather_from_processes(places))
        voxels = class_voxels(labels, len(pastable)).cpu()
        of_samples = [None] * len(images) if numbers is None else gather_from_processes(numbers).tolist()
        for image, label, place, count, number in zip(images, labels, found, voxels, of_samples, strict=True):
            for value, may_be in enumerate(pastable):
                if may_be and float(count[value]) >= SMALLEST_PASTE:
                    self.donors.store(value, image, label, place, number)


def voxels_of(label: Tensor, wanted: Sequence[int]) -> Tensor:
    """Where a label has one of the wanted classes, of those that it has enough of."""
    mask = torch.zeros_like(label, dtype=torch.bool)
    for value in wanted:
        of_class = label == value
        if int(of_class.sum()) >= SMALLEST_PASTE:
            mask |= of_class
    return mask
