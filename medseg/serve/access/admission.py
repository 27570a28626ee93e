"""Whether a request to the label server is answered: its host, its origin, its token and its address.

As Jupyter does it. A page of another site that is open in a browser on the machine can send requests too, and under
a name of its own that is made to point here (DNS rebinding) it could even read the answers: so names and origins other
than the server's own are refused, before anything else is looked at.
"""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from medseg.serve.access.routes import Kind, Route, find
from medseg.serve.access.settings import EVERYWHERE, Access

PREFIX = re.compile(r"/token/([A-Za-z0-9._~-]+)(?=/|$)")
"""What may stand before every path, for clients that know nothing but an address."""
PARAMETER = "token"
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HOW = (
    "send it as `Authorization: Bearer TOKEN`, open a page of this server with ?token=TOKEN once, or give "
    "http://HOST:PORT/token/TOKEN as its address"
)
WHERE = "the server printed the token when it was started, or took it from MEDSEG_TOKEN"


@dataclass(frozen=True)
class RequestInfo:
    """A request, as far as it matters here.

    Attributes:
        method: of HTTP.
        path: decoded, with the prefix if there is one.
        query: undecoded.
        headers: lower-case name -> all values.
        scheme: `http` or `https`.
        address: of this machine, which the client has connected to.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, tuple[str, ...]]
    scheme: str = "http"
    address: str = "127.0.0.1"

    @property
    def prefix(self) -> str:
        """The prefix with a token, or nothing."""
        found = PREFIX.match(self.path)
        return found.group() if found else ""

    @property
    def place(self) -> str:
        """The path without it."""
        return self.path[len(self.prefix) :] or "/"

    def header(self, name: str) -> str | None:
        """The only value of a header; None where there is none, or several that contradict each other."""
        values = self.headers.get(name, ())
        return values[0] if len(values) == 1 else None


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered, as its JSON will say."""

    status: int
    words: str


@dataclass(frozen=True)
class TokenRedirect:
    """A page that was opened with the token in its address: it is opened again without, and with a cookie.

    Attributes:
        location: path and query without the token.
        cookie: for `Set-Cookie`; empty where no token is asked for.
    """

    location: str
    cookie: str


def decide(access: Access, token: str | None, request: RequestInfo) -> Route | TokenRedirect | Refusal:
    """What happens with a request: the route that it may take, or what is answered instead.

    Args:
        access: of the server.
        token: of the server; None: it asks for none.
        request: the request.
    """
    refused = _host(access, request) or _origin(access, request)
    if refused:
        return refused
    route = find(request.method, request.place)
    page = route is not None and route.kind is Kind.PAGE
    if page and PARAMETER in dict(parse_qsl(request.query, keep_blank_values=True)):
        if token is not None and not has_token(token, request):
            return Refusal(401, f"the token in the address is not that of this server; {WHERE}")
        return TokenRedirect(quote(request.path) + _query_part(without_token(request.query)), _cookie(token, request))
    open_to_all = route is not None and route.kind in (Kind.PAGE, Kind.LOGIN)
    if token is not None and not open_to_all and not has_token(token, request):
        wrong = tokens_in(request) or cookies_in(request)
        return Refusal(401, f"the token is not that of this server; {WHERE}" if wrong else f"a token is needed: {HOW}")
    if route is None:
        return Refusal(404, f"{request.method} {request.place} is not served here")
    if route.kind is Kind.REFUSED:
        return Refusal(403, f"{request.method} {request.place} is not served here: {route.remedy}")
    return route


def tokens_in(request: RequestInfo) -> list[str]:
    """Everything in a request that is given as the server's token: before the path, in a header, in the query."""
    found = []
    prefix = PREFIX.match(request.path)
    if prefix:
        found.append(prefix.group(1))
    scheme, _, value = (request.header("authorization") or "").partition(" ")
    if scheme.lower() in ("bearer", "token"):
        found.append(value.strip())
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        if name == PARAMETER:
            found.append(value)
    return found


def cookies_in(request: RequestInfo) -> list[str]:
    """Values of the cookie that this server may have set."""
    found = []
    for line in request.headers.get("cookie", ()):
        for part in line.split(";"):
            name, _, value = part.strip().partition("=")
            if name == _cookie_name(request):
                found.append(value)
    return found


def same(one: str, other: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def without_token(query: str) -> str:
    """A query as it was, without the token."""
    pairs = parse_qsl(query, keep_blank_values=True)
    if PARAMETER not in dict(pairs):
        return query
    return urlencode([(name, value) for name, value in pairs if name != PARAMETER])


def _host(access: Access, request: RequestInfo) -> Refusal | None:
    host = request.header("host") or ""
    match = HOST.fullmatch(host)
    name = match.group(1).strip("[]").lower().removesuffix(".") if match else ""
    if name and name in _names(access, request.address):
        return None
    given = host[:100] or "nothing, or several names"
    return Refusal(403, f"the request is to {given!r}, which is no name of this server; {_own(access)}")


def _names(access: Access, address: str) -> set[str]:
    """Names in lower case that are this server's."""
    names = {access.host.lower(), address.removeprefix("::ffff:").partition("%")[0].lower()} - set(EVERYWHERE)
    names |= {urlsplit(origin).hostname or "" for origin in access.origins} - {""}
    if not access.remote or access.host in EVERYWHERE:
        names |= LOOPBACK
    if access.remote:
        whole = socket.gethostname().lower()
        names |= {whole, whole.partition(".")[0]}
    return names


def _own(access: Access) -> str:
    reach = "this machine's address or name" if access.remote else "127.0.0.1 or localhost"
    return f"use {reach}, or start it with --origin SCHEME://NAME if it stands behind a proxy"


def _origin(access: Access, request: RequestInfo) -> Refusal | None:
    """Why what a page of another site sends is refused; None for other requests, as of a link that a person follows."""
    origin = request.headers.get("origin", ())
    own = f"{request.scheme}://{request.header('host')}".lower()
    if origin:
        if len(origin) == 1 and origin[0].lower() in (own, *access.origins):
            return None
        words = f"a page of {', '.join(origin)[:100]!r} has sent this"
        return Refusal(403, f"{words}; pages of {own} may, others if the server was started with --origin")
    site = request.header("sec-fetch-site")
    link = request.header("sec-fetch-mode") == "navigate" and request.header("sec-fetch-dest") == "document"
    if site in (None, "none", "same-origin") or (link and request.method == "GET"):
        return None
    return Refusal(403, f"a page of another site has sent this ({site}); pages of {own} may")


def has_token(token: str, request: RequestInfo) -> bool:
    """Whether a request has the token, or the cookie made of it."""
    cookie = _cookie_value(token)
    # all are compared, so that the time does not tell which one is right
    of_tokens = [same(text, token) for text in tokens_in(request)]
    of_cookies = [same(text, cookie) for text in cookies_in(request)]
    return any(of_tokens) or any(of_cookies)


def _cookie(token: str | None, request: RequestInfo) -> str:
    if token is None:
        return ""
    secure = "; Secure" if request.scheme == "https" else ""
    return f"{_cookie_name(request)}={_cookie_value(token)}; Path=/; HttpOnly; SameSite=Strict{secure}"


def _cookie_name(request: RequestInfo) -> str:
    """Name of the cookie, with the port that the browser sees: it keeps the cookies of all ports together."""
    match = HOST.fullmatch(request.header("host") or "")
    port = match.group(2) if match else None
    return f"medseg-{port or 'server'}"


def _cookie_value(token: str) -> str:
    """Value of the cookie: made of the token, which itself would go to servers on other ports of the machine too."""
    return hmac.new(token.encode(), b"medseg label cookie", "sha256").hexdigest()


def _query_part(query: str) -> str:
    return f"?{query}" if query else ""
