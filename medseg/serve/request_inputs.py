"""What clients give to MONAI Label's endpoints, looked at before these make paths of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import HTTPException
from fastapi.background import BackgroundTasks
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import remove_file
from starlette.datastructures import UploadFile

from medseg.portable.io.read import SUFFIXES
from medseg.serve.datastores.local import has_label, has_study

SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LONGEST = 150
"""Bytes of a file's name; MONAI Label puts its own characters before it, and 255 are possible."""
FORMS = ("params", "info")
UPLOADS: ContextVar[BackgroundTasks | None] = ContextVar("UPLOADS", default=None)
"""The tasks of a request that remove its uploads: nothing else tells which files MONAI Label has stored."""


def check(endpoint: str, given: Mapping[str, Any]) -> None:
    """Refuse what names no study, label or session that there is, and names of files that are none.

    Args:
        endpoint: name of MONAI Label's function.
        given: its arguments.

    Raises:
        HTTPException: 400, 403 or 404.
    """
    if given.get("uncompress"):
        raise HTTPException(403, "archives are not unpacked here; send the volume itself, such as a .nii.gz")
    for name in FORMS:
        _check_form(name, given.get(name))
    for name in ("file", "label", "files"):
        uploads = given.get(name)
        for upload in uploads if isinstance(uploads, list) else [uploads]:
            if isinstance(upload, UploadFile):
                _check_upload(upload, name)
    if endpoint in MODEL and given.get("model"):
        _check_model(str(given["model"]), MODEL[endpoint])
    if given.get("session_id"):
        _check_session(str(given["session_id"]))
    if endpoint in STUDY:
        _check_study(str(given["image"]))
    elif endpoint in LABEL:
        _check_label(str(given[LABEL[endpoint]]), str(given["tag"]))


STUDY = ("api_check_image", "api_download_image", "api_get_image_info", "api_put_image_info")
LABEL = {
    "api_check_label": "image",
    "api_download_label": "label",
    "api_remove_label": "id",
    "api_get_label_info": "label",
    "api_put_label_info": "label",
    "api_update_label_info": "label",
}
"""Endpoints for a label that there must be, and the argument that names its study."""
MODEL = {"api_run": "_infers", "api_run_model": "_trainers"}
"""Endpoints of tasks in the background, where nobody would be told of an unknown model, and the list of the models."""


def uploaded_files() -> set[str]:
    """Files that this request has brought."""
    tasks = UPLOADS.get()
    return {str(task.args[0]) for task in tasks.tasks if task.func is remove_file} if tasks else set()


def session_image(app: MONAILabelApp, session: str) -> Path | None:
    """The image of a session; None where there is no such session."""
    if app.sessions() is None or not SESSION.fullmatch(session):
        return None
    found = app.sessions().get_session(session)
    return Path(found.image) if found else None


def _check_form(name: str, text: Any) -> None:
    """Refuse options in a form that are no JSON object, which MONAI Label takes them for."""
    if isinstance(text, str) and text:
        try:
            fits = isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            fits = False
        if not fits:
            raise HTTPException(400, f'{name} is no JSON object ({text[:100]!r}); give {{"name": value}}')


def _check_upload(upload: UploadFile, field: str) -> None:
    """Leave of a file's name what is a name, and refuse files that are no volumes. Clients send whole paths, too."""
    name = PurePosixPath((upload.filename or "").replace("\\", "/")).name
    if upload.filename and (name in ("", "..") or not name.isprintable() or len(name.encode()) > LONGEST):
        raise HTTPException(400, f"the file name {upload.filename[:200]!r} is none; send it under another one")
    if name and field != "label" and not name.lower().endswith(SUFFIXES):  # labels are looked at when they are saved
        raise HTTPException(400, f"{name!r} is no {', '.join(SUFFIXES)}; save it in one of these formats")
    upload.filename = name or None


def _check_session(session: str) -> None:
    if session_image(app_instance(), session) is None:
        raise HTTPException(404, f"there is no session {session[:100]!r}; it may have expired, send the image again")


def _check_model(model: str, listed: str) -> None:
    there = getattr(app_instance(), listed)
    if model not in there:
        what = "can be trained" if listed == "_trainers" else "is served"
        raise HTTPException(400, f"no model {model[:100]!r} {what}; there are {', '.join(there) or 'none'}")


def _check_study(study: str) -> None:
    if not has_study(app_instance().datastore(), study):
        raise HTTPException(404, f"there is no study {study[:100]!r}; ask for the list of studies again")


def _check_label(study: str, tag: str) -> None:
    if not has_label(app_instance().datastore(), study, tag):
        raise HTTPException(404, f"there is no label of study {study[:100]!r} with the tag {tag[:100]!r}")
