"""Labels of a DICOM study as DICOM SEG: coded segments, a named algorithm, references to the images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from medseg.dicom.scan.series import open_series
from medseg.dicom.writing.write_seg import Author, SegmentDescription, write_segmentation
from medseg.errors import DataError
from medseg.portable.geometry import along, offset
from medseg.portable.io.labels import read_labels
from medseg.portable.io.read import VolumeError
from medseg.serve.models import Model

MADE_BY: ContextVar[Author | None] = ContextVar("MADE_BY", default=None)
"""What made the label of a request; MONAI Label's functions in between do not pass it on. None: a person."""


def by_model(name: str) -> Author:
    """A result of a model, as nobody touched it."""
    return Author(f"medseg {name}", f"medseg {name}")


def by_consensus(method: str) -> Author:
    """A label fused of several raters' ones."""
    return Author(f"medseg consensus by {method}", f"Consensus by {method}", {"method": method})


def by_person(label_info: Any, proposed: str | None) -> Author:
    """A label that a client saved.

    Args:
        label_info: of the client, of which a segment may have the `model_name` that it started from.
        proposed: the model whose result of this study the server gave out; None if it did not.
    """
    model = proposed or _named_model(label_info)
    if model is None:
        return Author("", "Annotated by a rater", kind="MANUAL")
    algorithm = f"medseg {model}" if proposed else model
    return Author(algorithm, f"Annotated by a rater from {model}", kind="SEMIAUTOMATIC")


def _named_model(label_info: Any) -> str | None:
    """The first model that the segments of a client's `label_info` name."""
    for info in label_info if isinstance(label_info, list) else []:
        if isinstance(info, Mapping) and info.get("model_name"):
            return str(info["model_name"])
    return None


def segment_names(models: Iterable[Model]) -> dict[int, str]:
    """Label value -> name, of all models; where they differ, all names."""
    found: dict[int, list[str]] = {}
    for model in models:
        for name, value in model.labels.items():
            found.setdefault(value, []).append(name)
    return {value: " or ".join(dict.fromkeys(names)) for value, names in found.items()}


def seg_writer(names: Mapping[int, str]) -> Callable[..., str]:
    """A function in place of MONAI Label's `nifti_to_dicom_seg`.

    Args:
        names: of label values; others are named by the client's `label_info`, in rising order, or by their number.
    """

    def write(series_dir: str, label: str, label_info: Any = None, **_: Any) -> str:
        """The DICOM SEG of a label file on the slices of a series; the caller removes it."""
        series = open_series(Path(series_dir))
        try:
            array, header = read_labels(label)
        except VolumeError as error:
            raise DataError(f"the label cannot be read: {error.reason}") from error
        if not offset(series.header, header).is_taken:
            raise DataError("the label does not lie on the images of the study", hint="save it from the viewer")
        labels = along(series.header, header, array[0])[0]
        values = [int(value) for value in np.unique(labels) if value]
        if not values:
            hint = "annotate something, or do not save it"
            raise DataError("the label is empty: there is no segment to store", hint=hint)
        segments = [SegmentDescription(name) for name in _names_of(values, names, label_info)]
        places = np.searchsorted(values, labels).astype(np.uint8) + np.uint8(1)
        with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
            path = Path(file.name)
        author = MADE_BY.get() or by_person(label_info, None)
        write_segmentation(path, np.where(labels > 0, places, 0).astype(np.uint8), series, segments, author)
        return str(path)

    return write


def _names_of(values: Sequence[int], names: Mapping[int, str], label_info: Any) -> list[str]:
    """The name of each label value: of the models, else of the client's `label_info`, else its number."""
    infos = label_info if isinstance(label_info, list) else []
    found = []
    for n, value in enumerate(values):
        info = infos[n] if n < len(infos) and isinstance(infos[n], Mapping) else {}
        found.append(names.get(value) or str(info.get("name") or f"label {value}"))
    return found


def install(names: Mapping[int, str]) -> None:
    """Let MONAI Label store and answer with our DICOM SEG."""
    from monailabel.datastore import dicom
    from monailabel.endpoints import infer

    dicom.nifti_to_dicom_seg = infer.nifti_to_dicom_seg = seg_writer(names)
