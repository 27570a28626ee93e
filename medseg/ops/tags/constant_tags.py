"""Image-level tags of a data set: whether anything can be learnt from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def refuse_constant_tags(presence: Sequence[Mapping[int, bool]], names: Mapping[int, str]) -> None:
    """See that each class is in some image and not in another, for only their difference shows where it is.

    Args:
        presence: of each image, class index -> whether it is there, as far as anybody knows.
        names: class index -> name, of the classes to look at.

    Raises:
        ValueError: naming the first class without the one or the other, and what was found.
    """
    for index, name in names.items():
        there = sum(tags.get(index) is True for tags in presence)
        absent = sum(tags.get(index) is False for tags in presence)
        if not there or not absent:
            raise ValueError(
                f"the tags of {name}: in {there} images present, in {absent} absent; "
                f"accepted is at least one of each, a class that all images or none have cannot be found"
            )
