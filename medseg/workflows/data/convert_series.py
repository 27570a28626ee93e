"""DICOM as NIfTI files beside a manifest: series as images, SEG and RTSTRUCT as labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import make_folder
from medseg.dicom.scan.series import Series, open_series
from medseg.errors import ConfigError, DataError
from medseg.manifest.manifest import Manifest
from medseg.portable.io.channel_names import listed
from medseg.portable.io.read import read_volume
from medseg.portable.io.write import write_labels, write_nifti
from medseg.progress import say
from medseg.workflows.data.layouts.found import ANNOTATION, name_of


def convert_series(cases: Sequence[dict[str, Any]], source: Path, folder: Path) -> None:
    """Write each image that is a folder of DICOM as NIfTI on its own grid, and let the case have that file.

    Args:
        cases: of which the images are looked at.
        source: that paths are relative to.
        folder: of the files that are written.

    Raises:
        ConfigError: the extra `dicom` is not installed.
        DataError: a folder is no series; or a file that was made of another series has the name.
        OutputError: a file cannot be written.
    """
    count = 0
    for case in cases:
        if not any((source / image).is_dir() for image in case["image"]):
            continue
        name = name_of(case)
        written = []
        for number, image in enumerate(case["image"]):
            ending = f"_{number:04d}" if len(case["image"]) > 1 else ""
            path = _write(open_series(source / image), make_folder(folder) / f"{name}{ending}.nii.gz")
            written.append(Manifest.relative(path, source))
        case["image"] = written
        case.setdefault("case", name)
        count += 1
    if count:
        say(f"{count} DICOM series were written as NIfTI into {folder}")


def _write(series: Series, path: Path) -> Path:
    """The series as a file, which is kept where it is there already.

    Raises:
        DataError: another image is there.
    """
    voxels, header = series.voxels()[0], series.header
    if path.exists():
        before, placed = read_volume(path)
        is_same = before[0].shape == voxels.shape and np.array_equal(before[0], voxels)
        if not is_same or not np.allclose(placed.affine, header.affine, atol=1e-3):
            what = "is there already and is another image than the series"
            raise DataError(f"{what} {header.path}", path=path, hint="name another --output, or remove it")
        return path
    write_nifti(path, voxels, header.affine, source=b"")
    return path


def write_annotations(
    cases: Sequence[dict[str, Any]], given: Mapping[int, str], images: Mapping[str, Path], source: Path, folder: Path
) -> dict[str, str]:
    """Write each SEG or RTSTRUCT as a label file on its image's grid, and let the case have that file.

    Args:
        cases: those with the key `ANNOTATION` get a `label` in its place.
        given: value -> name of the structures to take; empty: all, in the order of their names.
        images: name of a case -> folder of its series.
        source: that paths are relative to.
        folder: of the label files.

    Returns:
        Value -> name, the background with them.

    Raises:
        ConfigError: a structure that is wanted is in no file.
        DataError: a file is damaged or annotates another image.
    """
    from medseg.consensus.io.read_study import read_study

    mine = [case for case in cases if ANNOTATION in case]
    studies = []
    for case in mine:
        study, form = read_study(images[case["case"]], [case.pop(ANNOTATION)])
        studies.append((study, form))
    there = sorted({name for study, _ in studies for name in study.classes[1:]})
    wanted = {value: name for value, name in given.items() if value} or dict(enumerate(there, start=1))
    unknown = [name for name in wanted.values() if name not in there]
    if unknown:
        raise ConfigError(f"--label names {unknown[0]}, which no DICOM file has; there are {listed(there)}")
    values = {name: value for value, name in sorted(wanted.items())}
    make_folder(folder)
    for case, (study, form) in zip(mine, studies, strict=True):
        table = np.zeros(256, np.uint8)
        for index, name in enumerate(study.classes):
            table[index] = values.get(name, 0)
        path = folder / f"{case['case']}.nii.gz"
        write_labels(path, table[study.raters[0].labels], form.grid.affine, source=b"")
        case["label"] = Manifest.relative(path, source)
        absent = [name for name in values if name not in study.classes]
        if absent:
            case["classes"] = [name for name in values if name in study.classes]
            say(f"warning: {case['case']} has no {listed(absent)}, which counts as 'not annotated'")
    return {"0": given.get(0, "background"), **{str(value): name for name, value in values.items()}}
