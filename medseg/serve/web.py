"""MONAI Label's web application with changes.

Only who may is answered, what clients name is looked at, errors are JSON, a long request does not hold up the others,
no file of a request stays, a server that is stopped ends.

Its endpoints are coroutines that never wait, so that each would stop the whole server until it is done. As ordinary
functions they are run in threads by FastAPI.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.background import BackgroundTasks
from fastapi.responses import FileResponse, JSONResponse
from monailabel.config import settings
from monailabel.interfaces.exception import MONAILabelException
from starlette.background import BackgroundTask
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from medseg.errors import ConfigError, MedsegError
from medseg.serve import background_tasks, request_inputs
from medseg.serve.access.middleware import Guard, too_large
from medseg.serve.access.settings import VARIABLE, Access, greeting, parse_origin, read_access, resolve_token
from medseg.serve.error_answers import as_http
from medseg.serve.front_page import front_page
from medseg.serve.tasks.inference import RESULTS

DICOM = "application/dicom"
ARCHIVE = "dataset.zip"
LONG = ("activelearning", "batch_infer", "datastore", "infer", "scoring", "session", "train")
"""Modules of `monailabel.endpoints` whose endpoints read and write files or compute."""


def ordinary(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint as an ordinary function in place of a coroutine function, with the same signature."""

    def call(*args: Any, **kwargs: Any) -> Any:
        tasks = kwargs.get("background_tasks") or BackgroundTasks()
        made: list[Path] = []
        RESULTS.set(made)
        request_inputs.UPLOADS.set(tasks)
        try:
            request_inputs.check(endpoint.__name__, kwargs)
            answer = asyncio.run(endpoint(*args, **kwargs))
        except Exception as error:
            asyncio.run(tasks())  # they remove what was uploaded, and are run with answers only
            for path in made:
                path.unlink(missing_ok=True)
            if isinstance(error, HTTPException) and error.status_code == 500 and error.__cause__ is None:
                raise HTTPException(400, error.detail) from error  # MONAI Label's own, all of them clients' mistakes
            raise
        if isinstance(answer, FileResponse):  # files that MONAI Label makes and forgets
            if answer.media_type == DICOM:
                tasks.add_task(Path(answer.path).unlink, missing_ok=True)
            elif answer.filename == ARCHIVE:
                answer.background = BackgroundTask(Path(answer.path).unlink, missing_ok=True)
        return answer

    call.__name__, call.__doc__ = endpoint.__name__, endpoint.__doc__
    # not functools.wraps: FastAPI looks through its mark and would find the coroutine again
    call.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return call


def stock_app() -> FastAPI:
    """MONAI Label's application, its long endpoints as ordinary functions."""
    add = APIRouter.add_api_route

    def add_ordinary(self: APIRouter, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        long = endpoint.__module__.removeprefix("monailabel.endpoints.") in LONG
        add(self, path, ordinary(endpoint) if long and inspect.iscoroutinefunction(endpoint) else endpoint, **options)

    setattr(APIRouter, "add_api_route", add_ordinary)  # noqa: B010  # mypy knows FastAPI in some environments only
    try:
        with redirect_stdout(
            io.StringIO()
        ):  # it prints that all origins are allowed, which `guard_application` puts an end to
            from monailabel.app import app as found
    finally:
        setattr(APIRouter, "add_api_route", add)  # noqa: B010
    return found


@asynccontextmanager
async def lifespan(served: FastAPI) -> AsyncIterator[None]:
    """Start and end of the application; at its end background tasks are stopped, or the server would wait for them."""
    async with stock_lifespan(served):
        for line in GREETING:
            sys.stdout.write(f"medseg: {line}\n")
        sys.stdout.flush()
        try:
            yield
        finally:
            background_tasks.stop_all()


async def _as_json(_: Request, error: Exception) -> JSONResponse:
    answer = as_http(error)
    return JSONResponse({"detail": answer.detail}, answer.status_code)


async def _as_too_large(request: Request, _: Exception) -> JSONResponse:
    return JSONResponse({"detail": too_large(request.scope[MAX_BODY_SIZE_SCOPE_KEY])}, 413)


def guard_application(inner: FastAPI) -> ASGIApp:
    """The application behind `medseg.serve.access.middleware`, with answers to the pages of the named origins only."""
    inner.user_middleware = [layer for layer in inner.user_middleware if layer.cls is not CORSMiddleware]
    guard = Guard(inner, access, token, foreign_login=settings.MONAI_LABEL_AUTH_ENABLE)
    if not access.origins:
        return guard
    methods, headers = ("GET", "HEAD", "POST", "PUT", "DELETE"), ("Authorization", "Content-Type")
    return CORSMiddleware(guard, access.origins, methods, headers)


def read_settings() -> tuple[Access, str | None, list[str]]:
    """Who may use this server, its token, and what is said of them when it starts."""
    try:
        found = read_access(Path(settings.MONAI_LABEL_APP_DIR))
        named = [parse_origin(str(origin)) for origin in settings.MONAI_LABEL_CORS_ORIGINS]
        found = replace(found, origins=(*found.origins, *named))
        secret = resolve_token(found, os.environ)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error
    scheme = "https" if any(text.startswith("--ssl_certfile") for text in sys.argv) else "http"
    archive = settings.MONAI_LABEL_STUDIES.startswith(("http://", "https://"))
    address = f"{scheme}://{found.reached_by}:{settings.MONAI_LABEL_SERVER_PORT}"
    words = greeting(address, "/ohif/" if archive else "/", secret, shown=VARIABLE not in os.environ)
    if secret is not None:
        os.environ[VARIABLE] = secret  # for requests that tasks of the server send to it
    return found, secret, words


background_tasks.install()
access, token, GREETING = read_settings()
stock = stock_app()
stock_lifespan = stock.router.lifespan_context
stock.router.lifespan_context = lifespan
# MONAI Label's own page takes its scripts from another host, and is blank where there is none
stock.router.routes = [route for route in stock.router.routes if getattr(route, "path", None) != "/"]
stock.add_api_route("/", front_page, methods=["GET", "HEAD"], include_in_schema=False)
for kind in (MedsegError, MONAILabelException, Exception):  # what is not named would be logged as the server's failure
    stock.add_exception_handler(kind, _as_json)
stock.add_exception_handler(413, _as_too_large)
app = guard_application(stock)
