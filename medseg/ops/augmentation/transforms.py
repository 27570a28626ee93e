"""Random changes of training patches, one class per transform: first drawn, then applied.

What is drawn is a plain value, so that one draw hits image, label and a teacher's input alike. Each transform has a
random stream of its own, found by the transform's name: adding, removing or reordering transforms changes nothing of
what the others draw. To add a transform, write its class here and decorate it with `@random_transform("name")`; its
fields are its settings, `data.augment.NAME.FIELD` of a pipeline.

The module imports neither torch nor NumPy when it is imported: settings are checked before anything heavy is loaded.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Axis = Literal[0, 1, 2]
SMALLEST = 2.0**-126
"""Of the normal numbers of float32: by less nothing is divided."""
Shape = tuple[int, int, int]
TRANSFORMS: dict[str, type[RandomTransform]] = {}
"""Name -> class of every transform, in the order in which they are applied."""


def random_transform(name: str) -> Callable[[type[RandomTransform]], type[RandomTransform]]:
    """Register a transform under the name that pipelines use."""

    def register(kind: type[RandomTransform]) -> type[RandomTransform]:
        kind.name = name
        TRANSFORMS[name] = kind
        return kind

    return register


class RandomTransform(BaseModel, ABC):
    """A random change of a patch; the fields are its settings, axes are those of RAS (0 x, 1 y, 2 z)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]

    @abstractmethod
    def draw(self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]) -> Any:
        """What will happen to one patch.

        Args:
            rng: random numbers of this transform and this patch alone.
            patch: voxels along each axis.
            spacing_mm: side of a voxel along each axis.

        Returns:
            A picklable value that `apply` understands; None leaves the patch as it is.
        """


class SpatialTransform(RandomTransform):
    """A rearrangement of voxels: exact, the same for image, label and maps."""

    @abstractmethod
    def apply(self, tensor: Tensor, drawn: Any) -> Tensor:
        """Change `(C, X, Y, Z)`; the result may be a view of it."""

    def source_shape(self, shape: Shape, drawn: Any) -> Shape:
        """Shape before the transform of a patch that has `shape` after it."""
        return shape


class IntensityTransform(RandomTransform):
    """A change of the image alone."""

    probability: float = Field(default=0.15, ge=0, le=1)

    @abstractmethod
    def apply(self, image: Tensor, drawn: Any) -> None:
        """Change the image `(C, X, Y, Z)` float32 in place."""


def stream_of(seed: Sequence[int], name: str) -> np.random.Generator:
    """The random numbers of one transform for one patch.

    Args:
        seed: numbers that stand for the patch.
        name: of the transform.
    """
    import numpy as np

    entropy = [*seed, zlib.crc32(name.encode())]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


@random_transform("affine")
class Affine(RandomTransform):
    """Rotation about x, then y, then z, and zoom, within the axes along which the patch is thicker than a voxel.

    It has no `apply` of its own: cropping, rotation and zoom are one map from patch to volume, so that what is
    interpolated is interpolated once (`medseg.data.augment`).
    """

    rotate_degrees: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (15.0, 15.0, 15.0)
    scale: tuple[PositiveFloat, PositiveFloat] = (0.9, 1.1)
    probability: float = Field(default=0.3, ge=0, le=1)

    def draw(self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray | None:
        """Matrix (3, 3) from patch offsets to volume offsets in voxels; rotations are rotations in millimetres."""
        import numpy as np

        if rng.random() >= self.probability:
            return None
        angles = np.radians(rng.uniform(-1, 1, 3) * self.rotate_degrees)
        zoom = rng.uniform(*self.scale)
        thick = np.array([n > 1 for n in patch])
        matrix = np.eye(3)
        for axis, angle in enumerate(angles):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            if thick[a] and thick[b]:
                matrix = _rotation(a, b, angle) @ matrix
        matrix = matrix @ np.diag(np.where(thick, 1 / zoom, 1.0))
        spacing = np.asarray(spacing_mm, float)
        return matrix * spacing / spacing[:, None]


def _rotation(a: int, b: int, angle: float) -> np.ndarray:
    """Rotation in the plane of two axes."""
    import numpy as np

    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


@random_transform("rot90")
class Rot90(SpatialTransform):
    """Quarter turns in one plane, each number of turns equally often; no plane: none."""

    axes: tuple[Axis, Axis] | None = None

    def draw(self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]) -> int | None:
        """Quarter turns, 1 to 3."""
        if self.axes is None:
            return None
        a, b = self.axes
        if patch[a] == 1 or patch[b] == 1:
            return None
        return int(rng.integers(4)) or None

    def source_shape(self, shape: Shape, drawn: int) -> Shape:
        """The two axes exchanged by an odd number of turns."""
        if drawn % 2 == 0 or self.axes is None:
            return shape
        a, b = self.axes
        before = list(shape)
        before[a], before[b] = before[b], before[a]
        return before[0], before[1], before[2]

    def apply(self, tensor: Tensor, drawn: int) -> Tensor:
        """Turn in the plane of the axes."""
        assert self.axes is not None
        return tensor.rot90(drawn, [axis + 1 for axis in self.axes])


@random_transform("flip")
class Flip(SpatialTransform):
    """Mirroring along each of some axes by itself or, with `one`, along a single one of them, each equally often."""

    axes: tuple[Axis, ...] = ()
    probability: float = Field(default=0.5, ge=0, le=1)
    one: bool = False

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Runs were recorded before there was `one`: it is only written where it says something."""
        content: dict[str, Any] = whole(self)
        if not self.one:
            content.pop("one", None)
        return content

    def draw(
        self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]
    ) -> tuple[int, ...] | None:
        """The axes to reverse."""
        chances = rng.random(3)
        thick = [axis for axis in self.axes if patch[axis] > 1]
        if not self.one:
            return tuple(axis for axis in thick if chances[axis] < self.probability) or None
        if not thick or chances[0] >= self.probability:
            return None
        return (thick[int(chances[1] * len(thick))],)

    def apply(self, tensor: Tensor, drawn: tuple[int, ...]) -> Tensor:
        """Reverse the axes."""
        return tensor.flip([axis + 1 for axis in drawn])


@random_transform("contrast")
class Contrast(IntensityTransform):
    """A factor on the distance from each channel's mean, within the channel's range of values."""

    factor: tuple[PositiveFloat, PositiveFloat] = (0.75, 1.25)

    def draw(self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]) -> float | None:
        """The factor."""
        return rng.uniform(*self.factor) if rng.random() < self.probability else None

    def apply(self, image: Tensor, drawn: float) -> None:
        """Scale about the mean, clamp to the range."""
        low, high = _range(image)
        mean = image.flatten(1).mean(1)[:, None, None, None]
        image.sub_(mean).mul_(drawn).add_(mean)
        image.clamp_(low, high)


@random_transform("gamma")
class Gamma(IntensityTransform):
    """An exponent on the intensities, each channel's range of values taken as 0 to 1."""

    exponent: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.5)

    def draw(self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]) -> float | None:
        """The exponent."""
        return rng.uniform(*self.exponent) if rng.random() < self.probability else None

    def apply(self, image: Tensor, drawn: float) -> None:
        """Raise to the power within the range."""
        low, high = _range(image)
        span = (high - low).clamp_(min=SMALLEST)
        image.sub_(low).div_(span).pow_(drawn).mul_(span).add_(low)


@random_transform("noise")
class Noise(IntensityTransform):
    """Gaussian noise whose standard deviation is drawn between 0 and `std`, in units of the network's input."""

    std: NonNegativeFloat = 0.1

    def draw(
        self, rng: np.random.Generator, patch: Sequence[int], spacing_mm: Sequence[float]
    ) -> tuple[float, int] | None:
        """Standard deviation, and the seed of the noise."""
        if rng.random() >= self.probability:
            return None
        return rng.uniform(0, self.std), int(rng.integers(2**62))

    def apply(self, image: Tensor, drawn: tuple[float, int]) -> None:
        """Add the noise."""
        import torch

        std, seed = drawn
        generator = torch.Generator().manual_seed(seed)
        image.add_(torch.randn(image.shape, generator=generator), alpha=std)


def _range(image: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each channel, `(C, 1, 1, 1)`."""
    flat = image.flatten(1)
    return flat.amin(1)[:, None, None, None], flat.amax(1)[:, None, None, None]
