"""One case from its files to network input, with every check that needs its voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medseg.config.pipeline import DataSpec
from medseg.data.cached_volume import Content
from medseg.data.preprocessing_config import instantiate, preprocessing
from medseg.errors import DataError
from medseg.method import IGNORE
from medseg.ops.tags.saliency import saliency_of
from medseg.ops.tags.saliency_values import SALIENCY_MAPS
from medseg.portable.geometry import check_offset
from medseg.portable.io.header import Header, checked_spacing
from medseg.portable.io.labels import refuse_grey_levels, refuse_lossy, whole_numbers
from medseg.portable.io.read import read_volume

PICTURES = (".png", ".tif", ".tiff")

ROUNDED, SHIFTED = "rounded", "shifted"
"""Kinds of notes."""


@dataclass(frozen=True)
class Job:
    """A case to preprocess; travels to worker processes.

    Args:
        name: of the case.
        images: one file, or one per channel.
        label: its label, or None.
        spec: spacing, intensity rule, labels and modalities.
        ignore: value in the label file that says "not annotated".
        covered: for each class whether the label tells it apart; None: all. Voxels of the others become background.
        maps: name and file of maps on the image's grid.
        image_class: index of the class of every voxel, in the place of a label; None: there is none.
        pseudo: whether a rule made the label, which may ignore every voxel: tags and maps of the case still teach.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    spec: DataSpec
    ignore: int = IGNORE
    covered: tuple[bool, ...] | None = None
    maps: tuple[tuple[str, Path], ...] = ()
    image_class: int | None = None
    pseudo: bool = False

    @property
    def is_labelled(self) -> bool:
        """Whether what is made of it has a label."""
        return self.label is not None or self.image_class is not None


def prepare(job: Job) -> Content:
    """Read a case and bring it to the plan's grid and intensities, image and label together.

    A label that is stored flipped or with its axes in another order is brought over exactly.

    Raises:
        DataError: a file that cannot be used, label values that the manifest does not know, or a label that
            is not on its image's grid.
    """
    item: dict = {"image": [str(p) for p in job.images] if len(job.images) > 1 else str(job.images[0])}
    if job.label is not None:
        item["label"] = str(job.label)
    for name, file in job.maps:
        item[name] = str(file)
    maps = [name for name, _ in job.maps]
    load, orient, *rest = instantiate(preprocessing(job.spec, tuple(item), maps=maps)).transforms
    item = load(item)
    image = item["image"]
    if image.shape[0] != len(job.spec.modality):
        raise DataError(
            f"has {image.shape[0]} channels, the manifest's modality names {len(job.spec.modality)}",
            path=job.images[0],
        )
    notes: dict[str, str] = {}
    if job.label is not None:
        item["label"], notes[ROUNDED] = _indices(item["label"], job, job.label)
    _scale_saliency(item, job)
    item = orient(item)
    others = [("label", job.label)] if job.label is not None else []
    for name, file in (*others, *job.maps):
        notes[SHIFTED] = _check_geometry(item["image"], item[name], job.images[0], file) or notes.get(SHIFTED, "")
        item[name].affine = item["image"].affine  # so that all are resampled to the same voxels
    for transform in rest:
        item = transform(item)
    return replace(_content(item, job), notes={kind: text for kind, text in notes.items() if text})


def _scale_saliency(item: dict, job: Job) -> None:
    """Bring maps of saliency that are stored in 8 bits to 0 to 1, before they are resampled."""
    for name, file in job.maps:
        if name in SALIENCY_MAPS:
            item[name].set_array(saliency_of(item[name].as_tensor(), str(file)))


def _indices(label: MetaTensor, job: Job, file: Path) -> tuple[MetaTensor, str]:
    """Label values to class indices `(1, X, Y, Z)` uint8, 255 = ignore, and a note on what was odd."""
    refuse_lossy(file)
    if str(file).lower().endswith(PICTURES):  # the first transform reads colours, and knows of no labels
        array, _ = read_volume(file, indices=True)
        label = MetaTensor(torch.from_numpy(array), meta=label.meta, applied_operations=label.applied_operations)
    accepted = f"accepted are {_listed(job.spec.label_values)} and {job.ignore} to ignore"
    if label.shape[0] != 1:
        raise DataError(
            f"has {label.shape[0]} channels; a label has one",
            path=job.label,
            hint="save one class map per file",
        )
    whole, note = whole_numbers(label.as_tensor().numpy(), file)
    refuse_grey_levels(whole, file)
    values = torch.from_numpy(whole).float()
    accepted_values = {*job.spec.label_values, job.ignore}
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= IGNORE:  # one pass, as nearly always
        found = np.bincount(values.byte().numpy().reshape(-1), minlength=IGNORE + 1).nonzero()[0].tolist()
    else:
        found = [int(v) for v in values.unique().tolist()]
    strange = [value for value in found if value not in accepted_values]
    if strange:
        raise DataError(
            f"holds {_listed(strange[:8])}, which the manifest does not name; {accepted}",
            path=job.label,
            hint="name them in the manifest's labels",
        )
    if found == [job.ignore] and not job.pseudo:
        raise DataError(
            "every voxel is ignored: nothing to learn from", path=job.label, hint="list the case under unlabeled"
        )
    table = torch.full((IGNORE + 1,), IGNORE, dtype=torch.uint8)
    told = _told_values(job)
    for index, value in enumerate(job.spec.label_values):
        table[value] = index if value in told else 0
    small = values.masked_fill(values == job.ignore, IGNORE).byte()
    indices = MetaTensor(table[small.int()], meta=label.meta, applied_operations=label.applied_operations)
    return indices, f"{file}: {note}" if note else ""


def _told_values(job: Job) -> set[int]:
    """The label values of which the label tells where they are: those of the classes that it covers."""
    if job.covered is None:
        return set(job.spec.label_values)
    told: set[int] = set()
    for is_covered, value in zip(job.covered, job.spec.label_values, strict=True):
        if is_covered:
            told.update(job.spec.members.get(value, (value,)))
    return told


def _check_geometry(image: MetaTensor, label: MetaTensor, image_file: Path, file: Path) -> str:
    """Refuse a label or map of another grid, both in RAS+ order already; a note on one that lies slightly off."""
    note = check_offset(_placed(image, image_file), _placed(label, file))
    return f"{file}: {note}" if note else ""


def _placed(volume: MetaTensor, file: Path) -> Header:
    affine = volume.affine.double().numpy()
    dtype = np.dtype(np.float32)  # not asked for
    return Header(file, tuple(volume.shape[1:]), volume.shape[0], affine, checked_spacing(affine), dtype)


def _content(item: dict, job: Job) -> Content:
    image = item["image"].as_tensor().half()
    if not bool(torch.isfinite(image).all()):
        count = int((~torch.isfinite(image)).sum())
        raise DataError(
            f"{count} voxels are NaN or infinite after preprocessing",
            path=job.images[0],
            hint="mend the image",
        )
    label: Tensor | None = item["label"].as_tensor().to(torch.uint8) if "label" in item else None
    if job.image_class is not None:
        label = torch.full((1, *image.shape[1:]), job.image_class, dtype=torch.uint8)
    maps = {}
    for name, file in job.maps:
        values = item[name].as_tensor()
        if values.shape[0] != 1 or not bool(torch.isfinite(values).all()):
            raise DataError(f"is no map of finite numbers with one channel, but has {values.shape[0]}", path=file)
        maps[name] = np.ascontiguousarray(values[0].half().numpy())
    return Content(
        image=np.ascontiguousarray(image.numpy()),
        label=None if label is None else np.ascontiguousarray(label[0].numpy()),
        affine=item["image"].affine.double().numpy(),
        maps=maps,
    )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(str(v if isinstance(v, int) else np.float32(v)) for v in values)
