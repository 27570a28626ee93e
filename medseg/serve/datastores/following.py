"""A list of studies that follows its folder as long as the server runs.

MONAI Label changes its list in the thread that watches the folder and in those of the requests, and an error in the
first, such as a folder that is removed while it is listed, ends the watch without a word.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from monailabel.datastore.local import LocalDatastore

logger = logging.getLogger(__name__)
LOOKS = (0.0, 0.1, 0.5, 2.0)
"""Seconds to wait before each look at a folder that changes while it is looked at."""


class FollowedFolder(LocalDatastore):
    """A folder of studies. One thread at a time changes its list; a reader sees the list of before or of after."""

    _changing: ClassVar[Any] = threading.RLock()  # a server has one store
    _datastore: Any
    _config_ts: Any
    _ignore_event_config: Any

    def watch(self) -> None:
        """Let the thread that watches the folder call this class, where another one was made and became this one."""
        self._handler.on_created = self._handler.on_deleted = self._on_any_event
        self._handler.on_modified = self._on_modify_event

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Copy a label to its place and list it."""
        with self._changing:
            return super().save_label(image_id, label_filename, label_tag, label_info)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy an image to its place and list it."""
        with self._changing:
            return super().add_image(image_id, image_filename, image_info)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Keep what is known of a study."""
        with self._changing:
            super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Keep what is known of a label."""
        with self._changing:
            super().update_label_info(label_id, label_tag, info)

    def _reconcile_datastore(self) -> None:
        """Make the list anew from the folder, and put it in the place of the old one once it is whole."""
        with self._changing:
            fresh = copy.copy(self)
            fresh._datastore = copy.deepcopy(self._datastore)
            LocalDatastore._reconcile_datastore(fresh)
            self._datastore = fresh._datastore
            self._config_ts = fresh._config_ts
            self._ignore_event_config = fresh._ignore_event_config

    def _on_any_event(self, event: Any) -> None:
        """A file came or went."""
        self._follow(super()._on_any_event, event)

    def _on_modify_event(self, event: Any) -> None:
        """The list was changed by another process, such as one that predicts all studies."""
        self._follow(super()._on_modify_event, event)

    def _follow(self, notice: Callable[[Any], None], event: Any) -> None:
        """Look again where the folder changed meanwhile; no error may end the watch, so that each goes to the log."""
        problem: Exception | None = None
        for wait in LOOKS:
            time.sleep(wait)
            try:
                with self._changing:
                    notice(event)
                return
            except Exception as error:
                problem = error
        logger.error("the list of studies was not renewed: %s; the next change of the folder renews it", problem)
