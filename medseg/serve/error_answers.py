"""What goes wrong in a server reaches the client as JSON that says what to do."""

from __future__ import annotations

import errno
import json
import logging

from fastapi import HTTPException
from monailabel.interfaces.exception import MONAILabelException
from requests import RequestException

from medseg.errors import MedsegError, OutputError

logger = logging.getLogger(__name__)


def as_http(error: Exception) -> HTTPException:
    """The answer to a request that failed.

    400 the client can mend it, 404 it is not there, 502 the DICOMweb server is to blame, 507 a full disk, 500 the rest.
    """
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, OutputError):
        return HTTPException(507, str(error))
    if isinstance(error, MedsegError):
        return HTTPException(400, str(error))
    if isinstance(error, MONAILabelException):
        message = str(error.msg)
        return HTTPException(404 if "not found" in message.lower() else 400, message)
    if isinstance(error, FileNotFoundError):
        return HTTPException(404, f"{error.filename}: is gone; ask for the list of studies again")
    if isinstance(error, RequestException):  # is an OSError too
        return HTTPException(
            502, f"the server of the studies does not answer as it should ({_words(error)}); see to it"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HTTPException(507, f"{error.filename or 'a file'}: cannot be written, the disk is full; make room")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return HTTPException(400, "a name is too long for a file; choose a shorter one")
    if isinstance(error, json.JSONDecodeError):
        return HTTPException(400, f"a parameter is no JSON ({error})")
    logger.error("request failed", exc_info=error)
    return HTTPException(
        500, f"{type(error).__name__}: {_words(error)}; what led to it is in the server's log, logs/app.log"
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or "no words"
