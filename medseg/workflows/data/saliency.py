"""`medseg data saliency`: a saliency map for each case, and a manifest that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import check_writable, make_folder, real_path, write_whole
from medseg.engine import distributed
from medseg.errors import ConfigError, ManifestError, OutputError
from medseg.manifest.json_file import write_json
from medseg.manifest.manifest import SECTIONS, Case, Manifest
from medseg.manifest.splits import with_lists
from medseg.options import api, plain
from medseg.portable.io.read import read_header
from medseg.portable.io.write import SaveError, is_flat, write_nifti
from medseg.progress import say, show_progress
from medseg.records import Record, digest_of
from medseg.workflows.data.options import SaliencyOptions
from medseg.workflows.data.saliency_check import LEAST_RECALL, SALIENT, draw_sheet, measure, summarize_saliency
from medseg.workflows.data.saliency_sources import source_of_saliency

MAP = "saliency"
MANIFEST = "manifest.json"
STEPS = 255


def run_saliency(options: SaliencyOptions) -> dict[str, Any]:
    """Compute the saliency of every case of a manifest; what is done is not done again.

    Args:
        options: `output` gets `CASE.nii.gz`, whole numbers from 0 to 255, on the grid of each image;
            `manifest.json`, the manifest with `maps: {saliency: ...}` and with the validation cases of
            `with_validation`, if they are asked for; `overview.png`, some images with their saliency;
            `saliency.json`, what is returned.

    Returns:
        `cases`, `empty` (share of maps that are 0 everywhere), `salient` (share of voxels above 0.06), and where labels
        are known `recall`, `precision` and `iou` of these, see `saliency_check.summarize_saliency`.

    Raises:
        ConfigError: the output folder is that of the manifest.
        DataError: an image that cannot be read.
        ManifestError: a manifest that cannot be used.
        OutputError: a place where nothing can be written.
    """
    manifest = Manifest.load(options.manifest)
    folder = options.output.absolute()
    if folder / MANIFEST == manifest.path:
        raise ConfigError("the new manifest would overwrite the given one", path=folder, hint="name another --output")
    check_writable(folder)
    masks = label_files(manifest, options.masks)
    make_folder(folder)
    device = distributed.setup(options.device)
    cases = manifest.cases
    measured = []
    with source_of_saliency(options, manifest, device) as source, show_progress("saliency") as progress:
        for number, case in enumerate(cases):
            progress(number, len(cases))
            file = folder / f"{case.name}.nii.gz"
            _compute(manifest, case, file, options, source)
            measured.append(measure(manifest, case, file, masks.get(str(real_path(manifest.images(case)[0])))))
    found = summarize_saliency(measured)
    write_json(folder / "saliency.json", {"options": plain(options), **found})
    write_whole(folder / "overview.png", draw_sheet(manifest, cases, folder))
    made = with_maps(manifest, folder)
    if options.validation:
        made = with_validation(made, masks)
    made.save(folder / MANIFEST)
    _tell(found)
    return found


compute_saliency = api(SaliencyOptions, run_saliency)


def label_files(manifest: Manifest, masks: Path | None) -> dict[str, tuple[Manifest, Case]]:
    """Image file -> the manifest and case that know its label.

    Args:
        manifest: whose labelled cases are among them.
        masks: another manifest.

    Raises:
        ManifestError: `masks` has no label of any of the images.
    """
    found: dict[str, tuple[Manifest, Case]] = {}
    images = {str(real_path(manifest.images(case)[0])) for case in manifest.cases}
    for each in [manifest] + ([] if masks is None else [Manifest.load(masks)]):
        before = len(found)
        for case in each.cases:
            image = str(real_path(each.images(case)[0]))
            if case.label is not None and image in images:
                found[image] = (each, case)
        if each is not manifest and len(found) == before:
            raise ManifestError("has no label of any image of the other manifest", path=each.path)
    return found


def _compute(manifest: Manifest, case: Case, file: Path, options: SaliencyOptions, source: Any) -> None:
    """Write the saliency of a case, unless an earlier command has."""
    images = manifest.images(case)
    presence = manifest.presence(case)
    is_negative = options.empty and presence is not None and len(presence) == _structures(manifest)
    is_negative = is_negative and not any((presence or {}).values())
    inputs: dict[str, Any] = {"images": [digest_of(path) for path in images]}
    for name in ("weights", "model"):
        path = getattr(options, name)
        if path is not None and options.kind == {"weights": "features"}.get(name, name):
            inputs[name] = digest_of(path)
    settings = {"kind": options.kind, "size": options.size, "negative": is_negative}
    record = Record(file.with_name(f"{case.name}.json"), inputs=inputs, settings=settings, products=(file,))
    if record.notes() is not None:
        return
    record.begin()
    grid = read_header(images[0])
    saliency = np.zeros(grid.shape, np.float32) if is_negative else source(images)
    stored = stored_saliency(saliency)
    if is_flat(images[0], stored.shape):
        stored = stored[..., 0]
    try:
        write_nifti(file, stored, grid.affine, source=grid.nifti, description="medseg saliency, 0 to 255")
    except SaveError as error:
        raise OutputError(error.problem, path=file, hint="free some space; the same command goes on here") from error
    record.finish({"empty": not bool(stored.any())})


def stored_saliency(saliency: np.ndarray) -> np.ndarray:
    """Saliency in [0, 1] as whole numbers from 0 to 255.

    Where none is larger than 1 of 255 it is 0 everywhere: a file with a maximum of 1 is read as 0 to 1.
    """
    stored = np.rint(STEPS * saliency).astype(np.uint8)
    return stored if stored.max(initial=0) > 1 else np.zeros_like(stored)


def _structures(manifest: Manifest) -> int:
    return len(manifest.labels) - int(manifest.has_background)


def with_maps(manifest: Manifest, folder: Path) -> Manifest:
    """The manifest with the saliency of each case, which lies in a folder."""
    lists = {}
    for section in SECTIONS:
        cases: Sequence[Case] = getattr(manifest, section)
        changed = []
        for case in cases:
            file = Manifest.relative(folder / f"{case.name}.nii.gz", manifest.path.parent)
            changed.append(case.model_copy(update={"maps": {**case.maps, MAP: file}}))
        lists[section] = tuple(changed)
    return with_lists(manifest, lists)


def with_validation(manifest: Manifest, masks: Mapping[str, tuple[Manifest, Case]]) -> Manifest:
    """The manifest whose training cases with tags alone are validation cases where a label is known.

    Args:
        manifest: of the images.
        masks: image file -> the manifest and case that know its label.

    Raises:
        ManifestError: labels with other values or names than the manifest's.
    """
    kept, moved = [], []
    for case in manifest.training:
        known = masks.get(str(real_path(manifest.images(case)[0])))
        if case.is_labelled or known is None:
            kept.append(case)
            continue
        other, of_other = known
        if other.labels != manifest.labels:
            raise ManifestError(f"has the labels {other.labels}; accepted are {manifest.labels}", path=other.path)
        label = Manifest.relative(other.resolve(str(of_other.label)), manifest.path.parent)
        moved.append(case.model_copy(update={"label": label, "classes": of_other.classes}))
    say(f"{len(moved)} of {len(manifest.training)} training images have a label and are validation cases now")
    return with_lists(manifest, {"training": tuple(kept), "validation": (*manifest.validation, *moved)})


def _tell(found: dict[str, Any]) -> None:
    """Say how good the saliency is, where that is known."""
    if found.get("recall") is None:
        say("no label is known: look at overview.png whether all objects are bright")
        return
    text = f"recall {found['recall']:.2f} in {found['labelled']} labelled images at a saliency above {SALIENT}"
    say(f"{text}, which has {found['salient']:.2f} of all pixels")
    if found["recall"] < LEAST_RECALL:
        say(f"warning: a recall under {LEAST_RECALL:g}: what is not salient is learnt as background")
