"""What there is to predict: the cases of a manifest, a folder or a single file, checked before any work is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.atomic import folds_case, real_path, same_name
from medseg.dicom.availability import holds_dicom, is_dicom_file
from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.fields import is_picture, unknown_lists
from medseg.manifest.manifest import SECTIONS, Manifest
from medseg.portable.io.find_cases import find_cases
from medseg.portable.io.read import SUFFIXES
from medseg.progress import say

if TYPE_CHECKING:
    from medseg.dicom.scan.series import Series

DICOM_RESULTS = {".dcm": "dicom-seg", ".rtstruct.dcm": "rtstruct"}
"""Endings of results that refer to DICOM images, and what the formats are called."""

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")  # pictures among DICOM files are previews

PROBABILITIES = "probabilities"  # folder of theirs in the output folder
OVERLAYS = "overlays"

AS_PNG = (".png", ".jpg", ".jpeg")
"""Endings of images whose results are PNG unless something else is asked for."""

LONGEST_NAME = 255  # bytes of a file name on every common file system


@dataclass(frozen=True)
class Item:
    """One case.

    Attributes:
        name: of the case.
        images: files of its image, one per channel or one for all; or the folder (or file) of a DICOM series.
        dicom: whether it is DICOM.
        uid: of the series; None: the only volume there.
        suffix: ending of its result.
        modalities: of its channels, as its manifest says; empty: it is of none, or that says nothing.
    """

    name: str
    images: tuple[Path, ...]
    dicom: bool = False
    uid: str | None = None
    suffix: str = ".nii.gz"
    modalities: tuple[str, ...] = ()

    @property
    def result(self) -> str:
        """File name of its labels."""
        return f"{self.name}{self.suffix}"

    @property
    def is_picture(self) -> bool:
        """Whether it is an image of pixels without a spacing, and no volume."""
        return not self.dicom and all(is_picture(path) for path in self.images)

    @property
    def overlay(self) -> str:
        """File name of the image with its labels drawn over it."""
        return f"{self.name}.png"

    @property
    def probabilities(self) -> str:
        """File name of its probabilities."""
        return f"{self.name}.nii.gz"

    @property
    def identity(self) -> list[str]:
        """What tells its image from others: where its files are, and the series that was asked for."""
        places = [str(real_path(path)) for path in self.images]
        return [*places, f"series {self.uid}"] if self.uid else places

    def reads(self, path: Path) -> bool:
        """Whether a file is one of its image's.

        Raises:
            ConfigError, DataError: it is DICOM and cannot be opened.
        """
        files = self.series.files if self.dicom else self.images
        return real_path(path) in [real_path(file) for file in files]

    @cached_property
    def series(self) -> Series:
        """The DICOM series.

        Raises:
            ConfigError: the extra `dicom` is not installed.
            DataError: it is no volume, or there are several.
        """
        from medseg.dicom.scan.series import open_series

        return open_series(self.images[0], self.uid)


def collect(
    inputs: Path, output: Path, *, channels: int, section: str | None = None, uid: str | None = None,
    suffix: str | None = ".nii.gz",
) -> list[Item]:  # fmt: skip
    """The cases of `inputs`, none of which a result in `output` would overwrite.

    A folder that holds DICOM files is one case; a folder of such folders has one case in each.

    Args:
        inputs: an image, a folder of images, a DICOM series, a folder of such folders, or a manifest (`.json`).
        output: folder of the results.
        channels: that the model takes.
        section: list of the manifest; None: `test`, or all of them where there is no test case.
        uid: of the DICOM series to take; `inputs` is one case then.
        suffix: ending of the results; None: `.png` of PNG and JPEG images, else `.nii.gz`.

    Raises:
        DataError, ManifestError, ConfigError: nothing to predict, or not so.
    """
    if not inputs.exists():
        raise DataError("does not exist", path=inputs, hint="give an image, a folder of images, or a manifest")
    if inputs.suffix.lower() == ".json" and inputs.is_file():
        items = _of_manifest(Manifest.load(inputs), section, channels)
    elif section is not None:
        raise ConfigError(f"--section {section} needs a manifest, and {inputs} is none")
    elif cases := _dicom_cases(inputs, one=uid is not None):
        items = _of_dicom(cases, channels, uid)
    elif uid is not None:
        raise ConfigError(f"--series {uid} needs DICOM, and {inputs} holds none")
    else:
        try:
            found = find_cases(inputs, channels)
        except ValueError as error:
            raise DataError(str(error), path=inputs) from error
        items = [Item(str(case["case"]), _paths(case["image"])) for case in found]
    if suffix in DICOM_RESULTS and not all(item.dicom for item in items):
        asked = f"--format {DICOM_RESULTS[suffix]}"
        raise ConfigError(f"{asked} refers to the DICOM images it was made of, and {inputs} is no DICOM")
    volumes = [item for item in items if not item.is_picture]
    if suffix == ".png" and volumes:
        what = f"--format png is for 2D images (PNG, JPEG, TIFF), and {volumes[0].images[0]} is none"
        raise ConfigError(what, hint="leave --format out")
    items = [replace(item, suffix=suffix or _usual_suffix(item, output)) for item in items]
    _refuse_overwriting(items, inputs, output)
    _refuse_same_results(items, output)
    return items


def _usual_suffix(item: Item, output: Path) -> str:
    """PNG of PNG and JPEG, else NIfTI, also where an earlier version wrote NIfTI of such an image."""
    is_plain = not item.dicom and all(path.name.lower().endswith(AS_PNG) for path in item.images)
    png, nifti = output / f"{item.name}.png", output / f"{item.name}.nii.gz"
    return ".png" if is_plain and (png.exists() or not nifti.exists()) else ".nii.gz"


def targets(item: Item, output: Path, *, probabilities: bool) -> list[Path]:
    """Files in `output` that a case's results are written to."""
    files = [output / item.result]
    return [*files, output / PROBABILITIES / item.probabilities] if probabilities else files


def _dicom_cases(inputs: Path, *, one: bool) -> list[Path]:
    """Folders (or the file) of the DICOM cases; none where images of other formats lie, or no DICOM at all."""
    if inputs.is_file():
        known = inputs.name.lower().endswith(SUFFIXES)
        return [inputs] if not known and is_dicom_file(inputs) else []
    files = sorted(path for path in inputs.iterdir() if path.is_file() and not path.name.startswith("."))
    if holds_dicom(inputs):
        if volumes := [path.name for path in files if path.name.lower().endswith(VOLUMES)]:
            raise DataError(
                f"holds DICOM files and {len(volumes)} volumes such as {volumes[0]}", path=inputs,
                hint="say which by giving a file, or a folder of one kind",
            )  # fmt: skip
        return [inputs]
    if any(path.name.lower().endswith(SUFFIXES) for path in files):
        return []
    below = sorted(path for path in inputs.iterdir() if path.is_dir() and not path.name.startswith("."))
    cases = [path for path in below if holds_dicom(path, deep=True)]
    return [inputs] if cases and (one or _share_a_series(cases)) else cases


def _share_a_series(folders: Sequence[Path]) -> bool:
    """Whether a series is spread over several folders, as some exports do."""
    from medseg.dicom.scan.find_series import first_series

    uids = []
    for folder in folders:
        with suppress(DataError):  # told when its turn comes
            uids.append(first_series(folder))
    return len(set(uids)) < len(uids)


def _of_dicom(cases: Sequence[Path], channels: int, uid: str | None) -> list[Item]:
    """Each with its own name; a single one is opened now, since what is wrong with it ends the command."""
    if channels != 1:
        raise DataError(
            f"is DICOM, one series for a case; the model takes {channels} channels", path=cases[0],
            hint="convert the series to files named CASE_0000, CASE_0001, ...",
        )  # fmt: skip
    items = [Item(_case_name(path), (path,), dicom=True, uid=uid) for path in cases]
    if len(items) == 1:
        _ = items[0].series
    return items


def _case_name(path: Path) -> str:
    name = Path(os.path.abspath(path)).name  # a link is called as the user calls it
    return name.removesuffix(path.suffix) if path.is_file() else name


def _paths(image: str | Sequence[str]) -> tuple[Path, ...]:
    return (Path(image),) if isinstance(image, str) else tuple(map(Path, image))


def _of_manifest(manifest: Manifest, section: str | None, channels: int) -> list[Item]:
    if section is not None and section not in SECTIONS:
        raise ConfigError(f"section {section!r} is not known; one of {', '.join(SECTIONS)}")
    if manifest.channels != channels:
        raise ManifestError(
            f"has images of {manifest.channels} channels, the model takes {channels}", path=manifest.path
        )
    for key in unknown_lists(manifest.model_extra):
        say(f"warning: {manifest.path}: the list '{key}' is not known and passed over; known are {', '.join(SECTIONS)}")
    sections = [section] if section else (["test"] if manifest.test else list(SECTIONS))
    if section is None and not manifest.test and manifest.training:
        say(f"{manifest.path}: has no test cases, so that all are predicted, those of training too")
    modalities = tuple(manifest.modality.values())
    items = []
    for each in sections:
        for case in getattr(manifest, each):
            items.append(Item(case.name, manifest.images(case), modalities=modalities))
    if not items:
        raise ManifestError(f"has no case under {' or '.join(sections)}", path=manifest.path)
    return items


def _refuse_overwriting(items: Sequence[Item], inputs: Path, output: Path) -> None:
    if inputs.is_dir() and real_path(output) == real_path(inputs):
        raise ConfigError(f"{output} is the folder of the images; choose another --output")
    images = {real_path(path) for item in items for path in item.images}
    for item in items:
        if real_path(output / item.result) in images:
            raise ConfigError(f"the result {output / item.result} would overwrite an image; choose another --output")


def _refuse_same_results(items: Sequence[Item], output: Path) -> None:
    """Two names may be one on a disk that does not tell capital letters from small ones."""
    one_name = same_name if folds_case(output) else str
    seen: dict[str, Item] = {}
    for item in items:
        other = seen.setdefault(one_name(item.result), item)
        if other is not item:
            raise ConfigError(
                f"{other.images[0]} and {item.images[0]} would both have the result {output / item.result}",
                hint="rename one of them, or predict them into two folders",
            )


def share(items: Sequence[Item], shard: int, num_shards: int) -> list[Item]:
    """The cases that one of several commands does.

    Raises:
        ConfigError: `shard` is none of 0 ... num_shards - 1.
    """
    if num_shards < 1 or not 0 <= shard < num_shards:
        raise ConfigError(f"--shard {shard} of --num-shards {num_shards}: shards are counted from 0")
    return list(items[shard::num_shards])
