"""MONAI Label's web application with two changes: errors are JSON, and a long request does not hold up the others.

Its endpoints are coroutines that never wait, so that each would stop the whole server until it is done. As ordinary
functions they are run in threads by FastAPI.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

from medseg.label.problems import as_http

LONG = ("activelearning", "batch_infer", "datastore", "infer", "scoring", "session", "train")
"""Modules of `monailabel.endpoints` whose endpoints read and write files or compute."""


def ordinary(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """A function that does what a coroutine function does, with its signature."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(endpoint(*args, **kwargs))

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

    APIRouter.add_api_route = add_ordinary
    try:
        from monailabel.app import app as stock
    finally:
        APIRouter.add_api_route = add
    return stock


async def _as_json(_: Request, error: Exception) -> JSONResponse:
    answer = as_http(error)
    return JSONResponse({"detail": answer.detail}, answer.status_code)


app = stock_app()
app.add_exception_handler(Exception, _as_json)
