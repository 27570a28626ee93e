"""MONAI Label's web application with two changes: errors are JSON, and a long request does not hold up the others.

Its endpoints are coroutines that never wait, so that each would stop the whole server until it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from monailabel.app import app as stock

from medseg.label.problems import as_http

LONG = ("/activelearning/", "/batch/", "/datastore/", "/infer/", "/scoring/", "/train/")


def _in_thread(endpoint: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The same endpoint in a thread of its own."""

    async def elsewhere(**values: Any) -> Any:
        return await run_in_threadpool(lambda: asyncio.run(endpoint(**values)))  # type: ignore[arg-type]

    return elsewhere


async def _as_json(_: Request, error: Exception) -> JSONResponse:
    answer = as_http(error)
    return JSONResponse({"detail": answer.detail}, answer.status_code)


def changed(app: FastAPI) -> FastAPI:
    """The application with both changes."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.path.startswith(LONG) and asyncio.iscoroutinefunction(route.endpoint):
            route.dependant.call = _in_thread(route.endpoint)
    app.add_exception_handler(Exception, _as_json)
    return app


app = changed(stock)
