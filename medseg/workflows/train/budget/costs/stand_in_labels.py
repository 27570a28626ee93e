"""The data set that a later stage will find, with made-up labels in the place of those that rules are to make.

What a stage costs is measured before anything is trained, when there are no pseudo-labels yet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg import methods
from medseg.atomic import make_folder
from medseg.config.pipeline import Pipeline
from medseg.manifest.case import Case
from medseg.manifest.labelling import cases_to_label, is_pseudo
from medseg.manifest.manifest import Manifest, streams_of
from medseg.portable.io.read import read_header
from medseg.portable.io.write import is_flat, write_nifti

MOST = 16
"""Cases that get a made-up label: steps are as long with more of them."""


def with_stand_ins(pipeline: Pipeline, index: int, manifest: Manifest, folder: Path) -> Manifest:
    """The data set of a stage.

    Args:
        pipeline: planned.
        index: of the stage.
        manifest: the data set of the first stage.
        folder: of the made-up labels.
    """
    for stage in pipeline.stages[:index]:
        if stage.then is None:
            continue
        cases = [case for case in cases_to_label(streams_of(manifest), stage.then.cases) if not is_pseudo(case)]
        makes = methods.find_rule(stage.then.rule.name).makes
        named = {case.name: _with_label(manifest, case, makes, make_folder(folder)) for case in cases[:MOST]}
        training = [case for case in manifest.training if case.name not in named]
        unlabeled = [case for case in manifest.unlabeled if case.name not in named]
        changes = {"training": (*training, *named.values()), "unlabeled": tuple(unlabeled)}
        manifest = manifest.model_copy(update=changes)
    return manifest


def _with_label(manifest: Manifest, case: Case, makes: tuple[str, ...], folder: Path) -> Case:
    """The case with a label that has a stripe of each class."""
    image = manifest.images(case)[0]
    grid = read_header(image)
    values = np.array(manifest.label_values, np.uint8)
    stripes = values[np.arange(grid.shape[0]) * len(values) // grid.shape[0]]
    label = np.broadcast_to(stripes[:, None, None], grid.shape)
    files = {}
    arrays: dict[str, np.ndarray] = {"label": label, **{name: label.astype(np.float32) for name in makes}}
    for name, array in arrays.items():
        files[name] = folder / f"{case.name}_{name}.nii.gz"
        flat = array[..., 0] if is_flat(image, array.shape) else array
        write_nifti(files[name], np.asfortranarray(flat), grid.affine, source=grid.nifti)
    paths = {name: manifest.relative(file.absolute(), manifest.path.parent) for name, file in files.items()}
    fields = case.model_dump(exclude_unset=True, exclude={"annotations", "classes"})
    fields |= {"case": case.name, "label": paths.pop("label"), "pseudo": True, "maps": {**case.maps, **paths}}
    return Case(**fields)
