"""How the files of a study are understood, and what they look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel import orientations

from medseg.consensus.io.align import Interpolation
from medseg.consensus.io.annotations.files import LARGEST
from medseg.consensus.io.annotations.segment_table import Segment
from medseg.consensus.study import MISSING
from medseg.dicom.scan.series import Series
from medseg.errors import ConfigError
from medseg.manifest.fields import is_picture
from medseg.portable.io.header import Header
from medseg.structure_names import named_twice


@dataclass(frozen=True)
class Reading:
    """How files are understood.

    Attributes:
        missing: value in label files of what was not annotated; None: everything was.
        resample: what lies on another grid is brought over: "nearest" or "linear"; None: an error.
        nan: "zero" replaces NaN and infinities in the image; None: an error.
        probabilities: files of floating-point numbers or several channels are class probabilities.
        channel: which channel of an image with several; "all" of them; None: an error, save for colours.
        partial: (rater, class): the rater did not look for the class.
        regions: rater -> mask file of what the rater annotated.
        labels: value -> name, known beforehand.
        closed: whether other values than `labels` are mistakes.
        series: UID of the image's DICOM series; None: the only volume in its folder.
    """

    missing: int | None = MISSING
    resample: Interpolation | None = None
    nan: Literal["zero"] | None = None
    probabilities: bool = False
    channel: int | Literal["all"] | None = None
    partial: tuple[tuple[str, str], ...] = ()
    find_partial: bool = False
    regions: Mapping[str, Path] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    closed: bool = False
    series: str | None = None

    def __post_init__(self) -> None:
        if self.resample not in (None, "nearest", "linear"):
            raise ConfigError(f"--resample {self.resample}: accepted are nearest and linear")
        if self.nan not in (None, "zero"):
            raise ConfigError(f"--nan {self.nan}: accepted is zero")
        twice = named_twice(self.labels.values())
        if twice:
            raise ConfigError(f"--label names '{twice[0]}' twice; capitals and blanks make no difference")
        if self.missing is not None and not -32768 <= self.missing <= LARGEST:
            raise ConfigError(f"--missing-value {self.missing}: accepted are -32768 to {LARGEST}, or none")
        if self.missing is not None and (self.missing in self.labels or self.missing == 0):
            what = self.labels.get(self.missing, "the background")
            raise ConfigError(f"the value {self.missing} means '{what}' and cannot also mean not annotated")


@dataclass(frozen=True, eq=False)
class Form:
    """What the files of a study look like, so that results can look the same.

    Attributes:
        grid: of the image, or of the first rater where there is no image.
        suffix: of the first rater's file, `.nii.gz` for any NIfTI; `.dcm` where the image is DICOM.
        flat: whether that file is a 2D image.
        dtype: of its label values.
        palette: colours of a 2D image with a palette, as Pillow has them.
        segments: of the classes; the background is not among them.
        missing: value of what is not annotated.
        sources: files of each rater.
        notes: what was done to the files, and what is strange about them.
        fields: further fields for the header of a `.seg.nrrd`.
        series: the image, where it is DICOM.
    """

    grid: Header
    suffix: str
    flat: bool
    dtype: np.dtype
    segments: tuple[Segment, ...]
    missing: int
    palette: bytes | None
    sources: tuple[tuple[Path, ...], ...]
    notes: tuple[str, ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    series: Series | None = None

    @property
    def without_spacing(self) -> bool:
        """Whether the grid is a picture's, which has no millimetres and no patient's axes."""
        return is_picture(self.grid.path)

    @property
    def ends_of_axes(self) -> tuple[str, str, str]:
        """What changes places where an annotation is mirrored along each stored axis."""
        if self.without_spacing:
            return "left and right", "top and bottom", "first and last"
        x, y, z = (_ENDS[code] for code in orientations.aff2axcodes(self.grid.affine))
        return x, y, z


_ENDS = {
    **dict.fromkeys("LR", "left and right"),
    **dict.fromkeys("AP", "front and back"),
    **dict.fromkeys("SI", "top and bottom"),
}
