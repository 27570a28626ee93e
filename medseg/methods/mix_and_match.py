"""Mix-and-Match tuning: patches of labelled images, mixed across a batch, are pulled together by class.

X. Zhan, Z. Liu, P. Luo, X. Tang, C. C. Loy: Mix-and-Match Tuning for Self-Supervised Semantic Segmentation, AAAI 2018;
arXiv 1712.00661. A stage between self-supervised pre-training and segmentation, which has no segmenter of its own.

    L = 1 / (2 N) sum_i max(0, alpha + |z_i - z_p(i)|^2 - |z_i - z_n(i)|^2)

z: what the encoder's deepest level says of a patch, flattened and of length 1; p(i), n(i): a patch of the class of
patch i and one of another class, along a random graph over all patches of the batch that joins each class to one piece
(`medseg.ops.losses.triplet_graph`). The class of a patch is that of its centre (`medseg.ops.pretext.class_patches`).

The paper says little of numbers: followed is the authors' code (Caffe), but for what are mistakes there. A patch counts
as covered by others by the share of its own area, not of the first one's; columns are bounded by the image's width;
images of nothing but 255 are left out, where the code makes 255 a class. Ours are 3D, millimetres, the balance of
classes (`balance: area` is the code's), the least purity, and the supervised contrastive loss as a modern peer. In a
case whose label covers some classes only, its background is no centre, for nobody knows what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medseg.errors import DataError
from medseg.method import IGNORE, LABELED, Batch, Clock, Networks, PretrainingMethod
from medseg.ops.batch_statistics import repeated_pass
from medseg.ops.contact_sheet import contact_sheet, middle_slices
from medseg.ops.losses.triplet_graph import contrastive_loss, draw_triplets, normalize, separation, triplet_loss
from medseg.ops.pretext.class_patches import PatchRules, choose_patches, cut_patches
from medseg.ops.pretext.encoders import freeze_decoder
from medseg.ops.processes import sum_over_processes

RESOLUTION = {2: 128, 3: 48}
"""Voxels along an axis that all patches are brought to, at most."""

POOLED = {2: 4, 3: 2}
"""Places along an axis that are left of the encoder's deepest feature map, at most."""

SHOWN = 8
"""Patches of each class in a picture."""

LEAST_CLASSES = 2
PATIENCE = 20
"""Steps without a second class after which there is none."""

COUNTED = ("without_foreground", "left_out", "singletons")
"""Images without foreground, whose background takes its quota; images of nothing but 255; anchors without another patch
of their class."""


class MixAndMatch(PretrainingMethod):
    """Mix-and-Match tuning of an encoder.

    Args:
        networks: makes the network.
        pool: N, patches of a step (of each process); an equal number is drawn of each image, what is too much is left
            out at random. Below 64 the graph is poor.
        smallest: side of the smallest patch, as a share of the training patch along each axis.
        largest: of the largest.
        size_mm: smallest and largest side in millimetres instead, about half and twice the extent of a structure.
        resolution: voxels along an axis that all patches are brought to; 0: 128 in 2D, 48 in 3D, but no more than
            the largest patch has.
        background_share: of the patches of an image.
        background_positive: whether background is pulled together too; else it is only what others are pushed from.
        balance: "class" or "area", see `medseg.ops.pretext.class_patches.PatchRules`.
        overlap: share of a patch that those before it may cover.
        min_purity: share of a patch that the class of its centre fills at least; 0.3 is worth a try for lesions.
        loss: "triplets", or "contrastive" for all pairs.
        margin: alpha; above 2 no triplet of non-negative features is ever left out.
        temperature: of the contrastive loss.
        chunk: patches that are encoded at a time, to save memory; 0: all.
    """

    streams = (LABELED,)

    seen: Tensor
    counts: Tensor

    def __init__(
        self, networks: Networks, *,
        pool: int = 144, smallest: float = 0.125, largest: float = 0.5,
        size_mm: tuple[float, float] | None = None, resolution: int = 0,
        background_share: float = 0.1, background_positive: bool = True,
        balance: Literal["class", "area"] = "class", overlap: float = 0.6, min_purity: float = 0.0,
        loss: Literal["triplets", "contrastive"] = "triplets", margin: float = 2.1, temperature: float = 0.1,
        chunk: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(networks)
        _check(pool >= LEAST_CLASSES, "pool", pool, "2 or more patches")
        _check(0 < smallest <= largest <= 1, "smallest, largest", [smallest, largest], "0 < smallest <= largest <= 1")
        if size_mm is not None:
            _check(0 < size_mm[0] <= size_mm[1], "size_mm", list(size_mm), "two rising numbers above 0")
        _check(resolution >= 0, "resolution", resolution, "0 or more voxels")
        _check(margin >= 0, "margin", margin, "0 or more")
        _check(temperature > 0, "temperature", temperature, "a number above 0")
        _check(0 <= background_share < 1, "background_share", background_share, "0 or more, below 1")
        _check(0 <= overlap <= 1, "overlap", overlap, "0 to 1")
        _check(0 <= min_purity <= 1, "min_purity", min_purity, "0 to 1")
        _check(chunk >= 0, "chunk", chunk, "0 or more patches")
        self.network = networks.encoder_decoder()
        freeze_decoder(self.network, networks.in_channels, networks.patch)
        self.dims, self.patch = networks.spatial_dims, networks.patch
        self.background = 0 if networks.has_background else None
        self.spacing_mm = networks.spacing_mm if size_mm else ()
        self.pool, self.smallest, self.largest, self.size_mm = pool, smallest, largest, size_mm
        self.resolution, self.chunk = resolution, chunk
        self.background_share, self.background_positive = background_share, background_positive
        self.balance, self.overlap, self.min_purity = balance, overlap, min_purity
        self.loss, self.margin, self.temperature = loss, margin, temperature
        self.register_buffer("seen", torch.zeros(self.classes, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(1 + len(COUNTED), dtype=torch.int64))
        self._counted = dict.fromkeys(COUNTED, 0)
        self._last: tuple[Tensor, Tensor] | None = None
        self._shown: Tensor | None = None

    def cautions(self, cases: Mapping[str, int]) -> list[str]:
        """Where patches in millimetres are larger than a training patch, so that they are cut."""
        if self.size_mm is None:
            return []
        given = [round(length * spacing) for length, spacing in zip(self.patch, self.spacing_mm, strict=True)]
        if min(given) >= self.size_mm[1]:
            return []
        wanted = " to ".join(f"{side:g}" for side in self.size_mm)
        return [f"patches of {wanted} mm (size_mm) end where a training patch of {' x '.join(map(str, given))} mm does"]

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The term `triplets`, or `contrastive`."""
        self._check_classes()
        labeled = batch["labeled"]
        # processes that train together need every parameter in the graph, those without a patch too
        unused = torch.stack([each.sum() for each in self.network.parameters() if each.requires_grad]).sum() * 0
        patches, classes = self.draw(labeled["image"], labeled["label"], labeled.get("covered"))
        loss = unused
        if len(classes):
            vectors = self.embed(patches)
            self._last = (vectors.detach(), classes)
            self._shown = middle_slices(patches, self.pool)
            loss = self.compare(vectors, classes) + unused
        self._add_counts(classes)
        return {self.loss: loss}

    def watched(self) -> dict[str, Tensor]:
        """How well the patches of the last batch are apart by class, and what was counted so far."""
        found = {"patches": self.seen.float()}
        found |= {name: number.float() for name, number in zip(COUNTED, self.counts[1:], strict=True)}
        if self._last is not None:
            quotient, nearest = separation(*self._last)
            found |= {"within_by_between": torch.tensor(quotient), "nearest_neighbour": torch.tensor(nearest)}
        return found

    def pictures(self) -> dict[str, Tensor]:
        """Patches of the last batch, those of a class in a row."""
        if self._last is None or self._shown is None:
            return {}
        classes = self._last[1].to(self._shown.device)
        rows = [self._shown[classes == value][:SHOWN] for value in classes.unique().tolist()]
        return {"patches": contact_sheet(rows)}

    # Mix: patches of all images of the batch.

    @torch.no_grad()
    def draw(self, images: Tensor, labels: Tensor, covered: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Patches of one size and the classes of their centres.

        Args:
            images: `(B, C, *spatial)`.
            labels: `(B, 1, *spatial)` class indices, 255 = ignore.
            covered: `(B, classes)` bool, of labels of some classes only.

        Returns:
            `(N, C, *shape)` and `(N,)` int64 on the CPU; none where all labels are 255.
        """
        rules = self.rules(images.shape[2:])
        each = -(-self.pool // len(images))
        used, found = [], []
        for number, label in enumerate(self._centers(labels[:, 0].cpu(), covered)):
            patches = choose_patches(label, each, rules)
            if patches is None:
                self._counted["left_out"] += 1
                continue
            used.append(number)
            found.append(patches)
            if self.background is not None and bool((patches.classes == self.background).all()):
                self._counted["without_foreground"] += 1
        if not found:
            return images.new_zeros((0, images.shape[1], *rules.largest)), torch.zeros(0, dtype=torch.int64)
        cut = cut_patches(images[used], found, self.shape(rules.largest))
        classes = torch.cat([patches.classes for patches in found])
        kept = torch.randperm(len(classes))[: self.pool]
        return cut[kept.to(cut.device)], classes[kept]

    def _centers(self, labels: Tensor, covered: Tensor | None) -> Tensor:
        """Labels with 255 where no patch may have its centre: in the background of labels of some classes only."""
        if covered is None or self.background is None:
            return labels
        partly = ~covered.all(1).cpu().reshape(-1, *[1] * self.dims)
        return labels.masked_fill(partly & (labels == self.background), IGNORE)

    def rules(self, crop: Sequence[int]) -> PatchRules:
        """How patches are chosen from training patches of a size in voxels."""
        if self.size_mm is None:
            sides = [[share * length for length in crop] for share in (self.smallest, self.largest)]
        else:
            sides = [[side / spacing for spacing in self.spacing_mm] for side in self.size_mm]
        smallest, largest = (tuple(max(1, round(side)) for side in each) for each in sides)
        return PatchRules(
            smallest=tuple(min(side, length) for side, length in zip(smallest, crop, strict=True)),
            largest=tuple(min(side, length) for side, length in zip(largest, crop, strict=True)),
            background=self.background,
            background_share=self.background_share,
            balance=self.balance,
            overlap=self.overlap,
            min_purity=self.min_purity,
        )

    def shape(self, largest: Sequence[int]) -> tuple[int, ...]:
        """What all patches are brought to, for a largest one: a multiple of the encoder's strides."""
        sides = []
        for length, stride in zip(largest, self.network.strides[-1], strict=True):
            wanted = self.resolution or min(RESOLUTION[self.dims], length)
            sides.append(max(2, wanted // stride) * stride)  # norms need more than one voxel
        return tuple(sides)

    # Match: vectors of the patches, and who belongs to whom.

    def embed(self, patches: Tensor) -> Tensor:
        """Patches `(N, C, *shape)` to vectors `(N, D)` of length 1, in float32."""
        parts = patches.split(self.chunk) if self.chunk else (patches,)
        if len(parts) == 1:
            return normalize(self._encode(patches))
        vectors = [checkpoint(self._encode, part, use_reentrant=False, context_fn=self._contexts) for part in parts]
        return normalize(torch.cat(vectors))

    def _contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """Of a part that is encoded, and encoded again for its gradient, which counts in no running statistics."""
        return nullcontext(), repeated_pass(self.network)

    def _encode(self, patches: Tensor) -> Tensor:
        deepest = self.network.encode(patches)[-1]
        size = [min(POOLED[self.dims], length) for length in deepest.shape[2:]]
        pool = F.adaptive_max_pool3d if self.dims == 3 else F.adaptive_max_pool2d
        return pool(deepest, size).flatten(1)

    def compare(self, vectors: Tensor, classes: Tensor) -> Tensor:
        """The loss of vectors `(N, D)` with their classes `(N,)`."""
        anchors = None
        if not self.background_positive and self.background is not None:
            anchors = classes != self.background
        if self.loss == "contrastive":
            return contrastive_loss(vectors, classes, temperature=self.temperature, anchors=anchors)
        triplets = draw_triplets(classes)
        self._counted["singletons"] += triplets.singletons
        return triplet_loss(vectors, triplets, margin=self.margin, anchors=anchors)

    # What was seen.

    def _add_counts(self, classes: Tensor) -> None:
        """Add what this step has drawn and counted, in all processes; every process calls it once a step."""
        drawn = torch.bincount(classes, minlength=self.classes)
        counted = torch.tensor(list(self._counted.values()))
        self._counted = dict.fromkeys(COUNTED, 0)
        total = sum_over_processes(torch.cat([drawn, counted]).to(self.seen.device))
        self.seen += total[: self.classes]
        self.counts[0] += 1  # steps
        self.counts[1:] += total[self.classes :]

    def _check_classes(self) -> None:
        """See that there is more than one class, when some steps are over.

        Raises:
            DataError: there is not.
        """
        steps = int(self.counts[0])
        if steps != PATIENCE:
            return
        found = [str(index) for index, count in enumerate(self.seen.tolist()) if count]
        if len(found) < LEAST_CLASSES:
            what = f"class {found[0]} alone" if found else "no class"
            raise DataError(
                f"mix_and_match needs patches of {LEAST_CLASSES} classes or more; {steps} steps saw {what}",
                hint="look at the labels with `medseg data check`",
            )


def _check(is_good: bool, name: str, value: object, accepted: str) -> None:
    if not is_good:
        raise ValueError(f"{name} is {value}; accepted: {accepted}")
