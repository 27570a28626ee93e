"""What there is to predict: the cases of a manifest, a folder or a single file, checked before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest import SECTIONS, Manifest
from medseg.portable.cases import find_cases

LONGEST_NAME = 255  # bytes of a file name on every common file system


@dataclass(frozen=True)
class Item:
    """One case: its name and the files of its image, one per channel or one for all."""

    name: str
    images: tuple[Path, ...]

    @property
    def result(self) -> str:
        """File name of its labels."""
        return f"{self.name}.nii.gz"


def collect(inputs: Path, output: Path, *, channels: int, section: str | None = None) -> list[Item]:
    """The cases of `inputs`, none of which a result in `output` would overwrite.

    Args:
        inputs: an image, a folder of images, or a manifest (`.json`).
        output: folder of the results.
        channels: that the model takes.
        section: list of the manifest; None: `test`, or all of them where there is no test case.

    Raises:
        DataError, ManifestError, ConfigError: nothing to predict, or not so.
    """
    if not inputs.exists():
        raise DataError("does not exist", path=inputs, hint="give an image, a folder of images, or a manifest")
    if inputs.suffix.lower() == ".json" and inputs.is_file():
        items = _of_manifest(Manifest.load(inputs), section, channels)
    elif section is not None:
        raise ConfigError(f"--section {section} needs a manifest, and {inputs} is none")
    else:
        try:
            found = find_cases(inputs, channels)
        except ValueError as error:
            raise DataError(str(error), path=inputs) from error
        items = [Item(str(case["case"]), _paths(case["image"])) for case in found]
    _refuse_overwriting(items, inputs, output)
    return items


def _paths(image: str | Sequence[str]) -> tuple[Path, ...]:
    return (Path(image),) if isinstance(image, str) else tuple(map(Path, image))


def _of_manifest(manifest: Manifest, section: str | None, channels: int) -> list[Item]:
    if section is not None and section not in SECTIONS:
        raise ConfigError(f"section {section!r} is not known; one of {', '.join(SECTIONS)}")
    if manifest.channels != channels:
        raise ManifestError(
            f"has images of {manifest.channels} channels, the model takes {channels}", path=manifest.path
        )
    sections = [section] if section else (["test"] if manifest.test else list(SECTIONS))
    items = [Item(case.name, manifest.images(case)) for s in sections for case in getattr(manifest, s)]
    if not items:
        raise ManifestError(f"has no case under {' or '.join(sections)}", path=manifest.path)
    return items


def _refuse_overwriting(items: Sequence[Item], inputs: Path, output: Path) -> None:
    if inputs.is_dir() and output.resolve() == inputs.resolve():
        raise ConfigError(f"{output} is the folder of the images; choose another --output")
    images = {path.resolve() for item in items for path in item.images}
    for item in items:
        if (output / item.result).resolve() in images:
            raise ConfigError(f"the result {output / item.result} would overwrite an image; choose another --output")


def share(items: Sequence[Item], shard: int, num_shards: int) -> list[Item]:
    """The cases that one of several commands does.

    Raises:
        ConfigError: `shard` is none of 0 ... num_shards - 1.
    """
    if num_shards < 1 or not 0 <= shard < num_shards:
        raise ConfigError(f"--shard {shard} of --num-shards {num_shards}: shards are counted from 0")
    return list(items[shard::num_shards])
