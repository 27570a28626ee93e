"""Tags and a label of one image that say different things."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def contradicted_tags(
    told: Mapping[int, bool], labelled: Collection[int], covered: Sequence[bool] | None = None
) -> tuple[list[int], list[int]]:
    """Classes of which tags and label disagree.

    Args:
        told: class index -> whether the tags say that it is in the image; what they do not tell is left out.
        labelled: indices of the classes that the label has somewhere.
        covered: for each class whether the label tells it apart, as `Manifest.covered`; None: all.

    Returns:
        Those that the tags name and the label has nowhere, and those that the tags deny and the label has.

    Examples:
        >>> contradicted_tags({1: True, 2: False}, {2, 3})
        ([1], [2])
        >>> contradicted_tags({1: True, 2: False}, {2, 3}, covered=(True, False, True, True))
        ([], [2])
    """
    only_tagged, only_labelled = [], []
    for index, is_there in sorted(told.items()):
        is_labelled = index in labelled
        is_covered = covered is None or covered[index]
        if is_there and is_covered and not is_labelled:
            only_tagged.append(index)
        if is_labelled and not is_there:
            only_labelled.append(index)
    return only_tagged, only_labelled
