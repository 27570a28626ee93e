"""New classes beside old ones: losses and targets of networks whose classes each have a sigmoid of their own.

F. Cermelli, D. Fontanel, A. Tavera, M. Ciccone, B. Caputo: Incremental Learning in Semantic Segmentation from Image
Labels, CVPR 2022; arXiv 2112.01882 (WILSON). Of the network before the step "old" are the probabilities of each of its
classes, background included; "known" says which of the classes of the new network these are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.method import IGNORE
from medseg.ops.losses.segmentation import labeled_mask, masked_mean, one_hot

binary_cross_entropy = nn.functional.binary_cross_entropy_with_logits


def old_probabilities(logits: Tensor, known: Tensor, classes: int, *, independent: bool) -> Tensor:
    """Probabilities of the old network in the order of the new one's classes.

    Args:
        logits: of the old network, `(B, old classes, *spatial)`.
        known: `(old classes,)` int64, for each old class its index among the new network's.
        classes: of the new network.
        independent: whether the old network was trained with a sigmoid for each class, else with a softmax.

    Returns:
        `(B, classes, *spatial)` float32, 0 for classes that are new.
    """
    logits = logits.float()
    old = logits.sigmoid() if independent else logits.softmax(1)
    out = old.new_zeros((len(old), classes, *old.shape[2:]))
    return out.index_copy_(1, known, old)


def localization_prior_loss(scores: Tensor, old: Tensor, known: Tensor, inside: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of the localizer's sigmoids and the old network, over its classes and all voxels.

    Sigmoid and not softmax: where something new is, all old classes are low, which leaves room for a new one.

    Args:
        scores: logits of the localizer, `(B, classes, *spatial)`.
        old: probabilities on the same grid, see `old_probabilities`.
        known: as there.
        inside: `(B, 1, *spatial)` bool, voxels that count, such as those that are no padding; None: all.
    """
    ours, theirs = scores.float().index_select(1, known), old.index_select(1, known)
    each = binary_cross_entropy(ours, theirs, reduction="none")
    return masked_mean(each, inside)


def keep_present(maps: Tensor, tags: Tensor) -> Tensor:
    """Maps without the classes that are not in the image; the background stays.

    Args:
        maps: `(B, classes, *spatial)`, background first.
        tags: `(B, classes - 1)` uint8: 1 present, 0 absent, 255 not known, which stays too.
    """
    stays = torch.cat([torch.ones_like(tags[:, :1]), tags], 1) != 0
    return maps * stays.view(*stays.shape, *[1] * (maps.ndim - 2))


def soft_targets(maps: Tensor, old: Tensor, known: Tensor, alpha: float) -> Tensor:
    """What the new network shall say of each class.

        q = alpha [m is the largest of all classes] + (1 - alpha) m
        target of an old class: old; of a new one: q; of the background: min(old, q)

    Args:
        maps: m, the localizer's softmax without the classes that are not in the image, `(B, classes, *spatial)`,
            background first.
        old: probabilities on the same grid, see `old_probabilities`.
        known: as there.
        alpha: between 0, soft, and 1, hard.

    Returns:
        `(B, classes, *spatial)`, each in [0, 1]; they need not sum to 1.
    """
    hard = maps == maps.amax(1, keepdim=True)
    targets = alpha * hard + (1 - alpha) * maps
    background = torch.minimum(old[:, 0], targets[:, 0])
    targets = targets.index_copy(1, known, old.index_select(1, known))
    targets[:, 0] = background
    return targets


def taught_classes(targets: Tensor, tags: Tensor, known: Tensor) -> Tensor:
    """Which classes of each image the soft targets teach.

    None of an image in which some new class has no target at all though it is there, or has one though it is not, which
    happens where targets are hard. Not those of which nobody knows whether they are there. All others.

    Args:
        targets: see `soft_targets`.
        tags: `(B, classes - 1)` uint8: 1 present, 0 absent, 255 not known.
        known: see `old_probabilities`.

    Returns:
        `(B, classes)` bool.
    """
    new = torch.ones(tags.shape[1] + 1, dtype=torch.bool, device=tags.device).index_fill(0, known, False)[1:]
    found = targets[:, 1:].flatten(2).sum(2) > 0
    agrees = (found == (tags == 1)) | (tags == IGNORE) | ~new
    of_class = torch.cat([torch.ones_like(new[:1]).expand(len(tags), 1), (tags != IGNORE) | ~new], 1)
    return of_class & agrees.all(1, keepdim=True)


def soft_target_loss(logits: Tensor, targets: Tensor, taught: Tensor, inside: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, summed over classes, mean over voxels, then over the images that teach anything.

    Args:
        logits: `(B, classes, *spatial)`.
        targets: see `soft_targets`.
        taught: see `taught_classes`.
        inside: `(B, 1, *spatial)` bool, voxels that count, such as those that are no padding; None: all.

    Returns:
        Scalar; zero with a graph where no image teaches anything.
    """
    each = binary_cross_entropy(logits.float(), targets, reduction="none")
    if inside is None:
        of_image = each.flatten(2).mean(2)
    else:
        of_image = (each * inside).flatten(2).sum(2) / inside.flatten(2).sum(2).clamp(min=1)
    return (of_image * taught).sum() / taught.any(1).sum().clamp(min=1)


def given_label_loss(
    logits: Tensor, label: Tensor, old: Tensor, known: Tensor, covered: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Binary cross-entropy where a label, made before, says where new classes are, summed over classes.

    The target of an old class is what the old network says; of a new one 1 where the label has it, else 0; of the
    background the smaller one of the old network's and of 1 where the label is 0, else 0. Each class has the mean over
    the voxels that tell of it: of an old class all, of the others those whose label is not 255.

    Args:
        logits: `(B, classes, *spatial)`.
        label: `(B, 1, *spatial)` class indices, 255 = ignore.
        old: probabilities on the same grid, see `old_probabilities`.
        known: as there.
        covered: `(B, classes)` bool, the classes that each label tells apart; None: all. A new class that is not
            covered teaches nothing, nor does the background where it may be such a class.

    Returns:
        Scalar.
    """
    targets = soft_targets(one_hot(label, logits.shape[1]).to(logits.dtype), old, known, alpha=0.0)
    each = binary_cross_entropy(logits.float(), targets.float(), reduction="none")
    told = labeled_mask(label).expand_as(each).clone()
    if covered is not None:
        told &= covered.view(*covered.shape, *[1] * (label.ndim - 2))
        covers_all = covered.all(1).view(-1, *[1] * (label.ndim - 1))
        told[:, :1] &= covers_all | (label != 0)
    told[:, known[known > 0]] = True
    by_class = (each * told).transpose(0, 1).flatten(1).sum(1)
    counts = told.transpose(0, 1).flatten(1).sum(1).clamp(min=1)
    return (by_class / counts).sum()


def confident_labels(maps: Tensor, *, share: float = 0.6, background_share: float = 0.7, least: float = 0.2) -> Tensor:
    """Where one class alone is near its largest value in the image.

    Args:
        maps: `(B, classes, *spatial)`, background first.
        share: of the largest value of a class, above which it is there.
        background_share: the same for the background.
        least: value below which a class is nowhere.

    Returns:
        `(B, classes, *spatial)` bool, at most one class at each voxel.
    """
    largest = maps.flatten(2).amax(2)
    shares = torch.full_like(largest, share)
    shares[:, 0] = background_share
    thresholds = (shares * largest).clamp_min(least)
    certain = maps > thresholds.view(*thresholds.shape, *[1] * (maps.ndim - 2))
    return certain & (certain.sum(1, keepdim=True) == 1)


def found_as_tagged(certain: Tensor, tags: Tensor) -> Tensor:
    """For each image whether as many classes are found as its tags say, and the background.

    Args:
        certain: see `confident_labels`.
        tags: `(B, classes - 1)` uint8 of the classes that may be found; 0 for those that may not; of an image with a
            255 nobody can say.

    Returns:
        `(B,)` bool.
    """
    found = certain.flatten(2).any(2).sum(1)
    return (found == (tags == 1).sum(1) + 1) & (tags != IGNORE).all(1)


def balanced_cross_entropy(scores: Tensor, certain: Tensor, usable: Tensor) -> Tensor:
    """Cross-entropy of the voxels that are certain, rare classes weighing more, mean over all voxels of all images.

        w_c = (N - n_c) / (1 + N)

    with n_c certain voxels of class c in the image and N of all classes.

    Args:
        scores: logits `(B, classes, *spatial)`.
        certain: see `confident_labels`.
        usable: `(B,)` bool, images that teach something, see `found_as_tagged`.
    """
    counts = certain.flatten(2).sum(2)
    total = counts.sum(1, keepdim=True)
    weights = (total - counts) / (1 + total) * usable[:, None]
    each = -scores.float().log_softmax(1).flatten(2) * certain.flatten(2) * weights[:, :, None]
    return each.sum(1).mean()
