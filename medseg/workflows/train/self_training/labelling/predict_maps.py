"""The networks that a rule works on, and what the method's maps are of one case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medseg.bundle.runner import prediction_errors, read_image
from medseg.data.preprocessing_config import instantiate, preprocessing
from medseg.errors import DataError, OutputError
from medseg.manifest.manifest import Case, Manifest
from medseg.portable.geometry import along, check_offset
from medseg.portable.inference.label_sink import ProbabilityFile
from medseg.portable.inference.sliding_window import MapInferer
from medseg.portable.io.read import read_header, read_volume
from medseg.records import digest_of, hash_of
from medseg.stream import SeesCases, number_of_case
from medseg.workflows.train.stages.build import StageResult
from medseg.workflows.train.stages.maps import SavedMaps, TrainedMaps

IMAGE = "image"
"""Name by which a rule asks for the image itself."""


@dataclass(frozen=True)
class Predictors:
    """What predicts for a rule.

    Args:
        bundle: of the segmenters of all views; None: the method makes none.
        maps: of the method, one for each view; none where the rule does not ask for them.
    """

    bundle: Path | None
    maps: tuple[SavedMaps, ...] = ()

    @classmethod
    def of_stage(cls, result: StageResult) -> Predictors:
        """Those that a stage made."""
        is_bundle = (result.bundle / "configs" / "metadata.json").is_file()
        return cls(result.bundle if is_bundle else None, result.maps)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all weights."""
        of_bundle = digest_of(self.bundle) if self.bundle else None
        if of_bundle and not self.maps:
            return of_bundle
        return hash_of([of_bundle, [digest_of(each.path) for each in self.maps]])


class MapPredictor:
    """Runs the maps of a method on whole images, by a sliding window.

    Args:
        maps: of the views, which see the same data.
        device: of the networks.
    """

    def __init__(self, maps: Sequence[SavedMaps | TrainedMaps], device: torch.device) -> None:
        self.modules = [(each.data, each.open().to(device)) for each in maps]
        self.preprocessing = instantiate(preprocessing(maps[0].data))

    def __call__(self, images: Sequence[Path], folder: Path, case: str | None = None) -> list[Tensor]:
        """For each view the maps `(K, X, Y, Z)` float16 on the grid of the image's file, mapped from a file.

        Args:
            images: one file, or one for each channel.
            folder: of the files.
            case: its name; None: it is none of the training.

        Raises:
            DataError: the image cannot be read, or maps of it are not finite.
            OutputError: there is no room for the files.
        """
        found = []
        try:
            with prediction_errors(images[0]):
                image = read_image(self.preprocessing, images)
                for number, (data, module) in enumerate(self.modules):
                    _tell_case(module, None if case is None else number_of_case(case))
                    inferer = MapInferer(data.patch, data.overlap, context=data.context, padding=data.padding)
                    file = ProbabilityFile(folder / f"maps{number}.bin", np.float16)
                    inferer.values = file.make
                    inferer(image, module)
                    found.append(torch.from_numpy(file.array))
        except OSError as error:
            place = error.filename or folder
            raise OutputError(f"cannot be written ({error.strerror or error})", path=place) from error
        return found


def _tell_case(module: nn.Module, number: int | None) -> None:
    """Tell the parts that ask for it of which case the next image is."""
    for part in module.modules():
        if isinstance(part, SeesCases):
            part.see_case(number)


def read_inputs(manifest: Manifest, case: Case, names: Sequence[str]) -> Mapping[str, Tensor]:
    """The files that a rule asks for, as they are stored, along the axes of the image's file.

    Args:
        manifest: of the case.
        case: one.
        names: of its maps, and "image".

    Returns:
        Name -> map `(X, Y, Z)`, or the image `(C, X, Y, Z)`, float32.

    Raises:
        DataError: a file that cannot be read, or a map on another grid than its image.
    """
    images = manifest.images(case)
    found = {}
    for name in names:
        if name == IMAGE:
            channels = np.concatenate([read_volume(path)[0] for path in images])
            found[name] = torch.from_numpy(np.ascontiguousarray(channels, np.float32))
            continue
        path = manifest.resolve(case.maps[name])
        stored, header = read_volume(path)
        if len(stored) != 1:
            raise DataError(f"has {len(stored)} channels; a map has one", path=path)
        grid = read_header(images[0])
        check_offset(grid, header)
        moved = along(grid, header, stored[0])[0]
        found[name] = torch.from_numpy(np.ascontiguousarray(moved, np.float32))
    return found
