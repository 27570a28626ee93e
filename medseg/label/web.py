"""MONAI Label's web application with changes.

Errors are JSON, a long request does not hold up the others, no file of a request stays, a server that is stopped ends.

Its endpoints are coroutines that never wait, so that each would stop the whole server until it is done. As ordinary
functions they are run in threads by FastAPI.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.background import BackgroundTasks
from fastapi.responses import FileResponse, JSONResponse
from monailabel.interfaces.exception import MONAILabelException

from medseg.errors import MedsegError
from medseg.label import background
from medseg.label.infers import RESULTS
from medseg.label.problems import as_http

DICOM = "application/dicom"
LONG = ("activelearning", "batch_infer", "datastore", "infer", "scoring", "session", "train")
"""Modules of `monailabel.endpoints` whose endpoints read and write files or compute."""


def ordinary(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """A function that does what a coroutine function does, with its signature."""

    def call(*args: Any, **kwargs: Any) -> Any:
        tasks = kwargs.get("background_tasks") or BackgroundTasks()
        check_params(kwargs.get("params"))
        made: list[Path] = []
        RESULTS.set(made)
        try:
            answer = asyncio.run(endpoint(*args, **kwargs))
        except Exception as error:
            asyncio.run(tasks())  # they remove what was uploaded, and are run with answers only
            for path in made:
                path.unlink(missing_ok=True)
            if isinstance(error, HTTPException) and error.status_code == 500 and error.__cause__ is None:
                raise HTTPException(400, error.detail) from error  # MONAI Label's own, all of them clients' mistakes
            raise
        if isinstance(answer, FileResponse) and answer.media_type == DICOM:
            tasks.add_task(Path(answer.path).unlink, missing_ok=True)  # which MONAI Label forgets
        return answer

    call.__name__, call.__doc__ = endpoint.__name__, endpoint.__doc__
    # not functools.wraps: FastAPI looks through its mark and would find the coroutine again
    call.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return call


def check_params(params: Any) -> None:
    """Refuse options in a form that are no JSON object, which MONAI Label takes them for.

    Raises:
        HTTPException: 400.
    """
    if isinstance(params, str) and params:
        try:
            fits = isinstance(json.loads(params), dict)
        except json.JSONDecodeError:
            fits = False
        if not fits:
            raise HTTPException(400, f'params is no JSON object ({params[:100]!r}); give {{"name": value}}')


def stock_app() -> FastAPI:
    """MONAI Label's application, its long endpoints as ordinary functions."""
    add = APIRouter.add_api_route

    def add_ordinary(self: APIRouter, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        long = endpoint.__module__.removeprefix("monailabel.endpoints.") in LONG
        add(self, path, ordinary(endpoint) if long and inspect.iscoroutinefunction(endpoint) else endpoint, **options)

    APIRouter.add_api_route = add_ordinary
    try:
        from monailabel.app import app as stock
    finally:
        APIRouter.add_api_route = add
    return stock


@asynccontextmanager
async def lifespan(served: FastAPI) -> AsyncIterator[None]:
    """MONAI Label's, which leaves its background tasks alone: a server would wait for them before it ends."""
    async with stock_lifespan(served):
        try:
            yield
        finally:
            background.stop_all()


async def _as_json(_: Request, error: Exception) -> JSONResponse:
    answer = as_http(error)
    return JSONResponse({"detail": answer.detail}, answer.status_code)


background.install()
app = stock_app()
stock_lifespan = app.router.lifespan_context
app.router.lifespan_context = lifespan
for kind in (MedsegError, MONAILabelException, Exception):  # what is not named would be logged as the server's failure
    app.add_exception_handler(kind, _as_json)
