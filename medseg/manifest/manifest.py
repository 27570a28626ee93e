"""Which cases exist, and the labels or annotations of each: the JSON data list of the Decathlon challenge, and more.

What MONAI users have is accepted as it is; `unlabeled`, `annotations`, `tags`, `subject` and a name per case
(`case`) are added to it. Other keys are kept. No image is opened here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from medseg.errors import ManifestError
from medseg.manifest.case import Annotation, Case, Item
from medseg.manifest.contradictions import contradictions
from medseg.manifest.fields import (
    Background,
    Labels,
    Modality,
    checked_labels,
    dicom_modality,
    first_of,
    readable,
    whole_path,
    with_known_names,
)
from medseg.manifest.json_file import read_json, write_json
from medseg.manifest.regions import Region, members_of, names_of_values, with_regions

__all__ = ["SECTIONS", "Annotation", "Case", "Manifest", "schema"]

SECTIONS = ("training", "validation", "test", "unlabeled")


class Manifest(Item):
    """A set of cases; the form is written down in `data_manifests/schema.json`.

    `background` is 0, the value of what is no structure, or null: every voxel belongs to some class, as in photographs
    of streets, and 0 is a class like the others.
    """

    name: str = ""
    description: str = ""
    modality: Modality = Field(default_factory=dict)
    background: Background = 0
    labels: Labels
    regions: tuple[Region, ...] = ()  # in the order in which they are painted
    ignore_index: int = Field(default=255, ge=-1, le=65535)
    training: tuple[Case, ...] = ()
    validation: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()
    unlabeled: tuple[Case, ...] = ()
    _path: Path = PrivateAttr(default_factory=lambda: Path("manifest.json").absolute())

    @model_validator(mode="before")
    @classmethod
    def _regions_of_nnunet(cls, content: Any) -> Any:
        return with_regions(content)

    @field_validator("labels")
    @classmethod
    def _background_and_classes(cls, labels: dict[int, str], found: ValidationInfo) -> dict[int, str]:
        return checked_labels(labels, has_background=found.data.get("background", 0) is not None)

    @field_validator("modality")
    @classmethod
    def _channels_in_order(cls, modality: dict[str, str]) -> dict[str, str]:
        wanted = [str(n) for n in range(len(modality))]
        if set(modality) != set(wanted):
            raise ValueError(f'has the keys {list(modality)}; accepted are "0", "1", ... one per channel')
        return {n: modality[n] for n in wanted}

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        problems = list(contradictions(self, SECTIONS))
        if problems:
            raise ValueError(first_of(problems))
        return self

    @model_serializer(mode="wrap")
    def _absent_if_usual(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = whole(self)
        if self.has_background:
            content.pop("background", None)
        if not self.regions:
            content.pop("regions", None)
        return content

    def places(self) -> Iterator[tuple[str, str, Case]]:
        """Where each case is, such as training[0], its list, and the case."""
        for section in SECTIONS:
            for n, case in enumerate(getattr(self, section)):
                yield f"{section}[{n}]", section, case

    @property
    def path(self) -> Path:
        """The file that relative paths start from."""
        return self._path

    @property
    def cases(self) -> tuple[Case, ...]:
        """All of them, one list after the other."""
        return tuple(case for _, _, case in self.places())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of their values, background first."""
        return tuple(self.labels.values())

    @property
    def has_background(self) -> bool:
        """Whether there is a class for what is no structure; it is the first."""
        return self.background is not None

    @property
    def structures(self) -> dict[int, str]:
        """Value in label files -> name of every class but the background."""
        return dict(list(self.labels.items())[int(self.has_background) :])

    @property
    def members(self) -> dict[int, tuple[int, ...]]:
        """Value of every class but the background -> the values in label files that belong to it, see `regions`."""
        return members_of(self.structures, self.regions)

    @property
    def value_names(self) -> dict[int, str]:
        """Value in label files -> what the voxels of this value are; of a region what no other one painted over."""
        return names_of_values(self.structures, self.regions)

    @property
    def label_values(self) -> tuple[int, ...]:
        """The value in label files of each class."""
        return tuple(self.labels)

    @property
    def channels(self) -> int:
        """Channels of every image; without `modality` as many as the first case has files."""
        first = next((len(case.image) for _, _, case in self.places()), 1)
        return len(self.modality) or first

    @property
    def shows_colours(self) -> bool:
        """Whether the images are photographs in colour, with the channels red, green and blue."""
        return [name.lower() for name in self.modality.values()] == ["red", "green", "blue"]

    @property
    def modalities(self) -> tuple[str, ...]:
        """DICOM's modality of each channel: CT, MR, PT, US, XR, or OT for anything else."""
        return tuple(dicom_modality(m) for m in self.modality.values()) or ("OT",) * self.channels

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Read and check a manifest.

        Raises:
            ManifestError: naming line and column of broken JSON, or the fields that are wrong.

        Examples:
            >>> import json
            >>> from pathlib import Path
            >>> from medseg.manifest.manifest import Manifest
            >>> content = {
            ...     "labels": {"0": "background", "1": "liver"},
            ...     "training": [{"image": "images/p1.nii.gz", "label": "labels/p1.nii.gz"}],
            ...     "unlabeled": [{"image": "images/p2.nii.gz"}],
            ... }
            >>> _ = Path("manifest.json").write_text(json.dumps(content))
            >>> manifest = Manifest.load("manifest.json")
            >>> manifest.classes, [case.name for case in manifest.unlabeled]
            (('background', 'liver'), ['p2'])
        """
        return cls.build(read_json(Path(path)), Path(path))

    @classmethod
    def build(cls, content: Mapping[str, Any], path: Path) -> Manifest:
        """Check a manifest that is not (yet) a file.

        Args:
            content: what would be in the JSON.
            path: the file that relative paths start from.

        Raises:
            ManifestError: naming the fields that are wrong.
        """
        try:
            manifest = cls.model_validate(with_known_names(content))
        except ValidationError as e:
            problems = [readable(p) for p in e.errors(include_url=False)]
            raise ManifestError(first_of(problems), path=path) from None
        manifest._path = whole_path(path)
        return manifest

    def save(self, path: str | Path) -> Path:
        """Write it whole or not at all; relative paths are kept right when the folder is another one.

        Raises:
            OutputError: when it cannot be written.
        """
        path = whole_path(path)
        content = self.model_dump(mode="json", exclude_unset=True)
        if path.parent != self.path.parent:
            for section in SECTIONS:
                for case in content.get(section, ()):
                    self._move(case, path.parent)
        write_json(path, content)
        return path

    def _move(self, case: dict[str, Any], folder: Path) -> None:
        image = case["image"]
        moved = [self.relative(self.resolve(p), folder) for p in ([image] if isinstance(image, str) else image)]
        case["image"] = moved[0] if isinstance(image, str) else moved
        for name, file in case.get("maps", {}).items():
            case["maps"][name] = self.relative(self.resolve(file), folder)
        for holder in (case, *case.get("annotations", ())):
            if holder.get("label") is not None:
                holder["label"] = self.relative(self.resolve(holder["label"]), folder)

    @staticmethod
    def relative(file: Path, folder: Path) -> str:
        """How a manifest in `folder` names a file: relative inside it, else absolute."""
        file, folder = whole_path(file), whole_path(folder)
        return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()

    def resolve(self, relative: str) -> Path:
        """A path of the manifest as a path of this machine."""
        return self.path.parent / relative  # an absolute path stays itself

    def images(self, case: Case) -> tuple[Path, ...]:
        """The image files of a case: one per channel, or one for all."""
        return tuple(self.resolve(p) for p in case.image)

    def label(self, case: Case) -> Path | None:
        """The label file of a case."""
        return self.resolve(case.label) if case.label is not None else None

    def index_of(self, named: int | str) -> int:
        """The class index of a class that is given by its name or its value.

        Raises:
            KeyError: there is no such class.
        """
        if named in self.classes:
            return self.classes.index(str(named))
        value = int(named) if str(named).lstrip("-").isdigit() else named
        if value not in self.label_values:
            raise KeyError(named)
        return self.label_values.index(int(value))

    def covered(self, case: Case) -> tuple[bool, ...] | None:
        """For each class whether the case's label tells it apart; None: it tells all."""
        if case.classes is None:
            return None
        named = {self.index_of(each) for each in case.classes}
        return tuple(index == 0 or index in named for index in range(len(self.labels)))

    def presence(self, case: Case) -> dict[int, bool] | None:
        """Index of a class, not the background's -> whether it is in the image by its tags; None: no tags."""
        if case.tags is None:
            return None
        if isinstance(case.tags, dict):
            told = {self.index_of(each): bool(there) for each, there in case.tags.items()}
        else:
            present = {self.index_of(each) for each in case.tags}
            told = {index: index in present for index in range(len(self.labels))}
        return {index: there for index, there in told.items() if index >= int(self.has_background)}


def schema() -> dict[str, Any]:
    """The JSON Schema of a manifest, which `data_manifests/schema.json` holds."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}


def streams_of(manifest: Manifest) -> dict[str, list[Case]]:
    """Training cases by what is known of them.

    Returns:
        `labeled`: with a label or image class; `weak`: with tags alone; `unlabeled`: with neither; `all`: every one.
    """
    without = [case for case in manifest.training if not case.is_labelled]
    return {
        "labeled": [case for case in manifest.training if case.is_labelled],
        "weak": [case for case in without if case.tags is not None],
        "unlabeled": [*(case for case in without if case.tags is None), *manifest.unlabeled],
        "all": [*manifest.training, *manifest.unlabeled],
    }
