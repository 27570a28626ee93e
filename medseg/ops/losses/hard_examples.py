"""Cross-entropy of hard examples alone: voxels of which the network is sure already teach nothing.

A. Shrivastava, A. Gupta, R. Girshick: Training Region-Based Object Detectors with Online Hard Example Mining, CVPR
2016; arXiv 1604.03540. For segmentation, as the code of AEL has it:

    L = mean of -log p_i over voxels with p_i <= max(probability, p of the k-th worst voxel)

p_i: probability of the voxel's own class; k: the smallest number of voxels that is learnt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.ops.losses.segmentation import labeled_mask, masked_mean, merge_uncovered
from medseg.ops.ranges import check_shares


class HardExampleLoss:
    """The loss as a function of `(logits, label, covered)`, see `__call__`.

    Args:
        probability: of a voxel's own class, up to which the voxel is hard.
        share: of the labelled voxels of a batch that is learnt at least, the worst ones first; AEL's 100 000 voxels are
            this share of its two crops of 769 x 769.

    Raises:
        ValueError: a number outside [0, 1].

    Examples:
        Of own-class probabilities 0.9, 0.5 and 0.2 two are up to 0.7:

        >>> import torch
        >>> from medseg.ops.losses.hard_examples import HardExampleLoss
        >>> own = torch.tensor([0.9, 0.5, 0.2])
        >>> logits = torch.stack([own, 1 - own]).log().view(1, 2, 1, 3)
        >>> label = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
        >>> round(float(HardExampleLoss()(logits, label)), 6)
        1.151293
    """

    def __init__(self, *, probability: float = 0.7, share: float = 0.085) -> None:
        check_shares(probability=probability, share=share)
        self.probability, self.share = probability, share

    def __call__(self, logits: Tensor, label: Tensor, covered: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            logits: `(B, classes, *spatial)`.
            label: `(B, 1, *spatial)` class indices, 255 = ignore.
            covered: `(B, classes)` bool, see `medseg.ops.losses.segmentation`; None: every label covers every class.

        Returns:
            Scalar; zero where every voxel is ignored, or there is none.
        """
        values = logits.float() if covered is None else merge_uncovered(logits, covered)
        known = labeled_mask(label)
        target = torch.where(known, label, 0).long()
        own = values.log_softmax(1).gather(1, target)
        return masked_mean(-own, known & self._hard(own.detach().exp(), known))

    def _hard(self, own: Tensor, known: Tensor) -> Tensor:
        """Where the probability of the voxel's own class is small enough, both `(B, 1, *spatial)`."""
        of_known = own[known]
        least = int(self.share * of_known.numel())
        limit = self.probability
        if least:
            limit = max(limit, float(of_known.kthvalue(least).values))
        return own <= limit
