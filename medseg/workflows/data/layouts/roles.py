"""What a file is beside others of the same subject: a label, or the image of a channel, by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from medseg.errors import DataError
from medseg.manifest.fields import dicom_modality
from medseg.portable.io.channel_names import without_mark

LABEL_WORDS = (
    "label", "labels", "labelmap", "seg", "segmentation", "mask", "masks", "gt", "groundtruth", "annotation", "truth",
)  # fmt: skip
"""Names of a file that holds the labels."""

IMAGE_WORDS = ("image", "img", "scan", "volume", "imaging", "orig")
"""Names of a file that holds the image and say nothing of its modality."""

SEPARATORS = "-_. "


def role_of(name: str, owner: str) -> str:
    """What a file's name says beside the name of its subject, in small letters.

    Examples:
        >>> role_of("p1_T2", "p1"), role_of("label", "p1"), role_of("p1", "p1")
        ('t2', 'label', '')
    """
    text = name.casefold()
    if text.startswith(owner.casefold()):
        text = text[len(owner) :]
    return text.strip(SEPARATORS)


def is_label(role: str) -> bool:
    """Whether a file of this role holds labels: it is called `label`, or ends in a mark such as `_seg`."""
    return re.sub(r"[-_. ]", "", role) in LABEL_WORDS or without_mark(role) != role


def channels_of(roles: Mapping[str, Sequence[str]], place: str) -> tuple[str, ...]:
    """The roles of the images that every subject has, in the order of the channels: that of the names.

    Args:
        roles: subject -> roles of its images.
        place: what the subjects are in, for the message.

    Returns:
        empty where each subject has a single image, which may then be called anything.

    Raises:
        DataError: subjects have different images.
    """
    if all(len(found) == 1 for found in roles.values()):
        return ()
    first = max(roles, key=lambda subject: len(roles[subject]))
    wanted = sorted(roles[first])
    for subject, found in roles.items():
        if sorted(found) != wanted:
            what = f"{subject} has the images {_told(found)}, and {first} has {_told(wanted)}"
            raise DataError(what, path=place, hint="accepted are the same images for all; complete or remove it")
    return tuple(wanted)


def modality_of(channels: Sequence[str], single: Iterable[str] = ()) -> tuple[str, ...]:
    """The modality of each channel by its name; empty where names say nothing.

    Args:
        channels: as `channels_of` gives them.
        single: roles of the images where there is one for each subject.
    """
    if channels:
        return tuple(channels)
    names = set(single)
    modality = dicom_modality(next(iter(names))) if len(names) == 1 else "OT"
    return () if modality == "OT" else (modality,)


def _told(roles: Sequence[str]) -> str:
    return ", ".join(role or "(no further name)" for role in sorted(roles))
