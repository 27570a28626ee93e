"""The label server's outermost layer: what `medseg.serve.access.admission` decides, login, and the limit of bodies."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medseg.serve.access.admission import Refusal, RequestInfo, TokenRedirect, decide, has_token, same, without_token
from medseg.serve.access.routes import Kind, Route
from medseg.serve.access.settings import Access

MIB = 2**20
SMALL = MIB
"""Bytes of a request that brings no file."""
PROTECTED = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"frame-ancestors 'self'",  # nobody clicks here by way of another page
    b"referrer-policy": b"same-origin",
}
PRIVATE = (b"authorization", b"cookie")
LET_IN = "medseg.let_in"
"""In the scope of a request that is let through: whether it came with the token, or none is asked for."""


class Guard:
    """Lets those requests through to MONAI Label that may be answered.

    Args:
        app: MONAI Label's.
        access: who may use the server.
        token: of the server; None: it asks for none.
        foreign_login: whether `/auth` is MONAI Label's own.
    """

    def __init__(self, app: ASGIApp, access: Access, token: str | None, foreign_login: bool = False) -> None:
        self.app, self.access, self.token, self.foreign_login = app, access, token, foreign_login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # MONAI Label has no websocket
            return await send({"type": "websocket.close", "code": 1008})
        request = read_request(scope)
        decided = decide(self.access, self.token, request)
        if isinstance(decided, Refusal):
            challenge = {"WWW-Authenticate": "Bearer"} if decided.status == 401 else None
            return await _answer(decided.status, decided.words, challenge)(scope, receive, _with_headers(send))
        if isinstance(decided, TokenRedirect):
            cookie = {"Set-Cookie": decided.cookie} if decided.cookie else None
            return await RedirectResponse(decided.location, 303, cookie)(scope, receive, _with_headers(send))
        await self._serve(decided, request, scope, receive, _with_headers(send))

    async def _serve(self, route: Route, request: RequestInfo, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self.access.upload_mb * MIB if route.upload else SMALL
        size = request.header("content-length") or "0"
        if size.isdigit() and int(size) > limit:
            return await _answer(413, too_large(limit))(scope, receive, send)
        login = request.place.startswith("/auth") and not self.foreign_login
        inner = self._login(route, request) if login else self.app
        await RequestBodyLimitMiddleware(inner, limit)(self._remove_token(scope, request), receive, send)

    def _remove_token(self, scope: Scope, request: RequestInfo) -> Scope:
        """A request without the token, which MONAI Label would pass on to a DICOMweb server."""
        cleaned = {**scope, "query_string": without_token(request.query).encode("latin-1")}
        cleaned[LET_IN] = self.token is None or has_token(self.token, request)
        if self.token is not None:
            cleaned["headers"] = [(name, value) for name, value in scope["headers"] if name.lower() not in PRIVATE]
        if request.prefix:
            cleaned["root_path"] = scope.get("root_path", "") + request.prefix
            cleaned["path"] = request.prefix + request.place
        return cleaned

    def _login(self, route: Route, request: RequestInfo) -> ASGIApp:
        """MONAI Label's way to ask for a name and a password, of which the password is the token."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            answer = JSONResponse({"username": "rater"})
            if route.kind is Kind.LOGIN and request.method == "GET":
                # a client whose address has the token needs no dialog
                answer = JSONResponse({"enabled": self.token is not None and not request.prefix})
            elif route.kind is Kind.LOGIN:
                answer = await self._exchange_password(Request(scope, receive))
            await answer(scope, receive, send)

        return app

    async def _exchange_password(self, request: Request) -> JSONResponse:
        """Answer a login: the token for who gives it as password."""
        if self.token is None:
            return JSONResponse({"access_token": None, "token_type": None})
        try:
            form = parse_qs((await request.body()).decode("utf-8", "replace"))
        except HTTPException:  # of the limit, which would be no JSON
            return _answer(413, too_large(SMALL))
        if same("".join(form.get("password", [])), self.token):
            return JSONResponse({"access_token": self.token, "token_type": "bearer"})
        return _answer(401, "the password is not the token of this server")


def read_request(scope: Scope) -> RequestInfo:
    """A request of ASGI."""
    headers: dict[str, list[str]] = defaultdict(list)
    for name, value in scope["headers"]:
        headers[name.decode("latin-1").lower()].append(value.decode("latin-1"))
    return RequestInfo(
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        headers={name: tuple(values) for name, values in headers.items()},
        scheme=scope.get("scheme", "http"),
        address=str((scope.get("server") or ("", 0))[0]),
    )


def too_large(limit: int) -> str:
    """What is said of a body above a limit of so many bytes."""
    return (
        f"the request has more than {limit // MIB} MiB; for files the server's --max-upload-mb says how many are taken"
    )


def _answer(status: int, words: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": words}, status, headers)


def _with_headers(send: Send) -> Send:
    """Add headers to answers, so that pages of other sites cannot use them, whatever a DICOMweb server says."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept: list[tuple[Any, Any]] = []
            for name, value in message.get("headers", ()):
                if not name.lower().startswith(b"access-control-") and name.lower() not in PROTECTED:
                    kept.append((name, value))
            message = {**message, "headers": [*kept, *PROTECTED.items()]}
        await send(message)

    return sent
