"""What the plan decides about the data, as frozen settings."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from medseg.ops.augmentation_settings import Augment
from medseg.portable.planes import slice_axis

View = Literal["volume", "axial", "coronal", "sagittal"]
Triple = tuple[PositiveInt, PositiveInt, PositiveInt]
Sampling = Literal["cases", "union", "half"]
"""From which cases the patches of a batch are taken. `cases`: from all equally. `union`: in planes equally from the
slices of all cases, in volumes as `cases`. `half`: half of the patches from annotated cases, half from the others."""


_OTHER_SIDE = {"left": "right", "l": "r", "lt": "rt"}


class Frozen(BaseModel):
    """Base of all configuration: immutable; other keys than its fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Intensity(Frozen):
    """How stored intensities become network input.

    `zscore`: each image and channel to zero mean and unit variance. `window`: clip to [low, high], subtract `mean`,
    divide by `std`, all in the image's own units (HU for CT).
    """

    kind: Literal["zscore", "window"] = "zscore"
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    std: PositiveFloat = 1.0


class DataSpec(Frozen):
    """What the plan decided about the data; everything that a model must know of them to be used again."""

    labels: dict[int, str]
    modality: tuple[str, ...]
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    patch: Triple  # voxels along x, y, z; a 1 makes the network planar across that axis
    view: View = "volume"
    slices: Literal[1, 3] = 1  # adjacent slices that a planar network sees as channels, to label the middle one
    intensity: Intensity = Intensity()
    foreground: float = Field(default=0.5, ge=0, le=1)  # share of labelled patches centred on a class
    sampling: Sampling = "cases"
    augment: Augment = Augment()
    overlap: float = Field(default=0.5, ge=0, lt=1)
    padding: Literal["minimum", "edge"] = "minimum"  # what patches and windows hold beyond the edges of an image
    smallest_mm: tuple[float, float, float] | None = None  # of the images of training, along each axis
    resample_axes: tuple[bool, bool, bool] = (True, True, True)  # False: keep each image's own spacing there
    has_background: bool = True  # False: the first class is one like the others

    @model_serializer(mode="wrap")
    def _absent_if_usual(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = whole(self)
        if self.has_background:
            content.pop("has_background", None)
        return content

    @property
    def classes(self) -> int:
        """How many classes the network tells apart, background included."""
        return len(self.labels)

    @property
    def structures(self) -> dict[int, str]:
        """Value in label files -> name of every class but the background."""
        values = self.label_values[int(self.has_background) :]
        return {value: self.labels[value] for value in values}

    @property
    def label_values(self) -> tuple[int, ...]:
        """The value in label files of each class index."""
        return tuple(sorted(self.labels))

    @property
    def has_sides(self) -> bool:
        """Whether there are structures of which one lies on the left and one on the right."""
        names = [tuple(re.split(r"[^a-z]+", name.lower())) for name in self.labels.values()]
        for words in names:
            mirrored = tuple(_OTHER_SIDE.get(word, word) for word in words)
            if mirrored != words and mirrored in names:
                return True
        return False

    @property
    def slice_axis(self) -> int | None:
        """The axis across which a planar view cuts; None for volumes."""
        return slice_axis(self.view)

    @property
    def spatial_dims(self) -> int:
        """2 for a planar view, else 3."""
        return 3 if self.slice_axis is None else 2

    @property
    def channels(self) -> int:
        """Channels that the network takes: those of the image, of each of the slices."""
        return len(self.modality) * (1 if self.slice_axis is None else self.slices)

    @property
    def context(self) -> tuple[int, int, int]:
        """Voxels that a planar network sees on either side of the slice that it labels, along each axis."""
        x, y, z = (self.slices // 2 if axis == self.slice_axis else 0 for axis in range(3))
        return x, y, z

    @property
    def network_patch(self) -> tuple[int, ...]:
        """Voxels of a patch along each axis of the network, 2 or 3 of them."""
        return tuple(size for axis, size in enumerate(self.patch) if axis != self.slice_axis)

    def of_view(self, view: View) -> DataSpec:
        """The same data seen by one network: in a plane the patch is one voxel thick across it."""
        across = slice_axis(view)
        patch = tuple(1 if axis == across else size for axis, size in enumerate(self.patch))
        return self.model_copy(update={"view": view, "patch": patch})
