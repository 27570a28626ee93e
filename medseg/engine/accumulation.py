"""A batch in parts whose gradients are added up: what a step does where memory runs out.

Equal parts make the gradient of the whole batch where a loss is a mean over samples. It is not quite that where the
samples of a batch see one another: batch norm has the statistics of a part, a Dice loss over the whole batch, a
contrastive loss or a bank of features sees a part at a time.
"""

from __future__ import annotations

from medseg.errors import ConfigError
from medseg.method import Batch


class BatchTooLargeError(ConfigError):
    """Memory runs out, and the batch cannot be made in smaller parts."""


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Equal parts of a batch, each with its share of every stream.

    Args:
        batch: whose streams all have a multiple of `parts` samples.
        parts: how many.
    """
    if parts == 1:
        return [batch]
    split: list[dict[str, dict]] = [{} for _ in range(parts)]
    for stream, tensors in batch.items():
        size = len(tensors["image"]) // parts
        for number, part in enumerate(split):
            part[stream] = {key: tensor[number * size : (number + 1) * size] for key, tensor in tensors.items()}
    return list(split)


def more_parts(batch: Batch, parts: int) -> int:
    """The next larger number of equal parts, best twice as many.

    Raises:
        BatchTooLargeError: there is none.
    """
    sizes = {stream: len(tensors["image"]) for stream, tensors in batch.items()}
    for wanted in (2 * parts, *range(parts + 1, max(sizes.values(), default=0) + 1)):
        if all(size % wanted == 0 for size in sizes.values()):
            return wanted
    told = " + ".join(f"{size} {stream}" for stream, size in sizes.items())
    raise BatchTooLargeError(
        f"memory runs out in a step with a batch of {told} in {parts} parts, and it has no smaller equal parts",
        hint="make patches smaller (--set data.patch=...), the network narrower (--set stages.0.network.width=...) "
        "or the batch smaller (--set stages.0.schedule.batch.labeled=...)",
    )
