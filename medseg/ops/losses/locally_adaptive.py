"""Locally adaptive loss: cross-entropy of logits that are pooled over the neighbours of the same class.

J. Guo, P. Ren, A. Gu, J. Xu, W. Wu: Locally Adaptive Learning Loss for Semantic Image Segmentation, arXiv 1802.08290,
2018.

    f_i = sum_j mu_ij g_ij x_j / n_i           pooled logits of voxel i, over a window about it
    l_i = -log softmax(f_i)[y_i]               loss of the window
    L   = ((1/M) sum_i l_i^k)^(1/k)            over the M windows whose centre is not ignored

x: logits; mu_ij: 1 where i and j have the same label and neither is ignored, else 0; g_ij = exp(-d^2 / (2 sigma^2))
with the chessboard distance d in voxels; k = 5. Nothing is learnt through mu. The paper leaves open what n_i and sigma
are, which voxels are centres, and whether the mean is taken over an image or over the batch: each is an option here.
Weights of classes w, which it does not have, multiply l_i, and 1/M becomes 1 / sum_i w_i.

The sums are symmetric in i and j, so that the gradient of the pooling is the same pooling of the gradient: nothing but
the labels has to be kept for it.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medseg.ops.losses.segmentation import labeled_mask, merge_uncovered
from medseg.ops.ranges import check_shares

LARGEST_KERNEL = {2: 5, 3: 3}
"""Default window by the number of spatial dimensions: the paper's best in images; larger ones cost much in volumes."""

Pair = tuple[tuple[slice, ...], tuple[slice, ...], float]
"""Index of voxels, index of their neighbours at one offset, and the weight g of that offset."""


@dataclass(eq=False)
class LocallyAdaptiveLoss:
    """The loss as a function of `(logits, label, covered)`, see `__call__`.

    Args:
        spatial_dims: 2 or 3.
        kernel: length of the window in voxels, odd, of all axes or of each; None: 5 in images and 3 in volumes.
        power: k, the exponent of the mean over windows; 1 is the plain mean, more stresses the worst windows.
        pooling: n_i: "weight", the sum of the weights, or "count", the number of voxels, as one reader of the paper
            notes, which makes confidence hang on how homogeneous the neighbourhood is.
        sigma: of g, in units of the distance; None: 0.3 ((kernel - 1) / 2 - 1) + 0.8 voxels, of the shortest edge.
        distance: d, "chessboard", the longest of the steps along the axes, or "euclidean".
        distance_unit: "voxels", or "mm", by which neighbours across thick slices weigh less.
        stride: distance of the centres in voxels.
        over: "batch", the mean is taken over all windows of the batch; "image", over those of each image, and then
            the plain mean over images.
        class_weights: name of a class -> w; of those that are not named 1.
        warmup: part of the run in which the power is 1, as labels that are not sure want it.
        labels: names of the classes, background first, for `class_weights`.
        spacing_mm: of voxels along each axis, for `distance_unit`.

    Raises:
        ValueError: an even kernel, or one of other axes; a power below 1, which gives no norm; a weight of no class.

    Examples:
        Without neighbours and with power 1 it is cross-entropy:

        >>> import torch
        >>> from medseg.ops.losses.locally_adaptive import LocallyAdaptiveLoss
        >>> logits = torch.tensor([[[[2.0, 0.0, 0.0]], [[0.0, 0.0, 3.0]]]])
        >>> label = torch.tensor([[[[0, 0, 1]]]])
        >>> round(float(LocallyAdaptiveLoss(2, kernel=1, power=1)(logits, label)), 6)
        0.289554
        >>> round(float(LocallyAdaptiveLoss(2, kernel=3, power=5)(logits, label)), 6)
        0.346058
    """

    spatial_dims: int
    _: KW_ONLY
    kernel: int | Sequence[int] | None = None
    power: float = 5.0
    pooling: Literal["weight", "count"] = "weight"
    sigma: float | None = None
    distance: Literal["chessboard", "euclidean"] = "chessboard"
    distance_unit: Literal["voxels", "mm"] = "voxels"
    stride: int = 1
    over: Literal["batch", "image"] = "batch"
    class_weights: Mapping[str, float] | None = None
    warmup: float = 0.0
    labels: Sequence[str] = ()
    spacing_mm: Sequence[float] = ()

    def __post_init__(self) -> None:
        self.lengths = _check_kernel(self.kernel, self.spatial_dims)
        if not self.power >= 1:
            raise ValueError(f"power {self.power:g}: the mean over windows is a norm for 1 and more only")
        if self.power > 20:
            warnings.warn(f"power {self.power:g} is nearly the maximum: the worst window alone counts", stacklevel=3)
        if self.sigma is not None and self.sigma <= 0:
            raise ValueError(f"sigma {self.sigma:g}: must be greater than 0")
        if self.stride < 1:
            raise ValueError(f"stride {self.stride}: must be at least 1")
        check_shares(warmup=self.warmup)
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise ValueError(f"{name} {getattr(self, name)!r}: one of {', '.join(get_args(hint))}")
        self.edges = tuple(self.spacing_mm) if self.distance_unit == "mm" else (1.0,) * self.spatial_dims
        if len(self.edges) != self.spatial_dims:
            raise ValueError(f"spacing_mm {list(self.edges)}: one of each of the {self.spatial_dims} axes")
        self.width = default_sigma(max(self.lengths)) * min(self.edges) if self.sigma is None else float(self.sigma)
        self.weights = _check_weights(self.class_weights or {}, self.labels)
        self._checked = False

    def __call__(self, logits: Tensor, label: Tensor, covered: Tensor | None = None, fraction: float = 1.0) -> Tensor:
        """The loss of a batch.

        Args:
            logits: `(B, classes, *spatial)`, not probabilities.
            label: `(B, 1, *spatial)` class indices, 255 = ignore.
            covered: `(B, classes)` bool, see `medseg.ops.losses.segmentation`; None: every label covers every class.
            fraction: part of the run that is over, for `warmup`.

        Returns:
            Scalar; zero where every voxel is ignored, or there is none.

        Raises:
            ValueError: fewer than two classes, a label that is no class, or one of shares of classes.
        """
        if label.numel() == 0:
            return logits.sum() * 0
        if not self._checked:
            self._check(logits, label)
        losses = self.windows(logits, label, covered)
        centres = labeled_mask(label).squeeze(1)
        if self.stride > 1:
            on_grid = torch.zeros_like(centres)
            on_grid[(slice(None), *[slice(None, None, self.stride)] * (centres.ndim - 1))] = True
            centres = centres & on_grid
        amounts = centres
        if self.weights is not None:
            of_class = torch.tensor(self.weights, dtype=losses.dtype, device=losses.device)
            amounts = of_class[torch.where(centres, label.squeeze(1), 0).long()] * centres
            losses = losses * amounts
        if self.over == "batch":
            losses, centres, amounts = losses[None], centres[None], amounts[None]
        power = 1.0 if fraction < self.warmup else self.power
        means = minkowski_mean(losses.flatten(1), centres.flatten(1), power, amounts.flatten(1))
        used = (amounts.flatten(1) > 0).any(1)  # an image of which nothing counts is in no mean
        return (means * used).sum() / used.sum().clamp(min=1)

    def windows(self, logits: Tensor, label: Tensor, covered: Tensor | None = None) -> Tensor:
        """Loss of the window about each voxel, `(B, *spatial)` float32; 0 where the label is ignored."""
        pooled = self._pool(logits, label)
        if covered is not None:
            pooled = merge_uncovered(pooled, covered)
        known = labeled_mask(label)
        target = torch.where(known, label, 0).long()
        of_class = pooled.log_softmax(1).gather(1, target)
        return torch.where(known, -of_class, 0).squeeze(1)

    def _pool(self, logits: Tensor, label: Tensor) -> Tensor:
        """Pooled logits `(B, classes, *spatial)` float32 or float64; 0 where the label is ignored."""
        values = logits if logits.dtype == torch.float64 else logits.float()
        pairs = self._pairs(label.shape[2:])
        total, amount = SelectiveSum.apply(values.contiguous(), label, pairs, self.pooling == "count")
        return total / amount

    def _pairs(self, shape: Sequence[int]) -> list[Pair]:
        """One of each two opposite offsets of the window, the centre left out."""
        reach = [range(-(length // 2), length // 2 + 1) for length in self.lengths]
        offsets = [offset for offset in itertools.product(*reach) if offset > (0,) * len(shape)]
        pairs = []
        for offset in offsets:
            if any(abs(step) >= size for step, size in zip(offset, shape, strict=True)):
                continue  # the window is larger than the image
            steps = [abs(step) * edge for step, edge in zip(offset, self.edges, strict=True)]
            distance = max(steps) if self.distance == "chessboard" else math.hypot(*steps)
            weight = math.exp(-(distance**2) / (2 * self.width**2))
            here = tuple(slice(max(-step, 0), size - max(step, 0)) for step, size in zip(offset, shape, strict=True))
            there = tuple(slice(max(step, 0), size - max(-step, 0)) for step, size in zip(offset, shape, strict=True))
            everything = (slice(None), slice(None))
            pairs.append(((*everything, *here), (*everything, *there), weight))
        return pairs

    def _check(self, logits: Tensor, label: Tensor) -> None:
        """What cannot change from step to step is looked at once."""
        self._checked = True
        classes = logits.shape[1]
        if label.shape[1] != 1 or label.is_floating_point():
            raise ValueError(
                f"labels are {label.dtype} of {label.shape[1]} channels; accepted are class indices of one channel: "
                "which neighbours have the same class is not defined for shares of classes"
            )
        if classes < 2:
            raise ValueError("the network has one output channel; two are needed, one of them of the background")
        known = label[labeled_mask(label)]
        if known.numel() and int(known.max()) >= classes:
            raise ValueError(
                f"a label has the class {int(known.max())}; the network has the classes 0 to {classes - 1}"
            )
        values = logits.detach().float()
        sums = values.sum(1)
        if bool((values >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            warnings.warn("these look like probabilities; the locally adaptive loss needs logits", stacklevel=3)
        sizes = label.shape[2:]
        if any(length // 2 >= size for length, size in zip(self.lengths, sizes, strict=True)):
            warnings.warn(f"the window {self.lengths} reaches over the whole image of {tuple(sizes)}", stacklevel=3)


class SelectiveSum(torch.autograd.Function):
    """Weighted sum over the neighbours that have the voxel's own label; so is its gradient, of the gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, label: Tensor, pairs: list[Pair], counted: bool) -> tuple[Tensor, Tensor]:
        """Sum `(B, C, *spatial)` of `values`, and what it is divided by, `(B, 1, *spatial)`, at least 1.

        Args:
            ctx: of torch.
            values: `(B, C, *spatial)`.
            label: `(B, 1, *spatial)`.
            pairs: offsets, see `Pair`.
            counted: whether to divide by the number of voxels instead of the sum of weights.
        """
        amount = labeled_mask(label).to(values.dtype)
        values = values * amount  # so that ignored voxels, whose labels agree, add nothing to one another
        total = values.clone()
        for here, there, weight in pairs:
            same = (label[here] == label[there]).to(values.dtype)
            total[here].addcmul_(same, values[there], value=weight)
            total[there].addcmul_(same, values[here], value=weight)
            share = 1.0 if counted else weight
            amount[here].add_(same, alpha=share)
            amount[there].add_(same, alpha=share)
        amount = amount.clamp(min=1)
        ctx.save_for_backward(label)
        ctx.pairs = pairs
        ctx.mark_non_differentiable(amount)
        return total, amount

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient of `values`."""
        (label,) = ctx.saved_tensors
        gradient = gradient * labeled_mask(label)
        total = gradient.clone()
        for here, there, weight in ctx.pairs:
            same = (label[here] == label[there]).to(gradient.dtype)
            total[here].addcmul_(same, gradient[there], value=weight)
            total[there].addcmul_(same, gradient[here], value=weight)
        return total, None, None, None


def minkowski_mean(values: Tensor, mask: Tensor, power: float, amounts: Tensor | None = None) -> Tensor:
    """`(mean(values^power))^(1/power)` where the mask holds, of each row.

    Args:
        values: `(N, M)`, not negative.
        mask: `(N, M)` bool.
        power: at least 1.
        amounts: `(N, M)`, by whose sum it is divided; None: the mask.

    Returns:
        `(N,)`; 0 where the mask of a row holds nowhere.
    """
    used = torch.where(mask, values, 0)
    count = (mask if amounts is None else amounts).sum(1)
    count = torch.where(count > 0, count, 1)
    if power == 1:
        return used.sum(1) / count
    largest = used.detach().amax(1, keepdim=True).clamp(min=1e-12)  # 12^5 is too large for half precision
    mean = ((used / largest) ** power).sum(1) / count
    return largest.squeeze(1) * mean.clamp(min=1e-30) ** (1 / power) * (mean > 0)


def default_sigma(kernel: int) -> float:
    """Width of g in voxels: 0.8, 1.1 and 1.4 for windows of 3, 5 and 7."""
    return 0.3 * ((kernel - 1) / 2 - 1) + 0.8


def _check_weights(given: Mapping[str, float], labels: Sequence[str]) -> tuple[float, ...] | None:
    """The weight of each class; None: all are 1."""
    for name, weight in given.items():
        if name not in labels:
            raise ValueError(f"class_weights has {name!r}; accepted are {', '.join(labels)}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"class_weights has {weight:g} for {name}: must be at least 0 and finite")
    return tuple(given.get(name, 1.0) for name in labels) if given else None


def _check_kernel(kernel: int | Sequence[int] | None, spatial_dims: int) -> tuple[int, ...]:
    if kernel is None:
        kernel = LARGEST_KERNEL[spatial_dims]
    lengths = (kernel,) * spatial_dims if isinstance(kernel, int) else tuple(kernel)
    if len(lengths) != spatial_dims:
        raise ValueError(f"kernel {list(lengths)}: one length, or one of each of the {spatial_dims} axes")
    if any(length < 1 or length % 2 == 0 for length in lengths):
        raise ValueError(f"kernel {list(lengths)}: a window has a voxel in its middle, so that lengths are odd")
    return lengths
