"""What goes wrong in a server reaches the client as JSON that says what to do."""

from __future__ import annotations

import json
import logging

from fastapi import HTTPException
from monailabel.interfaces.exception import MONAILabelException

from medseg.errors import MedsegError, OutputError

logger = logging.getLogger(__name__)


def as_http(error: Exception) -> HTTPException:
    """The answer to a request that failed: 400 what the client can mend, 404 what is not there, 500 the rest."""
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
    if isinstance(error, json.JSONDecodeError):
        return HTTPException(400, f"a parameter is no JSON ({error})")
    words = " ".join(str(error).split())[:300] or "no words"
    logger.error("request failed", exc_info=error)
    return HTTPException(500, f"{type(error).__name__}: {words}; what led to it is in the server's log, logs/app.log")
