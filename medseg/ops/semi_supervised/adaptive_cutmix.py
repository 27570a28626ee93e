"""Adaptive CutMix: boxes of images that hold a badly learnt class are put into other unlabelled images.

H. Hu, F. Wei, H. Hu, Q. Ye, J. Cui, L. Wang: Semi-Supervised Semantic Segmentation via Adaptive Equalization Learning,
NeurIPS 2021; arXiv 2110.05474.

Everything is drawn from torch's generator of the CPU, whose state is in the checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.ops.losses.segmentation import IGNORE
from medseg.ops.processes import gather_from_processes
from medseg.ops.semi_supervised import mixing
from medseg.ops.semi_supervised.confidence_bank import class_voxels, draw_class
from medseg.ops.semi_supervised.donors import DonorBank, Patch

Teacher = Callable[[Tensor], Tensor]
"""Images `(B, Cin, *spatial)` to logits `(B, classes, *spatial)`."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """Images and what a teacher says of them.

    Args:
        images: `(B, Cin, *spatial)`.
        logits: `(B, classes, *spatial)`.
        inside: `(B, 1, *spatial)` bool, what shows the images; None: everything.
        numbers: of the samples, `(B,)`; None: not known, as of mixed ones.
    """

    images: Tensor
    logits: Tensor
    inside: Tensor | None = None
    numbers: Tensor | None = None

    def classes(self) -> Tensor:
        """The class of each voxel, `(B, 1, *spatial)`; 255 outside of the images."""
        found = self.logits.max(1, keepdim=True).indices  # on a CPU a third of the time of argmax
        return found if self.inside is None else torch.where(self.inside, found, IGNORE)

    def select(self, numbers: Sequence[int]) -> Predicted:
        """Copies of some of the images, in this order."""
        rows = list(numbers)
        inside = None if self.inside is None else self.inside[rows]
        return Predicted(self.images[rows], self.logits[rows], inside)

    def with_boxes_of(self, donors: Predicted, boxes: Sequence[mixing.Box]) -> Predicted:
        """The images with a box of a donor in each, logits and insides mixed in the same way."""
        masks = mixing.box_masks(boxes, self.images.shape[2:], self.images.device)
        inside = self.inside
        if inside is not None and donors.inside is not None:
            inside = mixing.paste(inside, donors.inside, masks)
        images = mixing.paste(self.images, donors.images, masks)
        return Predicted(images, mixing.paste(self.logits, donors.logits, masks), inside)


class AdaptiveCutMix:
    """Chooses donors by their classes, and of each a box about a connected component of the class.

    Args:
        bank: of earlier images in which the teacher saw enough of a class.
        smallest: class and voxels of an image -> voxels of the class that are worth cutting out, more than so many.
    """

    def __init__(self, bank: DonorBank, smallest: Callable[[int, int], float]) -> None:
        self.bank, self.smallest = bank, smallest

    def __call__(self, base: Predicted, chance: Tensor, others: Sequence[int], teacher: Teacher) -> Predicted:
        """The images with a box of a donor in each.

        Args:
            base: the images.
            chance: `(classes,)` on the CPU, by which the class of each donor is drawn.
            others: for each image the one that it gets where no donor is known.
            teacher: asked about donors of the bank.
        """
        wanted = [draw_class(chance) for _ in others]
        donors, slots = self._fetch(base.select(others), wanted, teacher)
        boxes = self._choose_boxes(donors.classes()[:, 0], wanted, slots)
        self.keep(base.images, base.classes(), base.numbers)
        return base.with_boxes_of(donors, boxes)

    def _fetch(
        self, donors: Predicted, wanted: Sequence[int | None], teacher: Teacher
    ) -> tuple[Predicted, dict[int, int]]:
        """Put images of the bank in the place of donors whose class it holds.

        Returns:
            The donors; number of a donor -> its slot in the bank.
        """
        slots: dict[int, int] = {}
        for number, value in enumerate(wanted):
            if value is None or not self.bank.holds(value):
                continue
            slots[number] = self.bank.draw(value)
            donors.images[number] = self.bank.images[value, slots[number]].to(donors.images.dtype)
            if donors.inside is not None:
                donors.inside[number] = self.bank.labels[value, slots[number]] != IGNORE
        if slots:
            fetched = list(slots)
            donors.logits[fetched] = teacher(donors.images[fetched]).to(donors.logits.dtype)
        return donors, slots

    def _choose_boxes(
        self, found: Tensor, wanted: Sequence[int | None], slots: Mapping[int, int]
    ) -> list[mixing.Box]:  # fmt: skip
        """A box of each donor; patches of the bank in which the class is no longer seen are forgotten.

        Args:
            found: classes that the teacher sees, `(B, *spatial)`.
            wanted: the class of each donor; None: any.
            slots: number of a donor -> its slot in the bank.
        """
        boxes: list[mixing.Box] = []
        forgotten: list[tuple[int, int]] = []
        for number, value in enumerate(wanted):
            box = None
            if value is not None:
                box = mixing.component_box(found[number] == value, self.smallest(value, found[number].numel()))
                if box is None and number in slots:
                    forgotten.append((value, slots[number]))
            boxes.append(mixing.random_box(found.shape[1:]) if box is None else box)
        self.bank.forget(forgotten)
        return boxes

    def keep(self, images: Tensor, predicted: Tensor, numbers: Tensor | None = None) -> None:
        """Keep the images, of all processes, in which the teacher sees enough of a class.

        Args:
            images: `(B, Cin, *spatial)`.
            predicted: classes, `(B, 1, *spatial)`, 255 outside of the images.
            numbers: of the samples, `(B,)`; None: not known.
        """
        images, predicted = gather_from_processes(images), gather_from_processes(predicted)
        voxels = class_voxels(predicted, self.bank.classes).cpu()
        of_samples = [None] * len(images) if numbers is None else gather_from_processes(numbers).tolist()
        for image, label, count, number in zip(images, predicted, voxels, of_samples, strict=True):
            for value in range(self.bank.classes):
                if float(count[value]) > self.smallest(value, label.numel()):
                    self.bank.store(value, image, _outside_of(label != IGNORE), number=number)


def unlabeled_donor(sample: Mapping[str, Tensor]) -> Patch:
    """The patch that `AdaptiveCutMix.keep` stores of a sample of unlabelled images.

    Args:
        sample: what a batch of one has of it.
    """
    image, inside = sample["image"][0], sample.get("inside")
    shown = torch.ones_like(image[:1], dtype=torch.bool) if inside is None else inside[0]
    return image, _outside_of(shown), None


def _outside_of(shown: Tensor) -> Tensor:
    """A label that says nothing but where the image is not, 255."""
    return torch.where(shown, 0, IGNORE)


def random_cutmix(base: Predicted, others: Sequence[int]) -> Predicted:
    """The images with a box of another one in each, half of the image large, at a random place.

    Args:
        base: the images.
        others: for each image its donor.
    """
    boxes = [mixing.random_box(base.images.shape[2:]) for _ in others]
    return base.with_boxes_of(base.select(others), boxes)
