"""What a plan decides about the data of a pipeline: labels, spacing, patch, intensities."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from medseg.config.between_runs import Frozen
from medseg.config.sides import have_sides
from medseg.manifest.regions import Region, members_of, names_of_values, wrong_regions
from medseg.ops.augmentation.settings import Augment
from medseg.portable.planes import slice_axis

View = Literal["volume", "axial", "coronal", "sagittal"]
Triple = tuple[PositiveInt, PositiveInt, PositiveInt]
Sampling = Literal["cases", "union", "half", "classes"]
"""From which cases the patches of a batch are taken. `cases`: from all equally. `union`: in planes equally from the
slices of all cases, in volumes as `cases`. `half`: of cases with labels half of the patches from annotated ones, half
from the others; streams without labels as `union`. `classes`: of cases with labels equally from those of each class,
the others as `cases`."""

Padding = Literal["minimum", "edge", "zero"]
"""What patches and windows hold beyond the edges of an image. `minimum`: of each channel. `edge`: its outermost voxels
again. `zero`: 0, after the intensities became network input, and a volume that is no larger than a patch lies about the
middle of it, as in DTC's code, see `medseg.data.sampling`."""

Target = Literal["voxels", "images"]
"""What has a class: each voxel by itself, or an image as a whole, which its only tag names."""


def _one_or_three(given: Any) -> Any:
    """An overlap as it is given, if it is one or three numbers in [0, 1)."""
    numbers = given if isinstance(given, list | tuple) else [given]
    are_numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers)
    if len(numbers) not in (1, 3) or not are_numbers or not all(0 <= each < 1 for each in numbers):
        raise ValueError("accepted are one number, or three, of at least 0 and less than 1")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


Overlap = Annotated[float | tuple[float, float, float], BeforeValidator(_one_or_three)]


class Intensity(Frozen):
    """How stored intensities become network input.

    `zscore`: each image and channel to zero mean and unit variance. `window`: clip to [low, high], subtract `mean`,
    divide by `std`, all in the image's own units (HU for CT). `fixed`: subtract `mean`, divide by `std`, nothing else,
    as pre-trained networks want their photographs.
    """

    kind: Literal["zscore", "window", "fixed"] = "zscore"
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    std: PositiveFloat = 1.0


class DataSpec(Frozen):
    """What the plan decided about the data; everything that a model must know of them to be used again."""

    later = ("has_background", "native_mm", "target", "regions", "volume_patch", "blend")
    labels: dict[int, str]
    modality: tuple[str, ...]
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    patch: Triple  # voxels along x, y, z; a 1 makes the network planar across that axis
    volume_patch: Triple | None = None  # of a network of volumes after ones of planes, which have `patch`
    view: View = "volume"
    slices: Literal[1, 3] = 1  # adjacent slices that a planar network sees as channels, to label the middle one
    intensity: Intensity | tuple[Intensity, ...] = Intensity()  # several: one for each channel
    foreground: float = Field(default=0.5, ge=0, le=1)  # share of labelled patches centred on a class
    sampling: Sampling = "cases"
    augment: Augment = Augment()
    overlap: Overlap = 0.5  # of neighbouring windows: one for all axes, or one for each
    blend: Literal["gaussian", "uniform"] = "gaussian"  # of windows: their middle counts more, or all of them alike
    padding: Padding = "minimum"
    smallest_mm: tuple[float, float, float] | None = None  # of the images of training, along each axis
    resample_axes: tuple[bool, bool, bool] = (True, True, True)  # False: keep each image's own spacing there
    has_background: bool = True  # False: the first class is one like the others
    native_mm: tuple[float, float, float] | None = None  # of the files, see `native_spacing`; None: `spacing_mm`
    target: Target = "voxels"
    regions: tuple[Region, ...] = ()  # classes that overlap, in the order in which they are painted

    @model_validator(mode="after")
    def _regions_of_labels(self) -> DataSpec:
        for problem in wrong_regions(self.labels, self.regions, has_background=self.has_background):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> DataSpec:
        if isinstance(self.intensity, tuple) and len(self.intensity) != len(self.modality):
            raise ValueError(f"intensity has {len(self.intensity)} rules for {len(self.modality)} channels")
        return self

    @property
    def intensities(self) -> tuple[Intensity, ...]:
        """The rule of each channel."""
        if isinstance(self.intensity, tuple):
            return self.intensity
        return (self.intensity,) * len(self.modality)

    @property
    def classes(self) -> int:
        """How many classes the network tells apart, background included."""
        return len(self.labels)

    @property
    def label_values(self) -> tuple[int, ...]:
        """The value in label files of each class index."""
        return tuple(sorted(self.labels))

    @property
    def structures(self) -> dict[int, str]:
        """Value in label files -> name of every class but the background."""
        values = self.label_values[int(self.has_background) :]
        return {value: self.labels[value] for value in values}

    @property
    def members(self) -> dict[int, tuple[int, ...]]:
        """Value of every class but the background -> the values in label maps that belong to it, see `regions`."""
        return members_of(self.structures, self.regions)

    @property
    def value_names(self) -> dict[int, str]:
        """Value in label maps -> what the voxels of this value are; of a region what no other one painted over."""
        return names_of_values(self.structures, self.regions)

    @property
    def output_values(self) -> tuple[int, ...]:
        """The value of the class of each of the network's channels: regions have none for the background."""
        return tuple(self.structures) if self.regions else self.label_values

    @property
    def painted_values(self) -> tuple[int, ...]:
        """The value of every class but the background, of regions in the order in which they are painted."""
        value_of = {name: value for value, name in self.labels.items()}
        return tuple(value_of[region.name] for region in self.regions) or tuple(self.structures)

    @property
    def paint_order(self) -> tuple[int, ...]:
        """Class indices of regions in the order in which they are painted; none where classes do not overlap."""
        return tuple(self.label_values.index(value) for value in self.painted_values) if self.regions else ()

    @property
    def region_members(self) -> tuple[tuple[int, ...], ...]:
        """Of each of the network's channels the class indices in a label that make up its region; none without."""
        if not self.regions:
            return ()
        index_of = {value: index for index, value in enumerate(self.label_values)}
        return tuple(tuple(sorted(index_of[value] for value in values)) for values in self.members.values())

    @property
    def has_sides(self) -> bool:
        """Whether there are structures of which one lies on the left and one on the right."""
        return have_sides(self.labels.values())

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

    def along_network(self, of_axes: tuple[float, float, float]) -> tuple[float, ...]:
        """What is known of each axis, of the axes of the network, 2 or 3 of them."""
        return tuple(value for axis, value in enumerate(of_axes) if axis != self.slice_axis)

    @property
    def network_spacing_mm(self) -> tuple[float, ...]:
        """Distance of voxels along each axis of the network."""
        return self.along_network(self.spacing_mm)

    def of_view(self, view: View) -> DataSpec:
        """The same data seen by one network: in a plane the patch is one voxel thick across it."""
        across = slice_axis(view)
        whole = self.volume_patch if view == "volume" and self.volume_patch else self.patch
        patch = tuple(1 if axis == across else size for axis, size in enumerate(whole))
        return self.model_copy(update={"view": view, "patch": patch, "volume_patch": None})
