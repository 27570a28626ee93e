"""`medseg.predict` of images in memory: label maps of the same kind, and no file."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from medseg.bundle.ensemble import Ensemble
from medseg.bundle.runner import BundleRunner, prediction_errors
from medseg.data.given_images import Given, given_image
from medseg.engine import distributed
from medseg.errors import ConfigError, DataError
from medseg.options import described
from medseg.portable.io.header import Header
from medseg.portable.io.monai_reader import VerifiedReader
from medseg.workflows.predict.case import count_values
from medseg.workflows.predict.models import configure_models, open_models
from medseg.workflows.predict.options import MODEL, PredictOptions
from medseg.workflows.predict.plausibility.check import Plausibility, joined
from medseg.workflows.predict.run import listening
from medseg.workflows.predict.run import predict as predict_files
from medseg.workflows.predict.summary import Listener

OF_MODELS = [name for name, (_, option) in described(PredictOptions).items() if option.group == MODEL]
"""Options that say how models are asked; all others are of files."""

PLACE = Path("images in memory")


def predict(
    model: Any,
    inputs: Any,
    output: str | Path | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
    affine: np.ndarray | None = None,
    **options: Any,
) -> Any:
    """Segment images with a trained model: files into a folder, or images in memory into label maps in memory.

    Args:
        model: a run folder or bundle; of several, and of folds, the mean.
        inputs: files: an image, a folder of images, a DICOM series, a folder of such, or a manifest. Or images in
            memory: an array `(X, Y)` or `(X, Y, Z)`, of several channels `(C, X, Y)` or `(C, X, Y, Z)`; an image of
            nibabel, SimpleITK or Pillow; a tuple of such, one for each channel; or a list, one for each case.
        output: of files the folder that gets `<case>.nii.gz` (`<case>.png` of PNG and JPEG, or what `format` says),
            `predict_report.json` and, if wanted, `probabilities/<case>.nii.gz` and `overlays/<case>.png`. Of images in
            memory nothing is written.
        spacing_mm: of arrays, along each axis of space; the axes are then taken to run to the right, to the front
            and to the head, as in RAS. A volume needs it or `affine`; of a 2D array 1 mm is assumed.
        affine: of arrays, `(4, 4)`, voxels to millimetres in RAS+ axes.
        options: as of `medseg predict`; of images in memory those of the model, such as `device` and `mirror`.

    Returns:
        Of files the report: per case its status, seconds and volumes; `failed` lists what could not be done and why,
        `earlier` the cases of earlier commands whose results are in the folder too. Of images in memory label values
        on the grid of each image, as an image of the same kind, uint8, or a list of them.

    Raises:
        MedsegError: nothing can be predicted; with `strict`, and of images in memory, also for the first that fails.
        Stopped: by a signal; finished results and the report are whole.

    Examples:
        The run folder of a training, or its bundle, on a folder of two images.

        >>> import medseg
        >>> report = medseg.predict("runs/first", "new_scans/", "predictions/")
        >>> [(case["case"], case["status"]) for case in report["cases"]]
        [('case1', 'done'), ('case2', 'done')]
        >>> list(report["cases"][0]["volumes_ml"])
        ['liver', 'spleen']

        The same image in memory has the same labels, as an image of nibabel and as an array.

        >>> import nibabel as nib
        >>> import numpy as np
        >>> image = nib.load("new_scans/case1.nii.gz")
        >>> labels = medseg.predict("runs/first", image)
        >>> type(labels).__name__, labels.shape
        ('Nifti1Image', (26, 30, 19))
        >>> array = medseg.predict("runs/first", np.asarray(image.dataobj), affine=image.affine)
        >>> written = np.asarray(nib.load("predictions/case1.nii.gz").dataobj)
        >>> bool((array == written).all() and (np.asarray(labels.dataobj) == written).all())
        True
    """
    if not isinstance(inputs, str | Path):
        if output is not None:
            raise ConfigError(f"output is {output}, and the inputs are images in memory; leave it out")
        return _predict_images(model, inputs, options, spacing_mm=spacing_mm, affine=affine)
    if spacing_mm is not None or affine is not None:
        raise ConfigError("files bring their own spacing; leave spacing_mm and affine out")
    if output is None:
        raise ConfigError("output is missing: the folder that the results of files are written to")
    return predict_files(model, Path(inputs), Path(output), **options)


def _signature() -> inspect.Signature:
    """That of the options, with what images in memory need besides."""
    parameters = []
    for each in fields(PredictOptions):
        default = None if each.name == "output" else each.default
        if default is MISSING:
            default = inspect.Parameter.empty
        parameters.append(inspect.Parameter(each.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default))
    for name in ("spacing_mm", "affine"):
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None))
    return inspect.Signature(parameters)


predict.__signature__ = _signature()  # type: ignore[attr-defined]


class ReaderOfGiven(VerifiedReader):
    """Images in memory for the first transform of a bundle, which knows files only.

    Args:
        images: in memory, known by the names of their headers.
    """

    def __init__(self, images: Sequence[Given]) -> None:
        super().__init__(as_closest_canonical=True)
        self.images = {image.header.path: image for image in images}

    def volume(self, path: Path) -> tuple[np.ndarray, Header]:
        """The image of this name."""
        image = self.images[path]
        return image.voxels, image.header


def _predict_images(model: Any, inputs: Any, options: dict[str, Any], **placed: Any) -> Any:
    strangers = [name for name in options if name not in OF_MODELS]
    if strangers:
        accepted = ", ".join(OF_MODELS)
        raise ConfigError(f"{strangers[0]} is for files; accepted of images in memory are {accepted}")
    asked = PredictOptions(model=model, inputs=PLACE, output=PLACE, **options)
    listener = Listener(Console(stderr=True))
    bundles = open_models(asked.model, listener.show)
    plausibility = Plausibility(bundles)
    cases = _cases(inputs, len(bundles[0].data.modality), placed)
    device = distributed.setup(asked.device)
    _, rules = configure_models(bundles, asked, listener.show)
    runner = BundleRunner(bundles[0], device) if len(bundles) == 1 else Ensemble(bundles, device, rules)
    results = []
    with listening(listener):
        for images in cases:
            results.append(_predict_one(runner, plausibility, images, listener.say))
    return results if isinstance(inputs, list) else results[0]


def _predict_one(
    runner: BundleRunner | Ensemble, plausibility: Plausibility, images: Sequence[Given], say: Callable[[str], None]
) -> Any:
    """The label map of one case, of the kind of its first channel."""
    headers = [image.header for image in images]
    first = headers[0]
    runner.check_memory(headers, first.path)
    check = plausibility.case(headers, first.path)
    with prediction_errors(first.path), tempfile.TemporaryDirectory(prefix="medseg-") as folder:
        prediction = runner.predict_files(
            [header.path for header in headers], ReaderOfGiven(images), scratch=Path(folder) / "scratch",
            probabilities=False, look=check.see_image,
        )  # fmt: skip
    check.see_labels(prediction.labels, count_values(prediction.labels))
    if check.findings:
        say(f"{first.path}: {joined(check.findings)}")
    return images[0].restore(np.asarray(prediction.labels))


def _cases(inputs: Any, channels: int, placed: dict[str, Any]) -> list[list[Given]]:
    """Each case as its images, one for each channel or one for all.

    Raises:
        DataError: an image that cannot be used, or another number of channels.
    """
    given = inputs if isinstance(inputs, list) else [inputs]
    if not given:
        raise DataError("the list of images is empty")
    if isinstance(inputs, list) and all(np.isscalar(each) for each in inputs):
        raise DataError("the input is a list of numbers", hint="give numpy.asarray(list)")
    cases = []
    for number, each in enumerate(given):
        name = f"image {number}" if isinstance(inputs, list) else "the image"
        if isinstance(each, tuple):
            images = [given_image(part, f"{name}, channel {n}", 1, **placed) for n, part in enumerate(each)]
        else:
            images = [given_image(each, name, channels, **placed)]
        found = sum(len(image.voxels) for image in images)
        if found != channels:
            what = f"has {found} channels, the model takes {channels}"
            raise DataError(what, path=name, hint="accepted are channels in front of an array, or a tuple of images")
        cases.append(images)
    return cases
