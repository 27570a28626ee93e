"""Several raters' labels of a study, kept under tags of their own, become its final label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.workflows.consensus.case import finished_labels, fuse_item
from medseg.workflows.consensus.collect_studies import NOT_RATERS, Item
from medseg.workflows.consensus.options import ConsensusOptions

NAME = "consensus"
FINAL = "final"
METHOD = "gcssl"  # where a request names none


def choose_raters(tags: Mapping[str, Path], wanted: Any = None) -> dict[str, Path]:
    """The tags that are raters: those that are wanted, or all but `final` and `original`.

    Args:
        tags: tag -> label file of a study.
        wanted: a list of tags, or a text with commas; None or nothing: not said.

    Raises:
        DataError: a tag that the study does not have, or fewer than two raters.
    """
    there = ", ".join(tags) or "none"
    names = _split(wanted)
    unknown = sorted(set(names) - set(tags))
    if unknown:
        raise DataError(f"the study has no label with the tag {', '.join(unknown)}; it has {there}")
    if not names:
        names = sorted(set(tags) - set(NOT_RATERS))
    found = {name: tags[name] for name in names}
    if len(found) < 2:
        raise DataError(
            f"the study has labels of {len(found)} raters, a consensus needs two; its tags are {there}",
            hint="save each rater's label with a tag of its own, such as rater-a",
        )
    return found


def _split(wanted: Any) -> list[str]:
    if not wanted:
        return []
    if isinstance(wanted, str):
        return [tag.strip() for tag in wanted.split(",")]
    return list(wanted)


def fuse_study(image: Path, raters: Mapping[str, Path], folder: Path, method: str) -> tuple[Path, dict[str, Any]]:
    """Fuse the labels of a study as `medseg consensus` does.

    Args:
        image: its file.
        raters: rater -> label file.
        folder: for the results.
        method: a name of `medseg.consensus.fuse.FUSERS`.

    Returns:
        The label map, and per rater how much it was trusted, with warnings.

    Raises:
        DataError, ConfigError: the labels cannot be fused, or an unknown method.
    """
    item = Item("study", (image,), tuple(raters.values()), tuple(raters))
    options = ConsensusOptions(folder, (image,), item.annotations, method=method, report=False, overwrite=True)
    entry = fuse_item(item, folder, options)
    labels = finished_labels(folder)
    assert labels is not None
    return labels, {"method": method, "raters": list(raters), "warnings": entry["warnings"]}
