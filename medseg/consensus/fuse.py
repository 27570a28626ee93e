"""Fusing annotations from Python: arrays or files in, one label map and a report of who was trusted out."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast, get_type_hints

import numpy as np

from medseg.config.known_keys import did_you_mean
from medseg.consensus.methods import ALIASES, FUSERS, REMOVED
from medseg.consensus.study import MISSING, Fused, Fuser, Study
from medseg.errors import ConfigError
from medseg.options import typed


@dataclass(frozen=True, eq=False)
class Consensus:
    """The answer to `fuse`.

    Args:
        labels: in the kind, shape, type and label values of the annotations; the next two are of the same kind.
        confidence: float32 in [0, 1]: the share of the votes that the label won; 1 where all raters agree, 0
            where nobody annotated and nothing could be predicted.
        n_raters: uint8, how many raters annotated each voxel.
        report: JSON-ready: per rater weight, scores, Dice to the consensus and coverage; energies, counts, seconds,
            versions, warnings.
        study: what was fused, in class indices.
        fused: the fuser's own answer, in class indices.
        form: what the files look like (`medseg.consensus.io.formats.Form`); None for arrays.
    """

    labels: Any
    confidence: Any
    n_raters: Any
    report: dict[str, Any]
    study: Study
    fused: Fused
    form: Any = None


def fuse(
    image: Any,
    annotations: Sequence[Any],
    *,
    method: str = "gcssl",
    spacing_mm: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    missing: int | None = MISSING,
    regions: Any = None,
    **options: Any,
) -> Consensus:
    """One label map from several raters' annotations of one image.

    Args:
        image: array `(H, W)` or `(X, Y, Z)`, with channels in front if it has several, or a 2D colour image
            `(H, W, 3)`; an image of nibabel, SimpleITK or Pillow; or a file, or one file per channel. None will do for
            methods that do not look at it.
        annotations: one per rater, all arrays, all images as above, or all files. Label maps of any integers, 0 the
            background, in the shape of the grid; or probabilities `(K, ...)` that sum to 1, or to 0 where nothing was
            annotated, whose channel k is the label value k.
        method: a name of `FUSERS`.
        spacing_mm: of arrays, one number per axis, default 1; files and images bring their own.
        names: of the raters.
        missing: label value that says "not annotated"; None: there is none.
        regions: what each rater annotated: a mask or None per rater, or masks by name.
        options: of the method; `nan="zero"` replaces numbers of the image that are none; for files also the fields of
            `medseg.consensus.io.formats.Reading`.

    Raises:
        DataError: sizes that differ, numbers that are no labels, no image where one is wanted.
        ConfigError: an unknown method or option.

    Examples:
        A bright square, annotated by a careful rater, by one who left out the right half (255), and by one who was
        in the wrong place.

        >>> import numpy as np
        >>> import medseg
        >>> truth = np.zeros((64, 64), np.uint8)
        >>> truth[20:44, 20:44] = 1
        >>> image = 100.0 * truth + np.random.default_rng(0).normal(0, 5, truth.shape)
        >>> half, shifted = truth.copy(), np.roll(truth, 6, axis=0)
        >>> half[:, 32:] = 255
        >>> fused = medseg.fuse(image, [truth, half, shifted], names=["careful", "half", "shifted"])
        >>> bool((fused.labels == truth).all())
        True
        >>> min(fused.report["raters"], key=lambda rater: rater["weight"])["name"]
        'shifted'

        By majority vote the image is not looked at, and what is tied where only two annotated becomes background.

        >>> voted = medseg.fuse(None, [truth, half, shifted], method="majority")
        >>> int((voted.labels != truth).sum())
        72

        Images come back as images, on the grid of the first.

        >>> import nibabel as nib
        >>> affine = np.diag([0.7, 0.7, 3.0, 1.0])
        >>> drawn = [nib.Nifti1Image(labels[..., None], affine) for labels in (truth, half, shifted)]
        >>> fused = medseg.fuse(nib.Nifti1Image(image[..., None], affine), drawn)
        >>> type(fused.labels).__name__, bool((np.asarray(fused.labels.dataobj)[..., 0] == truth).all())
        ('Nifti1Image', True)
    """
    if _are_files(annotations):
        if spacing_mm is not None:
            raise ConfigError("files bring their own spacing; leave spacing_mm out")
        reading = {"missing": missing}
        if regions is not None:
            reading["regions"] = regions
        return _fuse_files(image, annotations, method, names, reading, options)
    from medseg.consensus.io.in_memory.arrays import study_from_arrays
    from medseg.consensus.io.in_memory.images import are_images, study_in_memory

    nan = options.pop("nan", None)
    resolved = resolve_options(method, options)
    restore = None
    if are_images(image, annotations):
        if spacing_mm is not None:
            raise ConfigError("images bring their own spacing; leave spacing_mm out")
        given = study_in_memory(image, annotations, names)
        image, annotations, spacing_mm, restore = given.image, given.annotations, given.spacing_mm, given.restore
    study, values, notes = study_from_arrays(
        image, annotations, spacing_mm=spacing_mm, names=names, missing=missing, regions=regions, nan=nan
    )
    consensus = _make_consensus(study, run_fuser(study, method, resolved), values, notes)
    if restore is None:
        return consensus
    arrays = (consensus.labels, consensus.confidence, consensus.n_raters)
    labels, confidence, n_raters = (restore(array) for array in arrays)
    return replace(consensus, labels=labels, confidence=confidence, n_raters=n_raters)


def _are_files(annotations: Sequence[Any]) -> bool:
    """Whether annotations are files; some files and some arrays are refused."""
    files = [isinstance(annotation, str | Path) for annotation in annotations]
    if any(files) and not all(files):
        raise ConfigError("some annotations are files and some are arrays; give all in one way")
    return any(files)


def _fuse_files(
    image: Any,
    annotations: Sequence[str | Path],
    method: str,
    names: Sequence[str] | None,
    reading: dict[str, Any],
    options: dict[str, Any],
) -> Consensus:
    from medseg.consensus.io.formats import Reading
    from medseg.consensus.io.in_memory.label_values import Values
    from medseg.consensus.io.read_study import read_study

    of_reading = {field.name for field in fields(Reading)}
    reading |= {name: value for name, value in options.items() if name in of_reading}
    resolved = resolve_options(method, {name: value for name, value in options.items() if name not in of_reading})
    study, form = read_study(image, annotations, names=names, **reading)
    label_values = np.array([0, *(segment.value for segment in form.segments)], np.int64)
    shape = study.shape[:2] if form.flat else study.shape
    values = Values(label_values, form.missing, np.dtype(form.dtype), shape)
    return _make_consensus(study, run_fuser(study, method, resolved), values, list(form.notes), form)


def _make_consensus(study: Study, fused: Fused, values: Any, notes: Sequence[str] = (), form: Any = None) -> Consensus:
    """A fuser's answer in the user's label values, with its report.

    Args:
        study: what was fused.
        fused: the answer.
        values: `medseg.consensus.io.in_memory.label_values.Values`, the user's label values.
        notes: what was strange about the input.
        form: of the files, if there are any.
    """
    from medseg.consensus.statistics.report_data import rater_count, summarise
    from medseg.consensus.statistics.turned_annotations import AXES

    axes = AXES if form is None else form.ends_of_axes
    report = summarise(study, fused, list(notes), axes)
    report["label_values"] = [int(value) for value in values.of]
    confidence = fused.confidence.reshape(values.shape)
    n_raters = rater_count(study).reshape(values.shape)
    return Consensus(values.restore(fused.labels), confidence, n_raters, report, study, fused, form)


def run(study: Study, method: str = "gcssl", **options: Any) -> Fused:
    """Fuse a study by the name of a method.

    Raises:
        ConfigError: an unknown name, or an option that the method does not have.
    """
    return run_fuser(study, method, resolve_options(method, options))


def run_fuser(study: Study, method: str, options: Any) -> Fused:
    """Fuse a study with the options dataclass of a method, as `resolve_options` makes it."""
    fused = load_fuser(method)(study, options)
    note = alias_note(method)
    if note is not None:
        fused.facts.setdefault("warnings", []).append(note)
    return fused


def resolve_options(method: str, given: Mapping[str, Any]) -> Any:
    """The options dataclass of a method with the values that were given, checked before any file is opened.

    Args:
        method: name of the method.
        given: name of the option -> value; the others have their defaults.

    Raises:
        ConfigError: an unknown method or option, or a value that it does not take.

    Examples:
        >>> resolve_options("simple", {"alpha": 2})
        SimpleOptions(alpha=2.0, max_iterations=25)
    """
    options = get_type_hints(load_fuser(method))["options"]
    offered = [field.name for field in fields(options)]
    unknown = [name for name in given if name not in offered]
    if unknown:
        raise ConfigError(f"{method} has no option {', '.join(unknown)}; it has {', '.join(offered) or 'none'}")
    plain = {name: _without_numpy(value) for name, value in given.items()}
    return options(**typed(plain, get_type_hints(options), method))


def _without_numpy(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def resolve_method(name: str) -> str:
    """The name in `FUSERS` of a method that may be called by one of its `ALIASES`.

    Raises:
        ConfigError: there is no such method, or there is none any more.
    """
    if name in REMOVED:
        raise ConfigError(f"method {name} has been removed; use {REMOVED[name]}")
    if name not in FUSERS and name not in ALIASES:
        meant = did_you_mean(name, FUSERS) or ";"
        raise ConfigError(f"there is no method {name}{meant} there are {', '.join(FUSERS)}")
    return ALIASES.get(name, name)


def alias_note(name: str) -> str | None:
    """What to warn of if a method is called by a name that it had before; None if it is not."""
    return f"method {name} is now called {ALIASES[name]}; use that name" if name in ALIASES else None


def load_fuser(name: str) -> Fuser:
    """The function behind the name of a method; only its module is imported."""
    module, function = FUSERS[resolve_method(name)].split(":")
    return cast(Fuser, getattr(importlib.import_module(module), function))
