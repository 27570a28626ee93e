"""One case of a manifest: an image with its label, annotations or tags."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from medseg.atomic import problem_of_name
from medseg.manifest.fields import STRING_OR_LIST, FilePath, ImagePaths, stem
from medseg.portable.io.channel_names import FIRST, RAW_FOLDERS, group_channels

Class = int | str  # a class by its value or by its name
IMAGE_CLASS = "image_class"
"""Key of a case under which the class of the whole image is kept, once its tags are checked."""
TAKEN = ("image", "label", "tags", "index", "case", "number", "place", "evenly", "covered")
"""Names that a batch has anyway, so that no map may have them."""


def checked_map_name(name: str) -> str:
    """A name for a map: a word that a batch does not have anyway.

    Raises:
        ValueError: any other.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in TAKEN:
        accepted = f"accepted are words of letters, digits and _, not {', '.join(TAKEN)}"
        raise ValueError(f"{name!r} is no name of a map; {accepted}")
    return name


MapName = Annotated[str, AfterValidator(checked_map_name)]


def _is_answer(value: Any) -> bool:
    """Whether a value says that a class is in an image, or that it is not."""
    return isinstance(value, int) and value in (0, 1)


class Item(BaseModel):
    """Base of what is in a manifest: immutable; keys beside its fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Annotation(Item):
    """One rater's annotation; `classes` lists what the rater looked for (absent: all)."""

    rater: str
    label: FilePath
    classes: tuple[Class, ...] | None = None


class Case(Item):
    """One image with its label, annotations or tags; a plain string stands for its image.

    An empty list is not the same as a missing key: `"tags": []` says that somebody looked and saw none of the classes.

    Args:
        image: one file, or one for each channel.
        label: its label map.
        classes: those that the label tells apart, background aside; None: all. The others are background in it.
        annotations: label maps of several raters.
        tags: the classes that are in the image, all others being absent; or class -> whether it is there, nothing being
            known of the others.
        maps: name -> file of a map on the image's grid, such as saliency, for methods that ask for it.
        subject: whose image it is.
        fold: of a cross-validation, from 0; without it, folds are drawn by subject.
        case: its name, where the file's name will not do.
    """

    image: ImagePaths
    label: FilePath | None = None
    classes: tuple[Class, ...] | None = None
    maps: dict[MapName, FilePath] = Field(default_factory=dict)
    annotations: tuple[Annotation, ...] = ()
    tags: tuple[Class, ...] | dict[str, Any] | None = None
    subject: str | None = None
    fold: int | None = None
    case: str | None = Field(default=None, pattern=r"^[^/\\\s.][^/\\]*$", max_length=200)

    @model_validator(mode="before")
    @classmethod
    def _from_image(cls, value: Any) -> Any:
        return {"image": value} if isinstance(value, str | list) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [*STRING_OR_LIST, handler(core)]}

    @field_validator("tags")
    @classmethod
    def _true_or_false(
        cls, tags: tuple[Class, ...] | dict[str, Any] | None
    ) -> tuple[Class, ...] | dict[str, Any] | None:
        wrong = {name: there for name, there in tags.items() if not _is_answer(there)} if isinstance(tags, dict) else {}
        for name, there in wrong.items():
            accepted = "accepted are true and false; a class that nobody looked for is left out"
            raise ValueError(f"{name!r} is {there!r}; {accepted}")
        return tags

    @field_serializer("image")
    def _one_or_many(self, image: tuple[str, ...]) -> str | list[str]:
        return image[0] if len(image) == 1 else list(image)

    @model_validator(mode="after")
    def _named_as_a_file_may_be(self) -> Case:
        problem = problem_of_name(self.name)
        if problem is not None:
            raise ValueError(f'{problem}; give the case another one: "case": "NAME"')
        return self

    @property
    def image_class(self) -> int | None:
        """Value of the one class of the whole image, where images are classified (`medseg.manifest.classification`)."""
        return (self.model_extra or {}).get(IMAGE_CLASS)

    @property
    def is_labelled(self) -> bool:
        """Whether it can be learnt from and judged on: it has a label file, or the one class of the whole image."""
        return self.label is not None or self.image_class is not None

    @property
    def name(self) -> str:
        """What its outputs are called: `case`, else the first image's file name without ending and channel."""
        if self.case is not None:
            return self.case
        name = stem(self.image[0])
        if len(self.image) > 1:
            return name.removesuffix(FIRST) or name
        labels = [annotation.label for annotation in self.annotations]
        if self.label is not None:
            labels.insert(0, self.label)
        raw = PurePath(self.image[0]).parent.name in RAW_FOLDERS
        (case,) = group_channels([name], (1,), raw=raw, labels=[stem(label) for label in labels])
        return case
