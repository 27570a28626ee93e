"""The addresses that the label server answers: what is not in this table is not served, whatever MONAI Label has.

Names in an address are single segments, and no segment is a way to somewhere else (`..`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cache


class Kind(Enum):
    """To whom an address is open."""

    PAGE = "everybody: files of MONAI Label's package, no data"
    LOGIN = "everybody: where clients ask whether they need a token, and trade it in"
    API = "who has the token"
    REFUSED = "nobody"


@dataclass(frozen=True)
class Route:
    """One line of the table.

    Attributes:
        methods: of HTTP.
        pattern: of the path without its last slash; `{}` is one segment, `{**}` any number, `{dicom}` and `{store}`
            what follows the address of a DICOMweb server in a request for data, and in one that stores.
        kind: to whom it is open.
        upload: whether files are sent to it, so that its body may be large.
        remedy: of a refused one, what to do instead.
    """

    methods: frozenset[str]
    pattern: str
    kind: Kind
    upload: bool = False
    remedy: str = ""


PLACES = {
    "{}": r"(?!\.{1,2}(?:/|$))[^/\\\x00-\x1f\x7f]+",
    "{**}": r"(?:(?!\.{1,2}(?:/|$))[^/\\\x00-\x1f\x7f]+(?:/|$))*",
    # DICOM PS3.18: UIDs, numbers of frames and fixed words. Anything else could leave the DICOMweb part of an archive
    "{dicom}": r"(?:studies|series|instances)(?:/(?!\.{1,2}(?:/|$))[\w.,~-]+)*",
    "{store}": r"studies(?:/[0-9.]*[0-9])?",
}

DELETED = "delete its file, or the series in the archive; clients cannot"
ARCHIVE = "ask by /proxy/dicom/qido and wado, store by wado and stow"
MODELS = "the models are those of `medseg serve --models`; clients cannot change them"


def _routes(kind: Kind, *lines: str, upload: bool = False, remedy: str = "") -> list[Route]:
    """Routes of lines such as "GET,HEAD /datastore/image"."""
    split = [line.split(" ") for line in lines]
    return [Route(frozenset(methods.split(",")), pattern, kind, upload, remedy) for methods, pattern in split]


ROUTES = (
    *_routes(Kind.PAGE, "GET,HEAD /", "GET,HEAD /docs", "GET,HEAD /favicon.ico"),
    *_routes(Kind.PAGE, "GET,HEAD /ohif", "GET,HEAD /ohif/{**}", "GET,HEAD /static/{**}"),
    *_routes(Kind.LOGIN, "GET /auth", "POST /auth/token"),
    *_routes(Kind.API, "GET /auth/token/valid", "GET /openapi.json", "GET /info"),
    *_routes(Kind.API, "GET /model/{}", "GET /model/info/{}"),
    *_routes(Kind.API, "POST /infer/{}", upload=True),
    *_routes(Kind.API, "GET,DELETE /batch/infer", "POST /batch/infer/{}"),
    *_routes(Kind.API, "GET,POST,DELETE /train", "POST /train/{}"),
    *_routes(Kind.API, "GET,POST,DELETE /scoring", "POST /scoring/{}", "POST /activelearning/{}"),
    *_routes(Kind.API, "GET /datastore", "GET /datastore/dataset", "PUT /datastore/updatelabelinfo"),
    *_routes(Kind.API, "GET,HEAD /datastore/image", "GET,PUT /datastore/image/info"),
    *_routes(Kind.API, "GET,HEAD,DELETE /datastore/label", "GET,PUT /datastore/label/info"),
    *_routes(Kind.API, "PUT /datastore", "PUT /datastore/image", "PUT /datastore/label", upload=True),
    *_routes(Kind.API, "GET,DELETE /session/{}"),
    *_routes(Kind.API, "PUT /session", upload=True),
    *_routes(Kind.API, "GET /proxy/dicom/{dicom}", "GET /proxy/dicom/wado/{dicom}", "GET /proxy/dicom/qido/{dicom}"),
    *_routes(Kind.API, "POST /proxy/dicom/{store}", "POST /proxy/dicom/wado/{store}", upload=True),
    *_routes(Kind.API, "POST /proxy/dicom/stow/{store}", upload=True),
    *_routes(Kind.REFUSED, "PUT,DELETE /model/{}", remedy=MODELS),
    *_routes(Kind.REFUSED, "POST /reload", remedy="stop the server and start it again"),
    *_routes(Kind.REFUSED, "GET /logs", "GET /logs/gpu", remedy="read app/logs/app.log in the server's --work folder"),
    *_routes(Kind.REFUSED, "DELETE /datastore", "DELETE /datastore/image", remedy=DELETED),
    *_routes(Kind.REFUSED, "GET /proxy/dicom/stow/{dicom}", "POST /proxy/dicom/qido/{store}", remedy=ARCHIVE),
    *_routes(Kind.REFUSED, "POST /infer/wsi/{}", "POST /infer/wsi_v2/{}", remedy="no model here is for whole slides"),
)


def find(method: str, path: str) -> Route | None:
    """The line of the table for a request; None where there is none."""
    shorter = path.removesuffix("/")
    for route in ROUTES:
        if method in route.methods and _compiled(route.pattern).fullmatch(shorter):
            return route
    return None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[a-z*]*\})", pattern.removesuffix("/"))
    return re.compile("".join(PLACES.get(part) or re.escape(part) for part in parts))
