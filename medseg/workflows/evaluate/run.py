"""`evaluate`: a folder of predictions against true label maps becomes tables and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.atomic import check_writable, make_folder, real_path
from medseg.errors import DataError, ManifestError
from medseg.manifest.classification import says_classes_only
from medseg.manifest.fields import unit_of
from medseg.manifest.manifest import SECTIONS, Case, Manifest
from medseg.metrics import METRICS
from medseg.metrics.aggregate import iou_of_set, mean_of_classes, summarize
from medseg.options import api
from medseg.portable.io.read import SUFFIXES
from medseg.portable.io.write import remove_leftovers
from medseg.progress import show_progress
from medseg.workflows.evaluate.compare_case import Compared, Pairing, Scale, compare
from medseg.workflows.evaluate.found_classes import scale_of_files
from medseg.workflows.evaluate.image_classes import evaluate_classes, write_class_tables
from medseg.workflows.evaluate.options import EvaluateOptions
from medseg.workflows.evaluate.pair_files import by_reference, files_by_name, refuse_another
from medseg.workflows.evaluate.tables import write_tables

PREFERRED = ("test", "validation", "training")


def run_evaluation(options: EvaluateOptions) -> dict[str, Any]:
    """Compare predicted label maps with references.

    Args:
        options: `reference` is a manifest, or a folder of label files named as the predictions.

    Returns:
        What `metrics.json` holds: `classes` (statistics per class), `mean` (over classes), `set_iou` (of all cases
        together, see `medseg.metrics.aggregate.iou_of_set`), of pseudo-labels `labelled` (share of voxels with a label)
        and `set_iou_labelled` (without the others, which are wrong elsewhere), `cases`, `failed` (names of cases
        without a usable prediction or reference), `unmatched` files, `unit` (of distances: mm, or px where no reference
        has a spacing). Where tags are all that a manifest says of the cases: accuracy and recalls of whole images, see
        `medseg.workflows.evaluate.image_classes`.

    Raises:
        DataError: no folder of predictions, or not one case that could be compared.
        ManifestError: no labels to compare with.
        ConfigError: the folder holds the evaluation of something else.
        OutputError: the results cannot be written.

    Examples:
        A prediction that lies one voxel beside its reference, a cube of 10 x 10 x 10: they share 900 voxels of 1000.

        >>> from pathlib import Path
        >>> import medseg, nibabel, numpy as np
        >>> cube = np.zeros((16, 16, 16), np.uint8)
        >>> cube[3:13, 3:13, 3:13] = 1
        >>> for folder, labels in {"references": cube, "predictions": np.roll(cube, 1, axis=0)}.items():
        ...     Path(folder).mkdir()
        ...     nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), f"{folder}/scan1.nii.gz")
        >>> report = medseg.evaluate("predictions/", "references/")
        >>> report["classes"]["label 1"]["dice"]["mean"]
        0.9
    """
    prediction, reference, folder = options.prediction, options.reference, options.folder
    files = _predictions(prediction)
    of_classes = _section_of_classes(reference, options.section)
    if of_classes is not None:
        return _evaluate_classes(options, files, *of_classes)
    pairings, scale, used = _pair(reference, files, options.section, options.tolerance_mm)
    scale = replace(scale, pseudo_labels=options.pseudo_labels)
    matched = {pairing.prediction for pairing in pairings}
    if matched == {None}:
        raise DataError(
            f"holds no prediction of any of the {len(pairings)} cases of {reference}",
            path=prediction,
            hint=f"files are named like {pairings[0].usual_prediction}",
        )
    source = {"prediction": str(real_path(prediction)), "reference": str(real_path(reference)), "section": used or ""}
    # the default folder moves with its predictions
    refuse_another(folder, source if options.output else {**source, "prediction": None})
    check_writable(folder)
    remove_leftovers(folder)
    done = _compared(pairings, scale)
    if not any(case.status == "compared" for case in done):
        bad = next(case for case in done if case.status != "no prediction")
        raise DataError(f"not one case can be compared; the first: {bad.message}")
    report = {
        "medseg": __version__,
        "prediction": str(prediction),
        "reference": str(reference),
        "section": used,
        "input": source,
        **_summary(done, scale),
        "unmatched": sorted(path.name for path in files.values() if path not in matched),
    }
    write_tables(make_folder(folder), report)
    if options.pictures:
        from medseg.workflows.evaluate.montage import draw_montage  # matplotlib takes longer to import than a case
        from medseg.workflows.evaluate.page import write_page

        draw_montage(folder / "montage.png", done, scale)
        write_page(folder, report, done, scale)
    return report


evaluate = api(EvaluateOptions, run_evaluation)


def _section_of_classes(reference: Path, section: str | None) -> tuple[Manifest, str] | None:
    """The manifest and its section where tags are all that is known of the cases; None: there are labels to compare."""
    if reference.is_dir():
        return None
    manifest = Manifest.load(reference)
    having = [name for name in (*PREFERRED, "unlabeled") if any(case.label for case in getattr(manifest, name))]
    tagged = [name for name in PREFERRED if says_classes_only(getattr(manifest, name))]
    used = section or next(iter([*having, *tagged]), None)
    return (manifest, used) if used in tagged else None


def _evaluate_classes(
    options: EvaluateOptions, files: dict[str, Path], manifest: Manifest, section: str
) -> dict[str, Any]:
    """Compare the classes of whole images; see `medseg.workflows.evaluate.image_classes`."""
    prediction, reference = str(options.prediction.resolve()), str(options.reference.resolve())
    source = {"prediction": prediction, "reference": reference, "section": section}
    refuse_another(options.folder, source if options.output else {**source, "prediction": None})
    check_writable(options.folder)
    report = evaluate_classes(manifest, section, files, source)
    write_class_tables(options.folder, report)
    return report


def _compared(pairings: Sequence[Pairing], scale: Scale) -> list[Compared]:
    done: list[Compared] = []
    with show_progress("comparing", kept="nothing is written") as progress:
        for pairing in pairings:
            progress(len(done), len(pairings))
            done.append(compare(pairing, scale))
    return done


def _predictions(folder: Path) -> dict[str, Path]:
    """Case name -> file."""
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{found}; predictions are a folder of CASE.nii.gz or CASE.png", path=folder)
    return files_by_name(folder)


def _pair(
    reference: Path, files: dict[str, Path], section: str | None, tolerance_mm: float
) -> tuple[list[Pairing], Scale, str | None]:
    if reference.is_dir():
        return *_from_folder(reference, files, tolerance_mm), None
    manifest = Manifest.load(reference)
    used = section or next((s for s in PREFERRED if any(c.label for c in getattr(manifest, s))), PREFERRED[0])
    if used not in SECTIONS:
        raise ManifestError(f"there is no section {used!r}; one of {', '.join(SECTIONS)}", path=reference)
    ct = manifest.modalities[0] == "CT"
    files = by_reference(files, [case.name for case in getattr(manifest, used)])
    pairings = []
    for case in getattr(manifest, used):
        label = manifest.label(case)
        if label is not None:
            covered = _covered_values(manifest, case)
            pairing = Pairing(case.name, label, files.get(case.name), manifest.images(case), ct, covered)
            pairings.append(pairing)
    if not pairings:
        raise ManifestError(
            f"no case of section {used!r} has a label", path=reference, hint="choose another with --section"
        )
    return pairings, Scale.of_manifest(manifest, tolerance_mm), used


def _covered_values(manifest: Manifest, case: Case) -> frozenset[int] | None:
    """The label values that a case's label tells apart; None: all."""
    covered = manifest.covered(case)
    if covered is None:
        return None
    pairs = zip(manifest.label_values, covered, strict=True)
    return frozenset(value for value, is_covered in pairs if is_covered)


def _from_folder(folder: Path, files: dict[str, Path], tolerance_mm: float) -> tuple[list[Pairing], Scale]:
    """Label files by name; the classes are the values that occur in them."""
    labels = files_by_name(folder)
    if not labels:
        raise DataError(f"holds no label file; accepted are {', '.join(SUFFIXES)}", path=folder)
    files = by_reference(files, labels)
    pairings = [Pairing(name, path, files.get(name)) for name, path in labels.items()]
    return pairings, scale_of_files(list(labels.values()), folder, tolerance_mm)


def _summary(done: Sequence[Compared], scale: Scale) -> dict[str, Any]:
    compared = [case for case in done if case.status == "compared"]
    failed = [case for case in done if case.status in ("no prediction", "unusable prediction")]
    classes = {}
    for value, name in scale.labels.items():
        found = [case.metrics[value] for case in compared if value in case.metrics]
        missed = [case.metrics[value] for case in failed if value in case.metrics]
        classes[name] = {"value": scale.value_of(value), **summarize(found, missed)}
    return {
        "tolerance_mm": scale.tolerance_mm,
        "unit": unit_of(case.pairing.reference for case in done),
        "definitions": {name: entry.definition for name, entry in METRICS.items() if entry.averaged},
        "mean": mean_of_classes(list(classes.values())),
        "classes": classes,
        "set_iou": iou_of_set([case.overlaps(scale) for case in compared]),
        **(_of_labelled(compared) if scale.pseudo_labels else {}),
        "cases": [_case(case, scale) for case in done],
        "failed": [case.pairing.name for case in done if case.status != "compared"],
    }


def _of_labelled(compared: Sequence[Compared]) -> dict[str, Any]:
    """Of pseudo-labels the share of voxels that they label, and the overlaps of the whole set there."""
    known, voxels = (sum(case.known[place] for case in compared) for place in (0, 1))
    return {
        "labelled": known / voxels if voxels else None,
        "set_iou_labelled": iou_of_set([case.labelled for case in compared]),
    }


def _case(case: Compared, scale: Scale) -> dict[str, Any]:
    pairing = case.pairing
    return {
        "case": pairing.name,
        "status": case.status,
        "message": case.message,
        "warnings": list(case.warnings),
        "prediction": str(pairing.prediction) if pairing.prediction else None,
        "reference": str(pairing.reference),
        "mean_dice": case.mean_dice if case.status == "compared" else None,
        "classes": {scale.labels[value]: metrics for value, metrics in case.metrics.items()},
    }
