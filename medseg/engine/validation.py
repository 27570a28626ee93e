"""Dice on whole validation volumes while training, or the classes of whole images, as a MONAI evaluator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medseg.method import IGNORE
from medseg.metrics.classification import scores_of_table
from medseg.portable.regions import Members


class ClassDice(Metric):
    """Mean Dice per class, but the background's, over the cases that have or predict it; summed over ranks.

    Updated with predictions and labels `(1, X, Y, Z)` of class indices, 255 in the label = ignore, and with which
    classes each label covers, `(classes,)` bool. A case in which a class is neither annotated nor predicted, or whose
    label does not cover it, says nothing about it and is left out.

    Args:
        classes: number of classes with background.
        device: where the sums are kept.
        has_background: whether the first class is the background, which is left out.
        members: of each class but the background the class indices in label maps that belong to it, where classes
            overlap; none: its own.
    """

    _state_dict_all_req_keys = ("_sum", "_count")

    def __init__(
        self,
        classes: int,
        device: torch.device,
        has_background: bool = True,
        members: Members = (),
        **kwargs: Any,
    ) -> None:
        self.classes, self.first = classes, int(has_background)
        self.members = members or [(index,) for index in range(self.first, classes)]
        super().__init__(device=device, **kwargs)

    @reinit__is_reduced
    def reset(self) -> None:
        """Start an evaluation."""
        self._sum = torch.zeros(self.classes - self.first, dtype=torch.float64, device=self._device)
        self._count = torch.zeros(self.classes - self.first, dtype=torch.float64, device=self._device)

    @reinit__is_reduced
    def update(self, output: tuple[Iterable[Tensor], Iterable[Tensor], Iterable[Tensor]]) -> None:
        """Add cases."""
        for prediction, label, covered in zip(*output, strict=True):
            maps = prediction.as_subclass(Tensor), label.as_subclass(Tensor)
            dice, present = case_dice(*maps, self.classes, self.members)
            present = present & covered.as_subclass(Tensor)[self.first :].to(present.device)
            self._sum += torch.where(present, dice, 0).to(self._sum)
            self._count += present.to(self._count)

    @sync_all_reduce("_sum", "_count")
    def compute(self) -> dict[str, Any]:
        """`mean` over the classes seen, and `classes`, None where a class was never seen."""
        seen = self._count > 0
        dice = self._sum / self._count.clamp(min=1)
        mean = float(dice[seen].mean()) if bool(seen.any()) else 0.0
        classes: list[float | None] = []
        for value, is_seen in zip(dice.tolist(), seen.tolist(), strict=True):
            classes.append(round(value, 5) if is_seen else None)
        return {"mean": mean, "classes": classes}


class ImageClasses(Metric):
    """Which class each image is given, one vote for each, against the true one; summed over ranks.

    Updated as `ClassDice`. The vote of an image is the class of most of its voxels.

    Args:
        classes: number of classes.
        device: where the counts are kept.
    """

    _state_dict_all_req_keys = ("_table",)

    def __init__(self, classes: int, device: torch.device, **kwargs: Any) -> None:
        self.classes = classes
        super().__init__(device=device, **kwargs)

    @reinit__is_reduced
    def reset(self) -> None:
        """Start an evaluation."""
        self._table = torch.zeros(self.classes, self.classes, dtype=torch.float64, device=self._device)

    @reinit__is_reduced
    def update(self, output: tuple[Iterable[Tensor], Iterable[Tensor], Iterable[Tensor]]) -> None:
        """Add images."""
        for prediction, label, _ in zip(*output, strict=True):
            true = label.as_subclass(Tensor)
            self._table[_most(true[true != IGNORE]), _most(prediction.as_subclass(Tensor))] += 1

    @sync_all_reduce("_table")
    def compute(self) -> dict[str, Any]:
        """`mean`: balanced accuracy; `classes`: recall of each, None where it does not occur; `accuracy`."""
        found = scores_of_table(self._table.cpu().numpy())
        classes = [None if recall is None else round(recall, 5) for recall in found.recalls]
        return {"mean": found.balanced_accuracy or 0.0, "classes": classes, "accuracy": found.accuracy or 0.0}


def _most(classes: Tensor) -> int:
    """The class that most of some voxels have, of equally many the first."""
    return int(torch.bincount(classes.flatten().long()).argmax())


def case_dice(prediction: Tensor, label: Tensor, classes: int, members: Members) -> tuple[Tensor, Tensor]:
    """Dice of some structures, and whether each occurs at all, from one joint histogram.

    Args:
        prediction: class indices.
        label: class indices, 255 = ignore.
        classes: how many there are.
        members: of each structure the class indices that belong to it.
    """
    counted = label != IGNORE
    joint = label[counted].long() * classes + prediction[counted].long()
    table = torch.bincount(joint, minlength=classes * classes).reshape(classes, classes).double()
    belongs = torch.zeros(len(members), classes, dtype=table.dtype, device=table.device)
    for number, indices in enumerate(members):
        belongs[number, list(indices)] = 1
    both = (belongs @ table @ belongs.T).diagonal()
    size = belongs @ (table.sum(0) + table.sum(1))
    return 2 * both / size.clamp(min=1), size > 0


def validate(
    network: nn.Module,
    loader: DataLoader,
    inferer: Inferer,
    *,
    classes: int,
    device: torch.device,
    has_background: bool = True,
    members: Members = (),
    of_images: bool = False,
) -> dict[str, Any]:
    """Dice per class (`ClassDice`), or recall (`ImageClasses`), over this rank's cases and those of all others.

    Args:
        network: the method's segmenter.
        loader: dictionaries with `image` `(1, C, X, Y, Z)`, `label` `(1, 1, X, Y, Z)`, `covered` `(1, classes)`;
            may be empty on a rank.
        inferer: gives class indices `(1, 1, X, Y, Z)`.
        classes: number of classes with background.
        device: where the network is.
        has_background: whether the first class is the background, which is left out.
        members: see `ClassDice`.
        of_images: whether whole images have a class.
    """
    evaluator: SupervisedEvaluator | None = None

    def of_cases(output: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        assert evaluator is not None
        batch: Any = evaluator.state.batch  # what an evaluator gives has no further keys
        return output["pred"], output["label"], batch["covered"]

    metric: Metric = ClassDice(classes, device, has_background, members, output_transform=of_cases)
    if of_images:
        metric = ImageClasses(classes, device, output_transform=of_cases)
    if not len(loader):  # fewer cases than ranks: an evaluator would not run, and the others wait for this rank's sums
        return metric.compute()
    evaluator = SupervisedEvaluator(
        device=device, val_data_loader=loader, network=network, inferer=inferer, decollate=False
    )
    metric.attach(evaluator, "score")
    evaluator.run()
    return evaluator.state.metrics["score"]
