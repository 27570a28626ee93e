"""Settings of random changes of training patches, as pipelines and bundles give them; neither torch nor NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails

import medseg.ops.augmentation.field_of_view
import medseg.ops.augmentation.photographs
import medseg.ops.augmentation.resolution  # noqa: F401 - they register their transforms
from medseg.ops.augmentation.transforms import TRANSFORMS, RandomTransform

FORMER = {
    "rotate_degrees": ("affine", "rotate_degrees"),
    "scale": ("affine", "scale"),
    "affine_probability": ("affine", "probability"),
    "flip_axes": ("flip", "axes"),
    "flip_probability": ("flip", "probability"),
    "rot90_axes": ("rot90", "axes"),
    "noise_std": ("noise", "std"),
    "gamma": ("gamma", "exponent"),
    "contrast": ("contrast", "factor"),
}
"""Settings as pipelines and bundles before version 0.2 name them, and where each is now: transform and field."""
FORMER_OF_INTENSITY = "intensity_probability"
"""One setting of that time for the probability of every change of intensities."""


LATER = ("resize", "color_jitter", "blur", "low_resolution")
"""Transforms added after runs had been recorded: they are only written where they are not off."""


class Augment(BaseModel):
    """Random changes of a training patch: the settings of each of `medseg.ops.augmentation.transforms`, by its name."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, SerializeAsAny[RandomTransform]] = Field(init=False)

    @classmethod
    def kind_of_extra(cls, name: str) -> type[RandomTransform] | None:
        """The class of the settings of a transform; None: there is no such transform."""
        return TRANSFORMS.get(name)

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = whole(self)
        for name in LATER:
            if self.__pydantic_extra__[name] == TRANSFORMS[name]():
                content.pop(name, None)
        return content

    @property
    def transforms(self) -> dict[str, RandomTransform]:
        """Every transform with its settings, in order of application."""
        return dict(self.__pydantic_extra__)

    @property
    def flip_axes(self) -> tuple[int, ...]:
        """Axes along which patches are mirrored."""
        return self.__pydantic_extra__["flip"].axes  # type: ignore[attr-defined]

    @property
    def mirrored_axes(self) -> tuple[int, ...]:
        """Axes along which some patches were mirrored: none where that has no chance."""
        flip = self.__pydantic_extra__["flip"]
        return self.flip_axes if flip.probability else ()  # type: ignore[attr-defined]

    @property
    def mirrors_one(self) -> bool:
        """Whether no patch was mirrored along several axes."""
        return self.__pydantic_extra__["flip"].one  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        settings = nested_augment(given)
        unknown = [name for name in settings if name not in TRANSFORMS]
        if unknown:
            raise ValueError(f"there is no transform {unknown[0]!r}; there are {', '.join(TRANSFORMS)}")
        return {name: _transform(name, settings.get(name, {})) for name in TRANSFORMS}


def nested_augment(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by transform; those named as before version 0.2 are put where they are now."""
    former = {name: value for name, value in given.items() if _is_former(name, value)}
    settings = {name: value for name, value in given.items() if name not in former}
    for name, value in former.items():
        for transform, field in _places(name):
            settings[transform] = {**settings.get(transform, {}), field: value}
    return settings


def _is_former(name: str, value: Any) -> bool:
    if name == FORMER_OF_INTENSITY:
        return True
    return name in FORMER and not isinstance(value, Mapping | RandomTransform)


def _places(name: str) -> list[tuple[str, str]]:
    """Where a setting of that time is now."""
    if name == FORMER_OF_INTENSITY:
        return [(transform, "probability") for transform in ("contrast", "gamma", "noise")]
    return [FORMER[name]]


def _transform(name: str, settings: Any) -> RandomTransform:
    """A transform with its settings.

    Raises:
        ValidationError: with the transform's name in front of each place.
    """
    if isinstance(settings, RandomTransform):
        return settings
    kind = TRANSFORMS[name]
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        details = []
        for found in error.errors():
            place = (name, *found["loc"])
            ctx = found.get("ctx", {})
            details.append(InitErrorDetails(type=found["type"], loc=place, input=found["input"], ctx=ctx))
        raise ValidationError.from_exception_data(kind.__name__, details) from error
