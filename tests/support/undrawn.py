"""Trainings whose pages have no figures: of a training of seconds they are half."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from medseg.workflows.train.postprocessing import run as postprocessing
from medseg.workflows.train.report import page


@contextmanager
def without_figures() -> Iterator[None]:
    """Trainings in this process draw neither curves nor validation cases; what is measured and the page stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "draw_trainings", lambda trainings: None)
        patch.setattr(page, "draw_watched", lambda trainings: None)
        patch.setattr(postprocessing, "draw_validation_case", lambda *arguments: None)
        yield
