"""Putting results in place, where commands that run at the same time may want the same names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.errors import DataError
from medseg.portable.io.record import image_of
from medseg.portable.io.write import temporary
from medseg.workflows.predict.formats import recorded


class Place:
    """The files of one case: written aside, and put in place unless another image's result came there meanwhile.

    Args:
        targets: the files.
        record: what they will say of how they were made.
    """

    def __init__(self, targets: Iterable[Path], record: str) -> None:
        self.image = image_of(record)
        self.before = {path: recorded(path) for path in targets if path.exists()}

    @contextmanager
    def aside(self, path: Path) -> Iterator[Path]:
        """A file to write, of the same name in a hidden folder beside `path`, that then takes its place.

        Raises:
            DataError: another image's result is there by now.
            OSError: the place is full, read-only or gone.
        """
        with temporary(path, "aside") as folder:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                yield folder / path.name
                self._put(folder / path.name, path)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _put(self, new: Path, path: Path) -> None:
        """As a second name, which is refused where a file is, and not by a look beforehand."""
        if path not in self.before:
            try:
                os.link(new, path)
                return
            except FileExistsError:
                pass
            except OSError:  # a disk without second names
                if not path.exists():
                    new.replace(path)
                    return
        there = recorded(path)
        unchanged = path in self.before and there == self.before[path]
        if not unchanged and image_of(there) != self.image:
            what = "was written meanwhile by another command, of another image"
            raise DataError(what, path=path, hint="choose another --output")
        new.replace(path)
