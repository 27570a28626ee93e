"""What a batch carries under a name: which cases a method learns from, and what it is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True)
class Stream:
    """What a batch carries under a name; checked when the run is planned.

    Args:
        name: "labeled", "unlabeled" or "weak": the cases of the data set with a label, with nothing, with tags only;
            "all": every training case, whatever is known of it.
        keys: beside "image" `(B, C, *spatial)` float32, each under its own name:
            "label" `(B, 1, *spatial)` uint8 class indices, 255 = ignore;
            "tags" `(B, structures)` uint8, for each class but the background 1 = present, 0 = absent, 255 = not known;
            "index" `(B,)` int64, the number of the case among those of the stream;
            "case" `(B,)` int64, the number of the case's name, see `number_of_case`;
            "number" `(B,)` int64, of the sample among all of the run, by which `Method.recall` finds it again;
            "place" `(B, n, n + 1)` float32 for n spatial axes, where in the body the patch lies: voxel v is at A v + c,
            A the matrix and c the last column; 0 and 1 are the first and last slice with tissue along each axis;
            "evenly" `(B,)` bool, whether case and place of the patch were drawn as those of streams without labels
            are, and not by the classes of the label;
            any other: the map of that name that the manifest gives for each case, `(B, 1, *spatial)` float32.
            Where it matters a batch also has "covered" and "predicted" beside labels, and "inside" without them, see
            `medseg.data.streams.PatchStreams`.
        group: a batch is made of groups of images, which follow one another: with K images in a group, the first K
            images of a batch are its first group. "tags": each tag has a group in turn, of cases that have it.
            "same_tags": each case has a group in turn, whose first image is of it, and the others of other cases with
            the very same tags, as far as there are such.
        group_size: K, images in a group; the batch size of the stream is a multiple of it.
        neighbor: of "same_tags", the second image of a group is another of the subject of the first where there is one,
            else, where a plane cuts volumes, another slice of the same volume, 2 to 6 slices away.
        contrast: of "same_tags", the last image of a group shows none of the tags of the first where there is such.
        least: images that a batch must have, of each process, where they are compared with one another.
        optional: the data set may have no such case; the batch then lacks the stream.
    """

    name: str
    keys: tuple[str, ...] = ()
    group: Literal["tags", "same_tags"] | None = None
    group_size: int = 2
    neighbor: bool = False
    contrast: bool = False
    least: int = 1
    optional: bool = False

    @property
    def batch_multiple(self) -> int:
        """What the batch size of the stream is a multiple of."""
        return self.group_size if self.group else 1


STREAM_KEYS = ("label", "tags", "index", "case", "number", "place", "evenly")
"""Keys of a stream that are no names of maps."""

LABELED = Stream("labeled", ("label",))
UNLABELED = Stream("unlabeled")
WEAK = Stream("weak", ("tags",))
ALL = Stream("all")


def number_of_case(name: str) -> int:
    """A number by which tensors tell cases apart, the same in every process and run; 63 bits of the name's SHA-256."""
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> 1


@runtime_checkable
class SeesCases(Protocol):
    """A part of `Method.maps` that is told whose image comes next, such as one that keeps images of other cases."""

    def see_case(self, number: int | None) -> None:
        """Images are of this case from now on, by `number_of_case`; None: of none that it may know."""
