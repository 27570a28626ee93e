"""The page at the address of the label server: its models, its studies, and how viewers are pointed at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from monailabel.interfaces.utils.app import app_instance

from medseg import __version__
from medseg.serve.access.middleware import LET_IN
from medseg.serve.error_answers import as_http
from medseg.workflows.reports.pages import Table, render_page


@dataclass(frozen=True)
class Studies:
    """What the server has to be annotated.

    Args:
        total: number of studies; None: they cannot be listed.
        labelled: those with a final label.
        problem: why they cannot be listed.
    """

    total: int | None
    labelled: int = 0
    problem: str = ""


def front_page(request: Request) -> HTMLResponse:
    """The page; without the token it tells how to get in and nothing else of the server."""
    address = f"{request.url.scheme}://{request.headers['host']}"
    if not request.scope[LET_IN]:
        return HTMLResponse(render_page("server_closed.html", title="medseg", address=address))
    served = app_instance()
    page = render_page(
        "server.html",
        title="medseg: label server",
        version=__version__,
        address=address,
        models=_table(served.models),
        count=len(served.models),
        studies=_studies(served),
        has_viewer=served.studies.startswith(("http://", "https://")),
    )
    return HTMLResponse(page)


def _table(models: dict[str, Any]) -> Table:
    """Each model with what it finds."""
    rows = []
    for name, model in models.items():
        channels = ", ".join(model.bundle.data.modality)
        service = model.service
        score = "" if service is None else f"{service.dice:.3f}"
        rows.append([name, channels, ", ".join(model.labels), score])
    if any(row[-1] for row in rows):
        return Table(["model", "images", "structures", "Dice after training here"], rows, words=True)
    return Table(["model", "images", "structures"], [row[:-1] for row in rows], words=True)


def _studies(served: Any) -> Studies:
    try:
        status = served.datastore().status()
    except Exception as error:  # an archive that does not answer: the page says so
        return Studies(None, problem=as_http(error).detail)
    return Studies(int(status["total"]), int(status["completed"]))
